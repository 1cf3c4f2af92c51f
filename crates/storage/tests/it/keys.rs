//! What is a key and what is not.

use mainstay_storage::Key;
use proptest::prelude::*;

#[test]
fn hostile_keys_are_refused() {
    let long_part = "x".repeat(256);
    let long = "x/".repeat(256) + "x";
    for bad in [
        "",
        "/",
        ".",
        "..",
        "a/",
        "/a",
        "a//b",
        "a/./b",
        "a/../b",
        "../a",
        "a/..",
        "a b",
        "a\0b",
        "a\nb",
        "a\\b",
        "ä",
        "a:b",
        "a*b",
        "~",
        "a/~x",
        "$HOME",
        "%2e%2e",
        ".mainstay-tmp-1",
        "data/.mainstay-tmp-00",
        "data/.mainstay-tmp-00/x",
        &long_part,
        &long,
    ] {
        assert!(Key::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn plain_keys_pass() {
    let part = "x".repeat(255);
    for good in ["config", "data/1a/1a2b", "a.b", ".hidden", "...", "a+b=c@d", "-x", &part] {
        let key = Key::new(good).unwrap();
        assert_eq!(key.as_str(), good);
    }
    assert_eq!(Key::new("data/1a/1a2b").unwrap().name(), "1a2b");
    assert_eq!(Key::new("config").unwrap().name(), "config");
}

proptest! {
    /// Joined to a root, a key stays below it, whatever it is made of.
    #[test]
    fn a_key_never_leaves_its_root(text in "[a./\\-]{0,12}|\\PC{0,12}") {
        if let Ok(key) = Key::new(text) {
            let path = std::path::Path::new("/root/of/it").join(key.as_str());
            let plain = path.components().all(|c| matches!(
                c, std::path::Component::Normal(_) | std::path::Component::RootDir
            ));
            prop_assert!(plain && path.starts_with("/root/of/it") && path.components().count() > 4);
            prop_assert_eq!(path.to_str().unwrap(), format!("/root/of/it/{key}"));
        }
    }
}
