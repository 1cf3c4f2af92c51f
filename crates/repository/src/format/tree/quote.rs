//! Names as Go's `strconv.Quote` writes them and `strconv.Unquote` reads them.
//!
//! A tree stores names in this form inside JSON strings, so that names which are no UTF-8 survive.
//! Source: the documentation of Go's package `strconv`, and restic's design document.

use std::fmt::Write;

/// Escapes a name (without the surrounding quotes).
pub(super) fn quote(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            quote_char(c, &mut out);
        }
        // Go takes bytes that are no UTF-8 one by one, and so does this.
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

fn quote_char(c: char, out: &mut String) {
    match c {
        '"' | '\\' => out.extend(['\\', c]),
        ' '..='~' => out.push(c),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        '\0'..='\x1f' | '\x7f' => {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        }
        _ if is_print(c) => out.push(c),
        _ if u32::from(c) < 0x10000 => {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
        _ => {
            let _ = write!(out, "\\U{:08x}", u32::from(c));
        }
    }
}

/// Whether Go prints a character as it is: letters, marks, numbers, punctuation and symbols.
///
/// Rust's `str::escape_debug` has the same rule, except that it escapes a combining mark at the
/// beginning of a string; so the character is asked about behind another one. Characters that only
/// one side's Unicode tables know are escaped by one and not by the other: both forms read back as
/// the same name.
fn is_print(c: char) -> bool {
    let mut text = [b'a'; 5];
    let end = 1 + c.encode_utf8(&mut text[1..]).len();
    let Ok(text) = std::str::from_utf8(&text[..end]) else { return false };
    text.escape_debug().nth(1) == Some(c)
}

/// The name that an escaped text stands for; none if it is not something Go would accept.
pub(super) fn unquote(text: &str) -> Option<Vec<u8>> {
    if !text.contains(['\\', '"', '\n']) {
        return Some(text.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '"' | '\n' => return None,
            '\\' => rest = unescape(rest, &mut out)?,
            _ => push_char(c, &mut out),
        }
    }
    Some(out)
}

/// Reads what follows a backslash, and returns what is behind it.
fn unescape<'a>(rest: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
    let kind = rest.chars().next()?;
    let after = &rest[kind.len_utf8()..];
    let plain = match kind {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '"' => b'"',
        'x' => {
            let (value, after) = number(after, 2, 16)?;
            out.push(u8::try_from(value).ok()?);
            return Some(after);
        }
        '0'..='7' => {
            let (value, after) = number(rest, 3, 8)?;
            out.push(u8::try_from(value).ok()?);
            return Some(after);
        }
        'u' | 'U' => {
            let (value, after) = number(after, if kind == 'u' { 4 } else { 8 }, 16)?;
            push_char(char::from_u32(value)?, out);
            return Some(after);
        }
        _ => return None,
    };
    out.push(plain);
    Some(after)
}

/// Exactly `digits` digits, and what is behind them.
fn number(text: &str, digits: usize, radix: u32) -> Option<(u32, &str)> {
    let (head, rest) = text.split_at_checked(digits)?;
    // from_str_radix would take a sign.
    if !head.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    Some((u32::from_str_radix(head, radix).ok()?, rest))
}

fn push_char(c: char, out: &mut Vec<u8>) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
