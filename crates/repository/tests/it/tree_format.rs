//! Trees and nodes as bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use mainstay_repository::{BlobId, Node, NodeKind, Time, Tree, TreeId, Xattr};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Every field as restic 0.14 wrote it (`restic cat blob`), with the offset of another time zone.
const RESTIC: &str = concat!(
    r#"{"nodes":[{"name":"a\u003c\u0026\u003eb","type":"file","mode":420,"#,
    r#""mtime":"2026-11-21T03:33:32.62430713+02:00","atime":"2026-11-21T03:33:32.62430713+02:00","#,
    r#""ctime":"2026-11-21T01:33:32.637036761Z","uid":0,"gid":0,"user":"root","group":"root","#,
    r#""inode":10019052,"device_id":65024,"size":2,"links":2,"#,
    r#""extended_attributes":[{"name":"user.x","value":"eXk="},{"name":"user.y","value":""}],"#,
    r#""content":["8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"]},"#,
    r#"{"name":"bad\\xff\\x01\\x7f","type":"file","mtime":"1969-12-31T16:00:00.5-08:00","#,
    r#""atime":"0001-01-01T00:00:00Z","ctime":"0001-01-01T00:00:00Z","uid":1,"gid":2,"content":[]},"#,
    r#"{"name":"cdev","type":"chardev","mode":69206436,"mtime":"2026-11-21T01:33:32Z","#,
    r#""atime":"2026-11-21T01:33:32Z","ctime":"2026-11-21T01:33:32Z","uid":0,"gid":0,"#,
    r#""links":1,"device":259,"content":null},"#,
    r#"{"name":"d","type":"dir","mode":2147484141,"mtime":"2026-11-21T01:33:32Z","#,
    r#""atime":"2026-11-21T01:33:32Z","ctime":"2026-11-21T01:33:32Z","uid":0,"gid":0,"#,
    r#""generic_attributes":{"a.b":{"x":[1,2.50]},"windows.creation_time":"AAE="},"#,
    r#""content":null,"subtree":"8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"},"#,
    r#"{"name":"l","type":"symlink","mode":134218239,"mtime":"2026-11-21T01:33:32Z","#,
    r#""atime":"2026-11-21T01:33:32Z","ctime":"2026-11-21T01:33:32Z","uid":0,"gid":0,"links":1,"#,
    r#""linktarget":"t\ufffd","linktarget_raw":"dP4=","content":null,"error":"x"},"#,
    r#"{"name":"z","type":"door","mtime":"2026-11-21T01:33:32Z","atime":"2026-11-21T01:33:32Z","#,
    r#""ctime":"2026-11-21T01:33:32Z","uid":0,"gid":0,"content":null,"later":{"a":1e9,"b":["\""]}}]}"#,
    "\n"
);

#[test]
fn a_tree_of_restic_is_read_and_written_back_to_the_same_bytes() {
    let tree = Tree::decode(RESTIC.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(tree.encode().unwrap()).unwrap(), RESTIC);

    let file = tree.get(b"a<&>b").unwrap();
    assert_eq!((file.kind, file.size, file.links), (NodeKind::File, 2, 2));
    assert_eq!(file.permissions(), 0o644);
    assert_eq!(file.mtime, Time { seconds: 1795224812, nanos: 624307130, offset_seconds: 7200 });
    assert_eq!(file.xattrs[0], Xattr { name: "user.x".into(), value: b"yy".to_vec() });
    let odd = tree.get(b"bad\xff\x01\x7f").unwrap();
    assert_eq!((odd.mtime.seconds, odd.mtime.nanos), (0, 500_000_000));
    assert_eq!(odd.content, Vec::<BlobId>::new());
    assert_eq!(tree.get(b"l").unwrap().link_target, b"t\xfe");
    assert_eq!(tree.get(b"z").unwrap().kind, NodeKind::Irregular);
    assert_eq!(tree.get(b"cdev").unwrap().device, 259);
    assert!(tree.get(b"none").is_none());
}

/// Names beside what restic 0.14 makes of them in JSON.
const QUOTED: [(&[u8], &str); 6] = [
    (b"new\nline", r"new\\nline"),
    (b"q\"u\\o", r#"q\\\"u\\\\o"#),
    ("u\u{2028}\u{2029}é\u{200b}😀\u{fffd}".as_bytes(), "u\\\\u2028\\\\u2029é\\\\u200b😀\u{fffd}"),
    ("\u{e0000}e\u{301}\u{301}".as_bytes(), "\\\\U000e0000e\u{301}\u{301}"),
    (b"bell\x07\x08\x0b\x0c\r\t\x1b", r"bell\\a\\b\\v\\f\\r\\t\\x1b"),
    (b"\xe2\x82A\xf0\x90\xc3\xa9", r"\\xe2\\x82A\\xf0\\x90é"),
];

#[test]
fn names_are_quoted_as_go_quotes_them() {
    for (name, quoted) in QUOTED {
        let bytes = Tree { nodes: vec![Node::new(name, 0o100644)] }.encode().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with(&format!("{{\"nodes\":[{{\"name\":\"{quoted}\",")), "{text}");
    }
}

fn tree_with_name(json: &str) -> Result<Tree, mainstay_repository::Error> {
    let node = r#""type":"file","mtime":"2026-11-21T01:33:32Z","uid":0,"gid":0,"content":[]}]}"#;
    Tree::decode(format!("{{\"nodes\":[{{\"name\":\"{json}\",{node}").as_bytes())
}

#[test]
fn every_escape_that_go_knows_is_read() {
    let tree = tree_with_name(r#"\\a\\b\\f\\n\\r\\t\\v\\\\\\\"\\x41\\101\\u00e9\\U0001F600\\377é"#)
        .unwrap();
    let expected = [b"\x07\x08\x0c\n\r\t\x0b\\\"AA".as_slice(), "é😀".as_bytes(), b"\xff\xc3\xa9"];
    assert_eq!(tree.nodes[0].name, expected.concat());
}

#[test]
fn names_that_could_leave_their_directory_or_are_no_names_are_refused() {
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "/",
        "../x",
        r"\\x2e\\x2e",
        r"a\\057b",
        r"a\\x00",
        r"a\u0000",
        r"\\q",
        r"\\",
        r"\\x4",
        r"\\ud800",
        r"\\U00110000",
        r"\\400",
        r"\\'",
        "a\\\"b",
        r"\n",
        r"\\x+1",
        r"\\u+001",
    ] {
        let error = tree_with_name(bad).unwrap_err();
        assert!(matches!(error, mainstay_repository::Error::Damaged { .. }), "{bad}: {error}");
    }
    for bad in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
        assert!(Tree { nodes: vec![Node::new(bad, 0o100644)] }.encode().is_err(), "{bad:?}");
    }
}

#[test]
fn names_out_of_order_or_twice_are_refused_both_ways() {
    let order = |names: &[&[u8]]| Tree {
        nodes: names.iter().map(|name| Node::new(*name, 0o100644)).collect(),
    };
    assert!(order(&[b"a", b"b"]).encode().is_ok());
    assert!(order(&[b"a", b"a"]).encode().is_err());
    // By the unescaped bytes: \xff is after z, and a newline before both.
    assert!(order(&[b"\n", b"z", b"\xff"]).encode().is_ok());
    assert!(order(&[b"\xff", b"z"]).encode().is_err());

    let json = String::from_utf8(order(&[b"a", b"b"]).encode().unwrap()).unwrap();
    assert!(Tree::decode(json.as_bytes()).is_ok());
    for name in ["b", "c"] {
        let json = json.replace("\"name\":\"a\"", &format!("\"name\":\"{name}\""));
        assert!(Tree::decode(json.as_bytes()).is_err());
    }
}

#[test]
fn damaged_trees_are_errors() {
    for cut in 0..RESTIC.len() - 1 {
        if let Some(part) = RESTIC.get(..cut) {
            assert!(Tree::decode(part.as_bytes()).is_err(), "cut at {cut}");
        }
    }
    for (from, to) in [
        (r#""mode":420"#, r#""mode":-1"#),
        (r#""mode":420"#, r#""mode":4294967296"#),
        ("2026-11-21T03", "2026-11-31T03"),
        ("2026-11-21T03", "2026-11-21T24"),
        (".62430713+02:00", "."),
        ("+02:00", "+2:00"),
        ("eXk=", "eXk"),
        ("8f434346648f6b96", "8f434346648f6b9"),
        (r#","subtree":"8f"#, r#","subtreee":"8f"#),
    ] {
        let json = RESTIC.replacen(from, to, 1);
        assert_ne!(json, RESTIC);
        assert!(Tree::decode(json.as_bytes()).is_err(), "{from} -> {to}");
    }
}

#[test]
fn a_tree_without_nodes_is_an_empty_directory() {
    assert_eq!(Tree::default().encode().unwrap(), b"{\"nodes\":[]}\n");
    assert_eq!(Tree::decode(b"{\"nodes\":null,\"later\":1}").unwrap(), Tree::default());
    assert!(Tree::decode(b"{}").is_err());
}

#[test]
fn modes_become_go_modes_and_come_back() {
    for (st_mode, kind, go) in [
        (0o100644, NodeKind::File, 0o644),
        (0o104755, NodeKind::File, 1 << 23 | 0o755),
        (0o102755, NodeKind::File, 1 << 22 | 0o755),
        (0o041777, NodeKind::Dir, 1 << 31 | 1 << 20 | 0o777),
        (0o120777, NodeKind::Symlink, 1 << 27 | 0o777),
        (0o060660, NodeKind::Dev, 1 << 26 | 0o660),
        (0o020666, NodeKind::CharDev, 1 << 26 | 1 << 21 | 0o666),
        (0o010600, NodeKind::Fifo, 1 << 25 | 0o600),
        (0o140755, NodeKind::Socket, 1 << 24 | 0o755),
    ] {
        let node = Node::new("x", st_mode);
        assert_eq!((node.kind, node.mode), (kind, go), "{st_mode:o}");
        assert_eq!(node.permissions(), st_mode & 0o7777);
    }
}

#[test]
fn times_beyond_what_the_format_holds_are_cut_to_it() {
    let mut node = Node::new("x", 0o100644);
    for (seconds, text) in [
        (253_402_300_800, "9999-12-31T23:59:59Z"),
        (i64::from(u32::MAX) * 1000, "9999-12-31T23:59:59Z"),
        (-62_167_219_201, "0000-01-01T00:00:00Z"),
        (-62_167_219_200, "0000-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (i64::MAX, "9999-12-31T23:59:59Z"),
        (i64::MIN, "0000-01-01T00:00:00Z"),
    ] {
        node.mtime = Time::utc(seconds, 0);
        let bytes = Tree { nodes: vec![node.clone()] }.encode().unwrap();
        let json = String::from_utf8(bytes.clone()).unwrap();
        assert!(json.contains(&format!("\"mtime\":\"{text}")), "{seconds}: {json}");
        Tree::decode(&bytes).unwrap();
    }
}

/// What is found on most disks, which both ways of reading must take alike.
fn plain_tree() -> Tree {
    let mut file = Node::new("file é", 0o100_644);
    (file.size, file.links, file.inode) = (9, 1, 77);
    (file.user, file.group) = ("root".to_owned(), "wheel".to_owned());
    file.mtime = Time { seconds: 1_700_000_000, nanos: 120_000_000, offset_seconds: 7200 };
    file.content = vec![BlobId([1; 32]), BlobId([0xfe; 32])];
    file.xattrs = vec![
        Xattr { name: "security.selinux".to_owned(), value: b"object\0".to_vec() },
        Xattr { name: "user.empty".to_owned(), value: Vec::new() },
    ];
    let mut dir = Node::new("a", 0o040_755);
    dir.subtree = Some(TreeId([7; 32]));
    let mut link = Node::new("link", 0o120_777);
    link.link_target = b"../there".to_vec();
    let mut device = Node::new("tty", 0o020_666);
    device.device = 0x0501;
    Tree { nodes: vec![dir, Node::new("empty", 0o100_600), file, link, device] }
}

#[test]
fn plain_trees_are_read_the_short_way() {
    for tree in [plain_tree(), Tree::default()] {
        let bytes = tree.encode().unwrap();
        let (short, long) = Tree::decode_both_ways(&bytes);
        assert_eq!(short.as_ref(), Some(&tree));
        assert_eq!(long.unwrap(), tree);
    }
    // What has escapes, or is of a later version, is read the long way, and read all the same.
    let node = |name: &str| Node::new(name, 0o100_644);
    let mut later = node("x");
    later.other = vec![("later".to_owned(), "1".to_owned())];
    for node in [node("tab\t"), node("quote\""), later] {
        let tree = Tree { nodes: vec![node] };
        let bytes = tree.encode().unwrap();
        assert_eq!(Tree::decode_both_ways(&bytes).0, None);
        assert_eq!(Tree::decode(&bytes).unwrap(), tree);
    }
}

/// Bytes that mean something in JSON, or are out of place there.
const TELLING: &[u8] = b"\",:{}[]0123456789aeEnul\\ -.Z+\n\x00\xff";

proptest! {
    /// A tree that is a few bytes off is never read in two ways.
    #[test]
    fn both_ways_of_reading_agree(
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::sample::select(TELLING)),
            0..4,
        ),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = plain_tree().encode().unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.remove(cut.index(bytes.len()));
        }
        if let (Some(short), long) = Tree::decode_both_ways(&bytes) {
            prop_assert_eq!(short, long.unwrap());
        }
    }

    #[test]
    fn any_name_survives(name in prop::collection::vec(1..=255u8, 1..40)) {
        prop_assume!(!name.contains(&b'/') && name != b"." && name != b"..");
        let tree = Tree { nodes: vec![Node::new(name, 0o100644)] };
        prop_assert_eq!(Tree::decode(&tree.encode().unwrap()).unwrap(), tree);
    }

    #[test]
    fn any_text_survives_as_a_name(name in "[^/\0]{1,20}") {
        prop_assume!(name != "." && name != "..");
        let tree = Tree { nodes: vec![Node::new(name, 0o100644)] };
        prop_assert_eq!(Tree::decode(&tree.encode().unwrap()).unwrap(), tree);
    }

    #[test]
    fn any_node_survives(
        (seconds, nanos, offset) in (-62_167_000_000i64..253_402_000_000, 0..1_000_000_000u32, -1439..1440),
        numbers in any::<[u64; 5]>(),
        owner in any::<(u32, u32, String, String)>(),
        st_mode in 0..0o200000u32,
        target in prop::collection::vec(any::<u8>(), 0..30),
        attributes in any::<Vec<(String, Vec<u8>)>>(),
        content in any::<Vec<[u8; 32]>>(),
        subtree in any::<[u8; 32]>(),
        error in any::<String>(),
    ) {
        let mut node = Node::new("x", st_mode);
        node.mtime = Time { seconds, nanos, offset_seconds: offset * 60 };
        (node.uid, node.gid, node.user, node.group) = owner;
        [node.inode, node.device_id, node.size, node.links, node.device] = numbers;
        node.link_target = target;
        node.xattrs = attributes.into_iter().map(|(name, value)| Xattr { name, value }).collect();
        node.generic_attributes = BTreeMap::from([("a".to_owned(), "{\"b\":1}".to_owned())]);
        node.content = content.into_iter().map(BlobId).collect();
        node.subtree = Some(TreeId(subtree));
        node.error = error;
        node.other = vec![("later".to_owned(), "[1,\"x y\"]".to_owned())];
        let tree = Tree { nodes: vec![node] };
        prop_assert_eq!(Tree::decode(&tree.encode().unwrap()).unwrap(), tree);
    }

    #[test]
    fn any_instant_is_written_as_the_calendar_has_it(seconds in -62_167_219_200i64..253_402_207_200) {
        let mut node = Node::new("x", 0o100644);
        node.mtime = Time { seconds, nanos: 0, offset_seconds: 0 };
        let json = String::from_utf8(Tree { nodes: vec![node] }.encode().unwrap()).unwrap();
        let expected = jiff::Timestamp::from_second(seconds).unwrap();
        prop_assert!(json.contains(&format!("\"mtime\":\"{expected}\"")), "{} in {}", expected, json);
    }
}
