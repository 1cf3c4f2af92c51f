//! Reads SQL as PostgreSQL's dump programs write it: where a statement ends, and what it names.
//!
//! It is no parser of SQL. It knows strings, quoted names, comments and the lines that only `psql`
//! understands, which is what it takes to leave a statement out, or to let it work on a database of
//! another name.

use std::ops::Range;

/// A part of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Where it is in its statement.
    pub(super) span: Range<usize>,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword, or a name without quotes.
    Word(String),
    /// A name within quotes, without them.
    Quoted(String),
    /// A string, a number's sign, punctuation: nothing that is looked at.
    Other,
}

impl Token {
    /// Whether it is this keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        matches!(&self.kind, Kind::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// The name that it is, if it can be one.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(name) | Kind::Quoted(name) => Some(name),
            Kind::Other => None,
        }
    }
}

/// The statements of a script, each without its semicolon.
pub(super) fn statements(script: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut begin = None;
    let mut at = 0;
    while let Some(piece) = next(script, at, begin.is_none()) {
        at = piece.end;
        match piece.what {
            What::Nothing => {}
            What::End => {
                if let Some(begin) = begin.take() {
                    found.extend(script.get(begin..piece.start));
                }
            }
            What::Token(_) => {
                begin.get_or_insert(piece.start);
            }
        }
    }
    if let Some(rest) = begin.and_then(|begin| script.get(begin..)) {
        found.push(rest.trim_end());
    }
    found
}

/// The parts of one statement.
pub(super) fn tokens(statement: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(piece) = next(statement, at, false) {
        at = piece.end;
        if let What::Token(kind) = piece.what {
            found.push(Token { kind, span: piece.start..piece.end });
        }
    }
    found
}

/// A name as it is written into a statement.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string as it is written into a statement, whatever `standard_conforming_strings` is.
pub(super) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    match text.contains('\\') {
        true => format!("E'{}'", doubled.replace('\\', "\\\\")),
        false => format!("'{doubled}'"),
    }
}

/// The statement with `DATABASE from` as `DATABASE to`; none if it names no such database.
pub(super) fn for_database(statement: &str, from: &str, to: &str) -> Option<String> {
    let tokens = tokens(statement);
    let pairs = tokens.iter().zip(tokens.iter().skip(1));
    let mut pairs =
        pairs.filter(|(keyword, name)| keyword.is("DATABASE") && name.name() == Some(from));
    let (_, name) = pairs.next()?;
    let (before, after) = (statement.get(..name.span.start)?, statement.get(name.span.end..)?);
    Some(format!("{before}{}{after}", quoted(to)))
}

struct Piece {
    what: What,
    start: usize,
    end: usize,
}

enum What {
    /// Space and comments.
    Nothing,
    Token(Kind),
    End,
}

/// What begins at this place. Between statements a backslash begins a line for `psql`.
fn next(text: &str, start: usize, between: bool) -> Option<Piece> {
    let rest = text.get(start..)?;
    let first = rest.chars().next()?;
    let length = |found: Option<usize>| found.unwrap_or(rest.len());
    let line = || length(rest.find('\n'));
    let (what, length) = match first {
        _ if first.is_whitespace() => (What::Nothing, first.len_utf8()),
        '-' if rest.starts_with("--") => (What::Nothing, line()),
        '\\' if between => (What::Nothing, line()),
        ';' => (What::End, 1),
        '\'' => (What::Token(Kind::Other), closed(rest, '\'', false)),
        'E' | 'e' if rest[1..].starts_with('\'') => {
            (What::Token(Kind::Other), 1 + closed(&rest[1..], '\'', true))
        }
        '"' => {
            let length = closed(rest, '"', false);
            let inner = rest.get(1..length.saturating_sub(1)).unwrap_or_default();
            (What::Token(Kind::Quoted(inner.replace("\"\"", "\""))), length)
        }
        '$' => (What::Token(Kind::Other), dollar(rest).unwrap_or(1)),
        _ if is_word(first) => {
            let length = length(rest.find(|c: char| !is_word(c) && c != '$'));
            let word = rest.get(..length).unwrap_or_default().to_owned();
            (What::Token(Kind::Word(word)), length)
        }
        _ => (What::Token(Kind::Other), first.len_utf8()),
    };
    Some(Piece { what, start, end: start + length.max(1) })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || !c.is_ascii()
}

/// The length of what begins with this quote, with both quotes; one that is doubled is not its end.
fn closed(text: &str, quote: char, backslashes: bool) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if backslashes && c == '\\' {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return at + 1;
        }
    }
    text.len()
}

/// The length of `$tag$ … $tag$`.
fn dollar(text: &str) -> Option<usize> {
    let end = text.get(1..)?.find(|c: char| !is_word(c))? + 1;
    let tag = text.get(..=end).filter(|tag| tag.ends_with('$'))?;
    let inner = text.get(tag.len()..)?;
    Some(inner.find(tag).map_or(text.len(), |at| at + 2 * tag.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_where_they_end() {
        let script = "\\restrict abc;def\n-- a comment; with a semicolon\nSET x = 'a;b''c;';\n\
                      CREATE ROLE \"a;b\"\"c\";\nCOMMENT ON ROLE x IS E'it\\'s; here';\n\
                      DO $tag$ a; b $tag$;\nALTER ROLE größe SET y TO 'z'\n;\nSELECT 1";
        assert_eq!(
            statements(script),
            [
                "SET x = 'a;b''c;'",
                "CREATE ROLE \"a;b\"\"c\"",
                "COMMENT ON ROLE x IS E'it\\'s; here'",
                "DO $tag$ a; b $tag$",
                "ALTER ROLE größe SET y TO 'z'\n",
                "SELECT 1",
            ]
        );
        assert!(statements("\n-- nothing\n\\connect x\n").is_empty());
        assert_eq!(statements("SELECT 'open; ended"), ["SELECT 'open; ended"]);
    }

    #[test]
    fn a_database_gets_another_name_where_it_is_one() {
        let renamed = |statement: &str, from| for_database(statement, from, "a\"b");
        assert_eq!(
            renamed("CREATE DATABASE shop WITH TEMPLATE = template0", "shop").as_deref(),
            Some("CREATE DATABASE \"a\"\"b\" WITH TEMPLATE = template0")
        );
        assert_eq!(
            renamed("ALTER ROLE database IN DATABASE \"Sh op\" SET x TO 'DATABASE shop'", "Sh op")
                .as_deref(),
            Some("ALTER ROLE database IN DATABASE \"a\"\"b\" SET x TO 'DATABASE shop'")
        );
        assert_eq!(
            renamed("GRANT ALL ON DATABASE database TO database", "database").as_deref(),
            Some("GRANT ALL ON DATABASE \"a\"\"b\" TO database")
        );
        assert_eq!(renamed("COMMENT ON TABLE t IS 'DATABASE shop'", "shop"), None);
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quoted("a\"b c"), "\"a\"\"b c\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
    }

    #[test]
    fn whatever_is_read_nothing_breaks() {
        for text in ["$", "$$", "$a", "$a$", "E", "E'", "'", "\"", "\\", "é'é", "-", "--", "𝄞;$𝄞$"]
        {
            let _ = statements(text);
            let _ = tokens(text);
            let _ = for_database(text, "a", "b");
        }
    }
}
