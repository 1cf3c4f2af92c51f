//! Reading trees in the form in which restic and we write them: fields in a known order, nothing in
//! between, no escapes. Most trees are of this form, and are read several times as fast as by a
//! reader of any JSON. Whatever is not is left to that one ([`decode`](super::decode)), which also
//! says what is wrong with a tree; both read the same out of everything that this one accepts.

use super::{Node, NodeKind, Tree, Xattr, check_order};
use crate::format::time::Time;
use crate::format::{BlobId, TreeId, id};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The tree, if it has the plain form.
pub(super) fn tree(bytes: &[u8]) -> Option<Tree> {
    let mut from = Reader { rest: std::str::from_utf8(bytes).ok()? };
    from.must("{\"nodes\":[")?;
    let mut nodes: Vec<Node> = Vec::new();
    if !from.take("]") {
        loop {
            let node = from.node()?;
            let last = nodes.last().map_or(&[][..], |last| &last.name);
            check_order(last, &node.name).ok()?;
            nodes.push(node);
            if !from.take(",") {
                from.must("]")?;
                break;
            }
        }
    }
    from.must("}")?;
    from.take("\n");
    from.rest.is_empty().then_some(Tree { nodes })
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// Whether this comes next; then it is behind us.
    fn take(&mut self, next: &str) -> bool {
        let rest = self.rest.strip_prefix(next);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn must(&mut self, next: &str) -> Option<()> {
        self.take(next).then_some(())
    }

    /// The rest of a string without escapes, and the quote behind it.
    fn text(&mut self) -> Option<&'a str> {
        let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
        let end = self.rest.as_bytes().iter().position(special)?;
        let (text, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.strip_prefix('"')?;
        Some(text)
    }

    /// A number as JSON has it: no sign, no zeros in front.
    fn number(&mut self) -> Option<u64> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let (text, rest) = self.rest.split_at_checked(digits)?;
        if digits > 1 && text.starts_with('0') {
            return None;
        }
        self.rest = rest;
        text.parse().ok()
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn time(&mut self) -> Option<Time> {
        self.text()?.parse().ok()
    }

    /// 64 hex digits and the quote behind them.
    fn id(&mut self) -> Option<[u8; 32]> {
        let (digits, rest) = self.rest.split_at_checked(64)?;
        self.rest = rest.strip_prefix('"')?;
        id::from_hex(digits)
    }

    fn node(&mut self) -> Option<Node> {
        self.must("{\"name\":\"")?;
        let mut node = Node { name: self.text()?.as_bytes().to_vec(), ..Node::default() };
        self.must(",\"type\":\"")?;
        let kind = self.text()?;
        node.kind = NodeKind::from_name(kind);
        if node.kind.name() != kind {
            return None;
        }
        if self.take(",\"mode\":") {
            node.mode = self.small()?;
        }
        if self.take(",\"mtime\":\"") {
            node.mtime = self.time()?;
        }
        if self.take(",\"atime\":\"") {
            node.atime = self.time()?;
        }
        if self.take(",\"ctime\":\"") {
            node.ctime = self.time()?;
        }
        if self.take(",\"uid\":") {
            node.uid = self.small()?;
        }
        if self.take(",\"gid\":") {
            node.gid = self.small()?;
        }
        if self.take(",\"user\":\"") {
            node.user = self.text()?.to_owned();
        }
        if self.take(",\"group\":\"") {
            node.group = self.text()?.to_owned();
        }
        if self.take(",\"inode\":") {
            node.inode = self.number()?;
        }
        if self.take(",\"device_id\":") {
            node.device_id = self.number()?;
        }
        if self.take(",\"size\":") {
            node.size = self.number()?;
        }
        if self.take(",\"links\":") {
            node.links = self.number()?;
        }
        if self.take(",\"linktarget\":\"") {
            node.link_target = self.text()?.as_bytes().to_vec();
        }
        if self.take(",\"extended_attributes\":[") {
            node.xattrs = self.xattrs()?;
        }
        if self.take(",\"device\":") {
            node.device = self.number()?;
        }
        if self.take(",\"content\":[") {
            node.content = self.content()?;
        } else {
            // Nothing at all would be as good, and is not what anybody writes.
            self.must(",\"content\":null")?;
        }
        if self.take(",\"subtree\":\"") {
            node.subtree = Some(TreeId(self.id()?));
        }
        self.must("}")?;
        (node.kind != NodeKind::Dir || node.subtree.is_some()).then_some(node)
    }

    fn content(&mut self) -> Option<Vec<BlobId>> {
        let mut content = Vec::new();
        if self.take("]") {
            return Some(content);
        }
        loop {
            self.must("\"")?;
            content.push(BlobId(self.id()?));
            if !self.take(",") {
                self.must("]")?;
                return Some(content);
            }
        }
    }

    fn xattrs(&mut self) -> Option<Vec<Xattr>> {
        let mut xattrs = Vec::new();
        if self.take("]") {
            return Some(xattrs);
        }
        loop {
            self.must("{\"name\":\"")?;
            let name = self.text()?.to_owned();
            self.must(",\"value\":\"")?;
            let value = STANDARD.decode(self.text()?).ok()?;
            self.must("}")?;
            xattrs.push(Xattr { name, value });
            if !self.take(",") {
                self.must("]")?;
                return Some(xattrs);
            }
        }
    }
}
