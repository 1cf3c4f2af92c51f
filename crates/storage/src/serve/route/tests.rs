//! Any head of a request, and what may come of it.

#![allow(clippy::unwrap_used)]

use super::*;
use hyper::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

fn headers(list: &[(&str, &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
    }
    map
}

fn ask(method: &str, uri: &str, ours: bool) -> Result<Verb, u16> {
    let list: &[(&str, &[u8])] = if ours { &[(PROTOCOL, b"1")] } else { &[] };
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    route(&method, &uri.parse().unwrap(), &headers(list))
        .map(|request| request.verb)
        .map_err(|refusal| refusal.status.as_u16())
}

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[test]
fn restic_names_files_by_their_kind() {
    for repository in ["", "shop/", "hosts/a/shop/", "data/"] {
        for kind in Kind::ALL {
            let stored = match kind {
                Kind::Data => format!("{repository}data/01/{ID}"),
                _ => format!("{repository}{}/{ID}", kind.name()),
            };
            let path = format!("/{repository}{}/{ID}", kind.name());
            assert_eq!(ask("HEAD", &path, false), Ok(Verb::Head(key(&stored))));
            assert_eq!(ask("DELETE", &path, false), Ok(Verb::Delete(key(&stored))));
            // And back.
            let stored = key(&stored);
            let file = protocol::File::of(&stored).unwrap();
            assert_eq!(format!("/{}", file.restic_path()), path);
            assert_eq!(file.digest(), Some(ID));
            let list = ask("GET", &format!("/{repository}{}/", kind.name()), false).unwrap();
            let prefix = repository.trim_end_matches('/').to_owned();
            assert_eq!(list, Verb::ListKind { prefix, kind, with_sizes: false });
        }
        let config = key(&format!("{repository}config"));
        assert_eq!(ask("GET", &format!("/{config}"), false), Ok(Verb::Get(config, None)));
    }
}

#[test]
fn what_is_no_file_of_a_repository_is_none_in_restics_dialect() {
    let upper = ID.to_uppercase();
    for path in [
        "/".to_owned(),
        "/shop".to_owned(),
        "/shop/".to_owned(),
        "/shop/state".to_owned(),
        "/shop/mainstay/state/00000000000000000001".to_owned(),
        format!("/shop/data/01/{ID}"),
        format!("/shop/data/{upper}"),
        format!("/shop/data/{}", &ID[1..]),
        format!("/shop/other/{ID}"),
        format!("/{ID}"),
    ] {
        assert_eq!(ask("GET", &path, false), Err(404), "{path}");
    }
    assert_eq!(ask("POST", "/shop/?create=true", false).unwrap().place(), "shop");
    assert_eq!(ask("DELETE", "/shop/", false), Err(403));
    assert_eq!(ask("PUT", "/shop/config", false), Err(405));
    assert_eq!(ask("OPTIONS", "/", false), Err(405));
}

#[test]
fn a_path_is_a_key_or_refused() {
    for path in [
        "/..",
        "/../x",
        "/a/../b",
        "/a/./b",
        "//a",
        "/a//b",
        "/a//",
        "/%2e%2e/x",
        "/a%2fb",
        "/a%00b",
        "/%",
        "/a%20b",
        "/.mainstay-tmp-1",
        "/a/.mainstay-tmp-1/b",
        "/a~b",
        "/a;b",
        "/a:b",
        "*",
        "/a\\b",
        "/ä",
    ] {
        let Ok(uri) = path.parse::<Uri>() else { continue };
        for (method, ours) in [("GET", true), ("PUT", true), ("GET", false), ("POST", false)] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let list: &[(&str, &[u8])] = if ours { &[(PROTOCOL, b"1")] } else { &[] };
            let refusal = route(&method, &uri, &headers(list)).unwrap_err();
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST, "{path}: {refusal:?}");
        }
    }
}

#[test]
fn ranges_are_cut_to_the_object() {
    let within = |text: &str, size: u64| {
        range(&headers(&[("range", text.as_bytes())])).map(|range| range.within(size))
    };
    assert_eq!(within("bytes=0-0", 10), Some(Some((0, 1))));
    assert_eq!(within("bytes=3-6", 10), Some(Some((3, 4))));
    assert_eq!(within("bytes=3-600", 10), Some(Some((3, 7))));
    assert_eq!(within("bytes=9-", 10), Some(Some((9, 1))));
    assert_eq!(within("bytes=-4", 10), Some(Some((6, 4))));
    assert_eq!(within("bytes=-40", 10), Some(Some((0, 10))));
    assert_eq!(within("bytes=10-", 10), Some(None));
    assert_eq!(within("bytes=0-", 0), Some(None));
    assert_eq!(within("bytes=-0", 10), Some(None));
    assert_eq!(within("bytes=0-18446744073709551615", 10), Some(Some((0, 10))));
    for none in ["bytes=5-2", "bytes=0-1,3-4", "bytes=", "bytes=-", "lines=0-1", "bytes=+1-2"] {
        assert_eq!(within(none, 10), None, "{none}");
    }
    assert_eq!(within("bytes=0-99999999999999999999", 10), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_request_is_understood_or_refused(
        method in prop_oneof![
            Just("GET".to_owned()), Just("HEAD".to_owned()), Just("PUT".to_owned()),
            Just("POST".to_owned()), Just("DELETE".to_owned()), Just("OPTIONS".to_owned()),
            "[A-Z]{1,12}",
        ],
        path in prop_oneof![
            "/[ -~]{0,60}",
            "(/(data|index|keys|locks|snapshots|config|a|\\.\\.|\\.|[0-9a-f]{64}|%2e|%2F|%00)){0,6}/?",
        ],
        query in proptest::option::of("[ -~]{0,12}"),
        version in proptest::option::of(prop_oneof![Just(b"1".to_vec()), any::<Vec<u8>>()]),
        range_text in proptest::option::of(prop_oneof![
            "bytes=[0-9]{0,22}-[0-9]{0,22}".prop_map(String::into_bytes), any::<Vec<u8>>(),
        ]),
        others in any::<Vec<u8>>(),
    ) {
        let text = query.map_or(path.clone(), |query| format!("{path}?{query}"));
        let Ok(uri) = text.parse::<Uri>() else { return Ok(()) };
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut list: Vec<(&str, &[u8])> = Vec::new();
        if let Some(version) = &version {
            list.push((PROTOCOL, version));
        }
        if let Some(range_text) = &range_text {
            list.push(("range", range_text));
        }
        for name in [SHA256, "if-none-match", "accept", "authorization"] {
            list.push((name, &others));
        }
        match route(&method, &uri, &headers(&list)) {
            Ok(request) => {
                let place = request.verb.place();
                prop_assert!(place.is_empty() || Key::new(place).is_ok(), "{:?}", request);
                prop_assert!(!place.split('/').any(|part| part == ".." || part == "."));
                // What is named is what was asked for, but for restic's directories of packs.
                if request.ours {
                    prop_assert_eq!(uri.path().trim_matches('/'), place);
                }
                if let Verb::Get(_, Some(range)) = request.verb {
                    for size in [0, 1, 1000, u64::MAX] {
                        if let Some((first, length)) = range.within(size) {
                            prop_assert!(length > 0);
                            prop_assert!(first.checked_add(length).is_some_and(|end| end <= size));
                        }
                    }
                }
            }
            Err(refusal) => {
                prop_assert!(refusal.status.is_client_error());
                prop_assert!(!refusal.reason.is_empty());
            }
        }
    }

    #[test]
    fn any_user_file_and_any_credentials_are_read_or_refused(
        text in prop_oneof!["[ -~\n]{0,200}", "([a-z]{0,4}:(read|append|full|x):[a-z/,.]{0,9}:(sha256\\$)?[0-9a-f]{60,66}\n){0,4}"],
        header in any::<Vec<u8>>(),
    ) {
        if let Ok(users) = crate::serve::parse_users(&text) {
            for user in users {
                // What was read is written as it was meant.
                let again = crate::serve::parse_users(&user.line()).unwrap();
                prop_assert_eq!(again, vec![user]);
            }
        }
        let _ = crate::serve::users::credentials(&header);
    }
}
