//! Every parser of what comes over a network: requests to a vault host, who they say
//! they are, its file of users, and the answers of a vault host's and of a bucket's server.

use super::storage::{Key, rest, s3, serve};

/// By its name.
pub(crate) type Entry = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const ALL: &[Entry] = &[
    ("request", request),
    ("users", users),
    ("rest_answer", rest_answer),
    ("bucket_answer", bucket_answer),
];

/// No request is about anything outside of the vault.
pub(crate) fn request(head: &[u8]) {
    if let Some(place) = serve::trial::place(head) {
        assert!(place.is_empty() || Key::new(place.as_str()).is_ok(), "{place:?}");
    }
}

pub(crate) fn users(bytes: &[u8]) {
    let _ = serve::parse_users(&String::from_utf8_lossy(bytes));
    if let Some(name) = serve::trial::user_of(bytes) {
        assert!(!name.contains(':'), "{name:?}");
    }
}

pub(crate) fn bucket_answer(body: &[u8]) {
    assert!(s3::trial::documents(body) <= 3);
}

/// No server makes us believe in objects outside of what it was asked for.
pub(crate) fn rest_answer(body: &[u8]) {
    for prefix in ["", "shop", "shop/mainstay/state"] {
        let [ours, plain] = rest::trial::listed(prefix, body);
        for entry in ours.iter().chain(&plain) {
            let key = entry.key.as_str();
            let rest = key.strip_prefix(prefix);
            assert!(rest.is_some_and(|r| prefix.is_empty() || r.starts_with('/')), "{key:?}");
        }
        assert!(ours.is_sorted());
    }
}
