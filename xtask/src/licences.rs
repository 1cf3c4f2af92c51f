//! Whether a package's licence lets Mainstay be given away under MIT or Apache-2.0.
//!
//! Expressions are SPDX's (<https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/>):
//! names joined by AND, OR and WITH, with parentheses; AND binds tighter. Old manifests write a
//! slash for OR.

/// Licences that ask for no more than to be named.
const ACCEPTED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Accepts an expression one of whose alternatives is accepted in all its parts.
pub(crate) fn judge(expression: &str) -> Result<(), String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let accepted = either(&mut words)?;
    match words.next() {
        Some(word) => Err(format!("cannot read it from {word:?} on")),
        None if accepted => Ok(()),
        None => Err("this licence is not among those accepted".to_owned()),
    }
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>) -> Result<bool, String> {
    let mut accepted = all(words)?;
    while words.next_if_eq(&"OR").is_some() {
        accepted |= all(words)?;
    }
    Ok(accepted)
}

fn all(words: &mut Words<'_>) -> Result<bool, String> {
    let mut accepted = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        accepted &= one(words)?;
    }
    Ok(accepted)
}

fn one(words: &mut Words<'_>) -> Result<bool, String> {
    match words.next() {
        None => Err("it ends where a licence is expected".to_owned()),
        Some("(") => {
            let accepted = either(words)?;
            match words.next() {
                Some(")") => Ok(accepted),
                _ => Err("a parenthesis is not closed".to_owned()),
            }
        }
        Some(name) => {
            if words.next_if_eq(&"WITH").is_none() {
                return Ok(ACCEPTED.contains(&name));
            }
            let exception = words.next().ok_or("it ends after WITH")?;
            Ok(ACCEPTED.contains(&format!("{name} WITH {exception}").as_str()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn permissive_expressions_are_accepted() {
        for expression in [
            "MIT",
            "MIT/Apache-2.0",
            "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
            "(MIT OR GPL-2.0-only) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0-only",
        ] {
            assert_eq!(judge(expression), Ok(()), "{expression}");
        }
    }

    #[test]
    fn copyleft_and_unreadable_expressions_are_refused() {
        for expression in [
            "GPL-3.0-only",
            "AGPL-3.0-or-later",
            "MIT AND GPL-2.0-only",
            "(MIT OR Apache-2.0) AND LGPL-3.0-only",
            "MIT WITH something-new",
            "(MIT",
            "MIT MIT",
            "",
        ] {
            assert!(judge(expression).is_err(), "{expression}");
        }
    }
}
