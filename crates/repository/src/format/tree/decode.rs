//! Reading trees.

use super::{Node, NodeKind, Tree, Xattr, check_order, quote};
use crate::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

pub(super) fn tree(bytes: &[u8]) -> Result<Tree, Error> {
    let Json { nodes } = serde_json::from_slice(bytes)
        .map_err(|e| Error::damaged("a directory of the snapshot", e))?;
    Ok(Tree { nodes: nodes.0 })
}

/// The outermost object. Keys beside `nodes` are ignored, as restic does.
#[derive(Deserialize)]
struct Json {
    nodes: Nodes,
}

/// A list of nodes whose order has been checked.
struct Nodes(Vec<Node>);

impl<'de> Deserialize<'de> for Nodes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Nodes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of nodes")
            }

            // Go writes a list that was never made as null.
            fn visit_unit<E>(self) -> Result<Nodes, E> {
                Ok(Nodes(Vec::new()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Nodes, A::Error> {
                let mut nodes: Vec<Node> = Vec::new();
                while let Some(node) = from.next_element::<Node>()? {
                    let last = nodes.last().map_or(&[][..], |last| &last.name);
                    check_order(last, &node.name).map_err(A::Error::custom)?;
                    nodes.push(node);
                }
                Ok(Nodes(nodes))
            }
        }
        from.deserialize_any(List)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
        let mut node = Node::default();
        let mut kind = None;
        let mut raw_target = None;
        while let Some(Text(key)) = from.next_key()? {
            match key.as_ref() {
                "name" => node.name = from.next_value::<Name>()?.0,
                "type" => kind = Some(from.next_value::<Text<'_>>()?.0.into_owned()),
                "mode" => node.mode = value(&mut from)?,
                "mtime" => node.mtime = from.next_value()?,
                "atime" => node.atime = from.next_value()?,
                "ctime" => node.ctime = from.next_value()?,
                "uid" => node.uid = value(&mut from)?,
                "gid" => node.gid = value(&mut from)?,
                "user" => node.user = value(&mut from)?,
                "group" => node.group = value(&mut from)?,
                "inode" => node.inode = value(&mut from)?,
                "device_id" => node.device_id = value(&mut from)?,
                "size" => node.size = value(&mut from)?,
                "links" => node.links = value(&mut from)?,
                "linktarget" => node.link_target = value::<_, String>(&mut from)?.into_bytes(),
                "linktarget_raw" => raw_target = from.next_value::<Option<Base64>>()?,
                "extended_attributes" => {
                    node.xattrs = value::<_, Vec<Attribute>>(&mut from)?
                        .into_iter()
                        .map(|a| Xattr { name: a.name, value: a.value.unwrap_or_default().0 })
                        .collect();
                }
                "generic_attributes" => {
                    node.generic_attributes =
                        value::<_, BTreeMap<String, Box<RawValue>>>(&mut from)?
                            .into_iter()
                            .map(|(name, json)| (name, String::from(Box::<str>::from(json))))
                            .collect();
                }
                "device" => node.device = value(&mut from)?,
                "content" => node.content = value(&mut from)?,
                "subtree" => node.subtree = from.next_value()?,
                "error" => node.error = value(&mut from)?,
                _ => {
                    let json: &RawValue = from.next_value()?;
                    node.other.push((key.into_owned(), json.get().to_owned()));
                }
            }
        }
        let Some(kind) = kind else { return Err(A::Error::missing_field("type")) };
        node.kind = NodeKind::from_name(&kind);
        if node.kind == NodeKind::Irregular && kind != NodeKind::Irregular.name() {
            node.unknown_kind = Some(kind);
        }
        if let Some(Base64(target)) = raw_target {
            node.link_target = target;
        }
        if node.kind == NodeKind::Dir && node.subtree.is_none() {
            return Err(A::Error::custom(format!(
                "the directory \"{}\" has no tree",
                quote::quote(&node.name)
            )));
        }
        Ok(node)
    }
}

/// A value; null is the same as nothing, as in Go.
fn value<'de, A: MapAccess<'de>, T: Deserialize<'de> + Default>(
    from: &mut A,
) -> Result<T, A::Error> {
    Ok(from.next_value::<Option<T>>()?.unwrap_or_default())
}

#[derive(Deserialize)]
struct Attribute {
    name: String,
    value: Option<Base64>,
}

/// Calls a function for a JSON string, without a copy where it has no escapes.
macro_rules! from_text {
    ($type:ty, $expecting:literal, $read:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Reader;
                impl<'de> Visitor<'de> for Reader {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        $read(text).ok_or_else(|| {
                            E::custom(format_args!(concat!("{:?} is not ", $expecting), text))
                        })
                    }
                }
                from.deserialize_str(Reader)
            }
        }
    };
}

struct Name(Vec<u8>);
from_text!(Name, "a quoted name", |text| quote::unquote(text).map(Name));

#[derive(Default)]
struct Base64(Vec<u8>);
from_text!(Base64, "base64", |text: &str| STANDARD.decode(text).ok().map(Base64));

/// Text that borrows from the input where it can.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Reader)
    }
}
