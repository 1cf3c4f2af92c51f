//! Patterns of what is left out of a tree.
//!
//! The style of matching is gitignore's: `*`, `?`, `[a-z]`, `[!a-z]` match within one name, `**` as
//! a whole part matches any number of directories, a backslash takes the next character as it is,
//! and a trailing slash matches directories only. A pattern without another slash matches a name
//! anywhere in the tree. One with a slash is anchored at the root of the tree, or, where it begins
//! with a slash, at the root of the host. A pattern that begins with `!` takes back what an earlier
//! one matched; but nothing is taken back from below a directory that is left out.

use crate::Error;
use crate::glob::{self, Case, Part};

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
        let parts = glob::parts(rest).map_err(bad)?;
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
                glob::matches(&self.parts, name, Case::Exact)
            }
            Anchor::Tree => glob::matches(&self.parts, in_tree, Case::Exact),
            Anchor::Host => {
                on_host.iter().any(|path| glob::matches(&self.parts, path, Case::Exact))
            }
        }
    }
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
