//! The text of a configuration, with the line of every key.

use toml_edit::{Document, Item, TableLike};

/// A parsed text.
pub(crate) struct Source {
    document: Document<String>,
}

impl Source {
    /// Parses TOML; the error shows the place.
    pub(crate) fn parse(text: &str) -> Result<Source, String> {
        let document = Document::parse(text.to_owned()).map_err(|e| e.to_string())?;
        Ok(Source { document })
    }

    /// The table that holds everything.
    pub(crate) fn root(&self) -> &dyn TableLike {
        self.document.as_table()
    }

    /// The line, from 1, of the key that this path leads to, or of the last table on the way.
    pub(crate) fn line(&self, path: &[&str]) -> Option<usize> {
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

    /// The line, from 1, of this byte.
    pub(crate) fn line_at(&self, offset: usize) -> usize {
        let before = self.document.raw().as_bytes().iter().take(offset);
        before.filter(|byte| **byte == b'\n').count() + 1
    }
}
