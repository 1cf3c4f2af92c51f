//! Keys that the schema does not know, with the key that was probably meant.

use super::read::Finding;
use super::section::Section;
use super::source::Source;
use serde_json::Value;
use toml_edit::{Item, TableLike};

/// A key that the schema does not know.
pub(super) struct Unknown {
    pub(super) path: Vec<String>,
    /// The key that was probably meant.
    pub(super) meant: Option<String>,
    pub(super) finding: Finding,
}

/// All unknown keys of the document.
pub(super) fn unknown(source: &Source) -> Vec<Unknown> {
    let schema = super::schema();
    let mut walk = Walk { source, root: &schema, path: Vec::new(), found: Vec::new() };
    walk.table(source.root(), &schema);
    walk.found
}

struct Walk<'a> {
    source: &'a Source,
    root: &'a Value,
    path: Vec<String>,
    found: Vec<Unknown>,
}

impl<'a> Walk<'a> {
    fn table(&mut self, table: &dyn TableLike, schema: &'a Value) {
        let schema = self.resolve(schema);
        let known = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties").filter(|value| value.is_object());
        for (name, item) in table.iter() {
            self.path.push(name.to_owned());
            match (known.and_then(|known| known.get(name)), others) {
                (Some(schema), _) | (None, Some(schema)) => self.item(item, schema),
                // A table without properties in the schema is not judged here.
                (None, None) if known.is_none() => {}
                (None, None) => {
                    let names = known.into_iter().flat_map(|known| known.keys());
                    let meant = nearest(name, names.map(String::as_str));
                    let what = match meant {
                        Some(meant) => format!("unknown key; did you mean `{meant}`?"),
                        None => "unknown key".to_owned(),
                    };
                    let span = table.key(name).and_then(toml_edit::Key::span);
                    let line = span.map(|span| self.source.line_at(span.start));
                    let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
                    let sections = match path.as_slice() {
                        [_] if self.is_for_all(name, meant) => vec![Section::Shared],
                        path => vec![Section::of(path)],
                    };
                    let key = path.join(".");
                    let finding = Finding { line, column: None, key, what, sections };
                    let meant = meant.map(str::to_owned);
                    self.found.push(Unknown { path: self.path.clone(), meant, finding });
                }
            }
            self.path.pop();
        }
    }

    /// Whether a section that does not exist was probably meant for the host or the vault, which all
    /// share: what `[valut.s3]` or `[s3]` asks for would be done for nobody.
    fn is_for_all(&self, name: &str, meant: Option<&str>) -> bool {
        let shared = ["host", "vault"];
        let holds = |section: &str| {
            let schema = self.root.get("properties").and_then(|all| all.get(section));
            let schema = schema.map(|schema| self.resolve(schema));
            schema.and_then(|schema| schema.get("properties")?.get(name)).is_some()
        };
        meant.is_some_and(|meant| shared.contains(&meant)) || shared.into_iter().any(holds)
    }

    fn item(&mut self, item: &Item, schema: &'a Value) {
        if let Some(table) = item.as_table_like() {
            self.table(table, schema);
        }
    }

    /// Follows `$ref`, and the `anyOf` of an optional table.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        // The schema's own references do not nest deeper than this.
        for _ in 0..8 {
            if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
                let name = name.trim_start_matches("#/$defs/");
                let Some(target) = self.root.get("$defs").and_then(|defs| defs.get(name)) else {
                    return schema;
                };
                schema = target;
            } else if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
                let Some(first) = any.iter().find(|one| one.get("$ref").is_some()) else {
                    return schema;
                };
                schema = first;
            } else {
                return schema;
            }
        }
        schema
    }
}

/// The name that was probably meant.
pub(super) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let same_but_style = |known: &str| known.replace('-', "") == name.replace(['_', '-'], "");
    let scored = known.map(|known| {
        let distance = strsim::osa_distance(name, known);
        (if same_but_style(known) { 0 } else { distance }, known)
    });
    let (distance, best) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + name.chars().count() / 4).then_some(best)
}
