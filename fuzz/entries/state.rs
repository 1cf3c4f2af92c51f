//! State objects, rightly sealed and not: another program may be wrong, too.

use mainstay_coordination::StateStore;
use model::{Seal, SealError, ServiceName};
use std::sync::Arc;
use storage::doubles::Memory;
use storage::{Key, Storage};

/// By its name.
pub(crate) type Entry = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const ALL: &[Entry] = &[("state_object", state_object)];

/// One byte before what is sealed: what lies behind the encryption is what is tried.
struct Open;

impl Seal for Open {
    fn seal(&self, plain: &[u8]) -> Vec<u8> {
        [b"s", plain].concat()
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        sealed.strip_prefix(b"s").map(<[u8]>::to_vec).ok_or(SealError)
    }
}

pub(crate) fn state_object(bytes: &[u8]) {
    let Ok(service) = ServiceName::new("shop") else { panic!("a name") };
    for sealed in [bytes.to_vec(), Open.seal(bytes)] {
        let memory = Arc::new(Memory::new());
        let store = StateStore::new(memory.clone(), Arc::new(Open), "5f8e7b", service.clone());
        let Ok(key) = Key::new(format!("mainstay/state/{:020}", 1)) else { panic!("a key") };
        if memory.put(&key, &sealed).is_ok()
            && let Ok(versioned) = store.load()
        {
            assert_eq!((versioned.number, &versioned.state.service), (1, &service));
        }
    }
}
