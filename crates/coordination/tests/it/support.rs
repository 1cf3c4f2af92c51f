//! What the tests share.

use jiff::Timestamp;
use mainstay_coordination::{Register, StateStore};
use model::state::Refusal;
use model::{MemberName, Role, Seal, SealError, ServiceName, ServiceState};
use std::sync::Arc;
use storage::{Key, Storage};

pub(crate) const REPOSITORY: &str = "5f8e7b";

/// Authenticates with a checksum and a key number: enough to tell damage and foreign keys, and
/// readable when a test fails.
pub(crate) struct ToySeal(pub(crate) u8);

impl ToySeal {
    fn sum(&self, bytes: &[u8]) -> [u8; 8] {
        let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ u64::from(self.0);
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        hash.to_be_bytes()
    }
}

impl Seal for ToySeal {
    fn seal(&self, plain: &[u8]) -> Vec<u8> {
        [&self.sum(plain)[..], plain].concat()
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (sum, plain) = sealed.split_at_checked(8).ok_or(SealError)?;
        if sum == self.sum(plain) { Ok(plain.to_vec()) } else { Err(SealError) }
    }
}

pub(crate) fn service() -> ServiceName {
    ServiceName::new("shop").unwrap()
}

pub(crate) fn member(name: &str) -> MemberName {
    MemberName::new(name).unwrap()
}

pub(crate) fn store(storage: Arc<dyn Storage>) -> StateStore {
    StateStore::new(storage, Arc::new(ToySeal(1)), REPOSITORY, service())
}

pub(crate) fn store_on(register: Arc<dyn Register>) -> StateStore {
    StateStore::on(register, Arc::new(ToySeal(1)), REPOSITORY, service())
}

pub(crate) fn key(number: u64) -> Key {
    Key::new(format!("mainstay/state/{number:020}")).unwrap()
}

/// A transition that never is a repetition of another: one more member.
pub(crate) fn join(name: &str) -> impl FnMut(&mut ServiceState) -> Result<Role, Refusal> {
    let name = member(name);
    move |state| state.join(&name, Role::Standby, Timestamp::UNIX_EPOCH)
}
