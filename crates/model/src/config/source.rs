//! The text of a configuration, with the line of every key.

use toml_edit::{Document, Item, TableLike};

/// A parsed text.
pub(super) struct Source {
    document: Document<String>,
}

impl Source {
    pub(super) fn parse(text: &str) -> Result<Source, toml_edit::TomlError> {
        Ok(Source { document: Document::parse(text.to_owned())? })
    }

    /// The table that holds everything.
    pub(super) fn root(&self) -> &dyn TableLike {
        self.document.as_table()
    }

    /// The line of the key that this path leads to, or of the last table on the way.
    pub(super) fn line(&self, path: &[&str]) -> Option<usize> {
        let mut table: &dyn TableLike = self.root();
        let mut line = None;
        for name in path {
            let Some(key) = table.key(name) else { break };
            line = key.span().map(|span| self.line_at(span.start)).or(line);
            match table.get(name).and_then(Item::as_table_like) {
                Some(inner) => table = inner,
                None => break,
            }
        }
        line
    }

    /// Whether there is such a table.
    pub(super) fn has(&self, path: &[&str]) -> bool {
        let mut table: &dyn TableLike = self.root();
        path.iter().all(|name| match table.get(name).and_then(Item::as_table_like) {
            Some(inner) => {
                table = inner;
                true
            }
            None => false,
        })
    }

    pub(super) fn line_at(&self, offset: usize) -> usize {
        place(self.document.raw(), offset).0
    }
}

/// Line and column, from 1, of this byte; the column counts characters.
pub(super) fn place(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
