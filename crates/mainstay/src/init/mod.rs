//! Sets a host up: proposes a configuration where there is none, and makes what it names.

pub(crate) mod discover;
pub(crate) mod make;
pub(crate) mod password;
pub(crate) mod propose;
pub(crate) mod timer;
