//! Patterns of names and paths: `*`, `?`, `[a-z]`, `[!a-z]` match within one name, `**` as a whole part
//! matches any number of directories, a backslash takes the next character as it is.

use crate::Error;

/// What is between two slashes.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// `**`
    AnyDirectories,
    Name(Vec<Token>),
}

#[derive(Clone, Debug)]
pub(crate) enum Token {
    Unit(u32),
    One,
    Any,
    Set { ranges: Vec<(u32, u32)>, negated: bool },
}

/// Whether capitals are told from small letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Case {
    /// They are.
    #[default]
    Exact,
    /// They are not.
    Ignored,
}

impl Case {
    fn same(self, unit: u32, wanted: u32) -> bool {
        unit == wanted || self == Case::Ignored && small(unit) == small(wanted)
    }

    fn within(self, unit: u32, first: u32, last: u32) -> bool {
        let range = first..=last;
        range.contains(&unit)
            || self == Case::Ignored
                && (range.contains(&small(unit)) || range.contains(&capital(unit)))
    }
}

/// The small letter of a character that has a single one.
fn small(unit: u32) -> u32 {
    let only = |c: char| Some(c.to_lowercase()).filter(|c| c.len() == 1)?.next();
    char::from_u32(unit).and_then(only).map_or(unit, u32::from)
}

/// Its capital.
fn capital(unit: u32) -> u32 {
    let only = |c: char| Some(c.to_uppercase()).filter(|c| c.len() == 1)?.next();
    char::from_u32(unit).and_then(only).map_or(unit, u32::from)
}

/// A pattern of paths. Without a slash it matches a name anywhere; with one it matches the end of a
/// path, or, if it begins with a slash, the whole path.
#[derive(Clone, Debug)]
pub struct Glob {
    parts: Vec<Part>,
    case: Case,
}

impl Glob {
    /// Reads a pattern.
    pub fn parse(text: &str, case: Case) -> Result<Glob, Error> {
        let (rooted, rest) = match text.strip_prefix('/') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let mut parts = match rest {
            "" => Err("is empty"),
            rest => parts(rest),
        }
        .map_err(|why| Error::Invalid(format!("the pattern {text:?} {why}")))?;
        if !rooted && !matches!(parts.first(), Some(Part::AnyDirectories)) {
            parts.insert(0, Part::AnyDirectories);
        }
        Ok(Glob { parts, case })
    }

    /// Whether it matches an absolute path.
    pub fn matches(&self, path: &[u8]) -> bool {
        matches(&self.parts, path, self.case)
    }

    /// Whether it can match a path that ends in this name.
    pub(crate) fn may_end_in(&self, name: &[u8]) -> bool {
        match self.parts.last() {
            Some(Part::Name(tokens)) => name_matches(tokens, name, self.case),
            _ => true,
        }
    }
}

/// Reads a pattern's parts; the error says what is wrong with it.
pub(crate) fn parts(text: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts: Vec<Part> = Vec::new();
    for part in text.split('/') {
        match part {
            "" => return Err("has two slashes in a row"),
            "." | ".." => return Err("has a part '.' or '..', which nothing matches"),
            // Several in a row mean the same as one.
            "**" if matches!(parts.last(), Some(Part::AnyDirectories)) => {}
            "**" => parts.push(Part::AnyDirectories),
            part => parts.push(Part::Name(tokens(part)?)),
        }
    }
    Ok(parts)
}

/// Reads one name's pattern.
fn tokens(part: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut chars = part.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' => {
                if matches!(tokens.last(), Some(Token::Any)) {
                    continue;
                }
                Token::Any
            }
            '?' => Token::One,
            '\\' => Token::Unit(chars.next().ok_or("ends with a backslash")?.into()),
            '[' => {
                let negated = chars.next_if(|c| matches!(c, '!' | '^')).is_some();
                let mut ranges = Vec::new();
                loop {
                    let mut next = || match chars.next() {
                        Some('\\') => chars.next().map(|c| (c, true)),
                        c => c.map(|c| (c, false)),
                    };
                    let open = "has a '[' without its ']' (write '\\[' for the character)";
                    let (first, escaped) = next().ok_or(open)?;
                    // A ']' that comes first stands for itself.
                    if first == ']' && !escaped && !ranges.is_empty() {
                        break;
                    }
                    let mut last = first;
                    if chars.peek() == Some(&'-') {
                        let mut ahead = chars.clone();
                        ahead.next();
                        if ahead.peek().is_some_and(|c| *c != ']') {
                            chars.next();
                            last = match chars.next() {
                                Some('\\') => chars.next().ok_or(open)?,
                                c => c.ok_or(open)?,
                            };
                        }
                    }
                    ranges.push((u32::from(first), u32::from(last)));
                }
                Token::Set { ranges, negated }
            }
            c => Token::Unit(c.into()),
        });
    }
    Ok(tokens)
}

/// Matches a path part by part. Only the last `**` ever has to take more: what an earlier one
/// matched can stay as it is, since a later one can take whatever the earlier could.
pub(crate) fn matches(pattern: &[Part], path: &[u8], case: Case) -> bool {
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    let (mut p, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            Some(Part::AnyDirectories) => {
                if p + 1 == pattern.len() {
                    // At the end it stands for what is in a directory, not for the directory.
                    return at < parts.len();
                }
                star = Some((p, at));
                p += 1;
                continue;
            }
            Some(Part::Name(tokens))
                if parts.get(at).is_some_and(|part| name_matches(tokens, part, case)) =>
            {
                p += 1;
                at += 1;
                continue;
            }
            None if at == parts.len() => return true,
            _ => {}
        }
        match star {
            Some((star_p, taken)) if taken < parts.len() => {
                star = Some((star_p, taken + 1));
                p = star_p + 1;
                at = taken + 1;
            }
            _ => return false,
        }
    }
}

/// Matches one name, by the same argument for `*`.
fn name_matches(pattern: &[Token], name: &[u8], case: Case) -> bool {
    let units = units(name);
    let (mut p, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let unit = units.get(at);
        let one = match pattern.get(p) {
            None if unit.is_none() => return true,
            None => false,
            Some(Token::Any) => {
                star = Some((p, at));
                p += 1;
                continue;
            }
            Some(Token::One) => unit.is_some(),
            Some(Token::Unit(wanted)) => unit.is_some_and(|unit| case.same(*unit, *wanted)),
            Some(Token::Set { ranges, negated }) => unit.is_some_and(|unit| {
                ranges.iter().any(|(first, last)| case.within(*unit, *first, *last)) != *negated
            }),
        };
        if one {
            p += 1;
            at += 1;
            continue;
        }
        match star {
            Some((star_p, taken)) if taken < units.len() => {
                star = Some((star_p, taken + 1));
                p = star_p + 1;
                at = taken + 1;
            }
            _ => return false,
        }
    }
}

/// The characters of a name; bytes that are no UTF-8 are each one unit beyond all characters.
fn units(name: &[u8]) -> Vec<u32> {
    let mut units = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        units.extend(chunk.valid().chars().map(u32::from));
        units.extend(chunk.invalid().iter().map(|byte| 0x11_0000 + u32::from(*byte)));
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_and_the_ends_of_paths() {
        for (pattern, path, expected) in [
            ("*.txt", "/a/b.txt", true),
            ("*.txt", "/a.txt/b", false),
            ("a/*.txt", "/x/a/b.txt", true),
            ("/a/*.txt", "/x/a/b.txt", false),
            ("/a/*.txt", "/a/b.txt", true),
            ("/a/", "/a", true),
            ("**/b", "/a/b", true),
            ("/a/**", "/a/b/c", true),
            ("B.TXT", "/a/b.txt", false),
        ] {
            let glob = Glob::parse(pattern, Case::Exact).unwrap();
            assert_eq!(glob.matches(path.as_bytes()), expected, "{pattern} on {path}");
            let name = path.rsplit('/').next().unwrap();
            assert!(!expected || glob.may_end_in(name.as_bytes()), "{pattern} on {path}");
        }
        for (pattern, path) in [("B.T?T", "/a/b.txt"), ("[a-c]ä", "/BÄ"), ("STRAßE", "/straße")]
        {
            assert!(Glob::parse(pattern, Case::Ignored).unwrap().matches(path.as_bytes()));
        }
        for bad in ["", "/", "a//b", "[a"] {
            assert!(Glob::parse(bad, Case::Exact).is_err(), "{bad:?}");
        }
    }
}
