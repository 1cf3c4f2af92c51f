//! Patterns of what is left out of a tree.
//!
//! The style of matching is gitignore's: `*`, `?`, `[a-z]`, `[!a-z]` match within one name, `**` as
//! a whole part matches any number of directories, a backslash takes the next character as it is,
//! and a trailing slash matches directories only. A pattern without another slash matches a name
//! anywhere in the tree. One with a slash is anchored at the root of the tree, or, where it begins
//! with a slash, at the root of the host. A pattern that begins with `!` takes back what an earlier
//! one matched; but nothing is taken back from below a directory that is left out.

use crate::Error;

/// All patterns of one tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Excludes(Vec<Pattern>);

#[derive(Clone, Debug)]
struct Pattern {
    parts: Vec<Part>,
    anchor: Anchor,
    directories_only: bool,
    takes_back: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anchor {
    Name,
    Tree,
    Host,
}

/// What is between two slashes.
#[derive(Clone, Debug)]
enum Part {
    /// `**`
    AnyDirectories,
    Name(Vec<Token>),
}

#[derive(Clone, Debug)]
enum Token {
    Unit(u32),
    One,
    Any,
    Set { ranges: Vec<(u32, u32)>, negated: bool },
}

impl Excludes {
    pub(super) fn parse(patterns: &[String]) -> Result<Excludes, Error> {
        patterns.iter().map(|text| Pattern::parse(text)).collect::<Result<_, _>>().map(Excludes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an entry is left out. `in_tree` is its path below the root of the tree; `on_host`
    /// are the absolute paths by which it is known.
    pub(super) fn matches(&self, in_tree: &[u8], on_host: &[&[u8]], directory: bool) -> bool {
        let pattern = self.0.iter().rev().find(|p| p.matches(in_tree, on_host, directory));
        pattern.is_some_and(|pattern| !pattern.takes_back)
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, Error> {
        let bad = |why: &str| Error::Invalid(format!("the exclude pattern {text:?} {why}"));
        let (takes_back, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (host, rest) = match rest.strip_prefix('/') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (directories_only, rest) = match rest.strip_suffix('/') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.is_empty() {
            return Err(bad("is empty"));
        }
        let mut parts: Vec<Part> = Vec::new();
        for part in rest.split('/') {
            match part {
                "" => return Err(bad("has two slashes in a row")),
                "." | ".." => return Err(bad("has a part '.' or '..', which nothing matches")),
                // Several in a row mean the same as one.
                "**" if matches!(parts.last(), Some(Part::AnyDirectories)) => {}
                "**" => parts.push(Part::AnyDirectories),
                part => parts.push(Part::Name(tokens(part).map_err(bad)?)),
            }
        }
        let anchor = match host {
            true => Anchor::Host,
            false if rest.contains('/') => Anchor::Tree,
            false => Anchor::Name,
        };
        Ok(Pattern { parts, anchor, directories_only, takes_back })
    }

    fn matches(&self, in_tree: &[u8], on_host: &[&[u8]], directory: bool) -> bool {
        if self.directories_only && !directory {
            return false;
        }
        match self.anchor {
            Anchor::Name => {
                let name = in_tree.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                parts_match(&self.parts, name)
            }
            Anchor::Tree => parts_match(&self.parts, in_tree),
            Anchor::Host => on_host.iter().any(|path| parts_match(&self.parts, path)),
        }
    }
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
fn parts_match(pattern: &[Part], path: &[u8]) -> bool {
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
                if parts.get(at).is_some_and(|part| name_matches(tokens, part)) =>
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
fn name_matches(pattern: &[Token], name: &[u8]) -> bool {
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
            Some(Token::Unit(wanted)) => unit == Some(wanted),
            Some(Token::Set { ranges, negated }) => unit.is_some_and(|unit| {
                ranges.iter().any(|(first, last)| (first..=last).contains(&unit)) != *negated
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

    fn matches(patterns: &[&str], path: &str) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let path = path.as_bytes();
        let (path, directory) = match path.strip_suffix(b"/") {
            Some(path) => (path, true),
            None => (path, false),
        };
        let host = [b"/mnt/snap/", path].concat();
        let at = [b"/srv/docs/", path].concat();
        Excludes::parse(&patterns).unwrap().matches(path, &[&host, &at], directory)
    }

    #[test]
    fn patterns_match_as_gitignore_does() {
        for (pattern, path, expected) in [
            ("*.tmp", "a.tmp", true),
            ("*.tmp", "x/y/a.tmp", true),
            ("*.tmp", ".tmp", true),
            ("*.tmp", "a.tmp/b", false),
            ("*.tmp", "a.tmpx", false),
            ("cache", "x/cache/", true),
            ("cache/", "x/cache/", true),
            ("cache/", "x/cache", false),
            ("a/b", "a/b", true),
            ("a/b", "x/a/b", false),
            ("a/*", "a/b", true),
            ("a/*", "a/b/c", false),
            ("a/*/c", "a/b/c", true),
            ("**/b", "b", true),
            ("**/b", "x/y/b", true),
            ("a/**", "a/", false),
            ("a/**", "a/b/c", true),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/z", "a/b/c/zz", false),
            ("a/**/**/z", "a/b/z", true),
            ("**/x/**/y", "x/1/x/2/y", true),
            ("**/x/*/y", "x/1/x/2/y", true),
            ("a**b", "a-b", true),
            ("?", "é", true),
            ("?", "ab", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("[\\]a]", "]", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("\\!x", "!x", true),
            ("/srv/docs/cache", "cache/", true),
            ("/mnt/snap/cache", "cache/", true),
            ("/srv/*/cache", "cache/", true),
            ("/srv/docs/cache", "x/cache/", false),
            ("/cache", "cache/", false),
            ("/**/cache", "x/cache/", true),
        ] {
            assert_eq!(matches(&[pattern], path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn a_later_pattern_takes_back() {
        assert!(matches(&["*.log", "!keep.log"], "a.log"));
        assert!(!matches(&["*.log", "!keep.log"], "x/keep.log"));
        assert!(matches(&["!keep.log", "*.log"], "keep.log"));
    }

    #[test]
    fn bytes_that_are_no_text_match_wildcards_only() {
        let pattern = |p: &str| Excludes::parse(&[p.to_owned()]).unwrap();
        assert!(pattern("a?c").matches(b"a\xffc", &[], false));
        assert!(pattern("a*").matches(b"a\xff\xfe", &[], false));
        assert!(!pattern("a\u{ff}c").matches(b"a\xffc", &[], false));
    }

    #[test]
    fn patterns_that_can_match_nothing_are_refused() {
        for bad in ["", "/", "!", "a//b", "../x", "a/./b", "[a", "[", "[]", "a\\", "[a-"] {
            assert!(Excludes::parse(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn patterns_made_to_be_slow_are_not() {
        let pattern = "a*".repeat(40) + "b";
        assert!(!matches(&[&pattern], &"a".repeat(250)));
        let pattern = "**/a/".repeat(20) + "b";
        assert!(!matches(&[&pattern], &"a/".repeat(200)));
    }
}
