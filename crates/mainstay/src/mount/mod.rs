//! A view in the file system: what the kernel asks is asked of `repository::view`, and mounted so
//! that nothing stays when this process is gone.

mod filesystem;
mod guard;
mod mounts;
mod session;

pub(crate) use guard::guard;
pub(crate) use session::{Options, Session};
