//! Colours, where they are wanted.

use std::ffi::OsString;
use std::io::IsTerminal;

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, and not if NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// What the words ask for, before they are parsed.
    pub(crate) fn among(words: &[OsString]) -> Color {
        let mut words = words.iter().filter_map(|word| word.to_str());
        while let Some(word) = words.next() {
            let value = match word.strip_prefix("--color") {
                Some("") => words.next(),
                Some(rest) => rest.strip_prefix('='),
                None => continue,
            };
            match value {
                Some("always") => return Color::Always,
                Some("never") => return Color::Never,
                _ => {}
            }
        }
        Color::Auto
    }

    fn wanted(self, terminal: bool) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
                let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
                terminal && !refused && !dumb
            }
        }
    }
}

/// Paints text, or leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// For standard output.
    pub(crate) fn for_stdout(color: Color) -> Paint {
        Paint { on: color.wanted(std::io::stdout().is_terminal()) }
    }

    /// For standard error.
    pub(crate) fn for_stderr(color: Color) -> Paint {
        Paint { on: color.wanted(std::io::stderr().is_terminal()) }
    }

    /// No colours.
    pub(crate) fn plain() -> Paint {
        Paint { on: false }
    }

    /// Whether anything is painted.
    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    fn with(&self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What is well.
    pub(crate) fn good(&self, text: &str) -> String {
        self.with("32", text)
    }

    /// What needs attention.
    pub(crate) fn warning(&self, text: &str) -> String {
        self.with("1;33", text)
    }

    /// What is wrong.
    pub(crate) fn bad(&self, text: &str) -> String {
        self.with("1;31", text)
    }

    /// What helps.
    pub(crate) fn note(&self, text: &str) -> String {
        self.with("1;36", text)
    }

    /// A title.
    pub(crate) fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }

    /// What matters less.
    pub(crate) fn dim(&self, text: &str) -> String {
        self.with("2", text)
    }
}
