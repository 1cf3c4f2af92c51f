//! Which libraries a server on a scratch copy preloads: none but those that the definition lists.
//!
//! A library that is preloaded may begin to work by itself: schedulers, replication, whatever somebody
//! wrote for one server. Nobody can know all of them, so none is loaded unasked. A few have to be:
//! without them their tables cannot be read, or the log not be replayed. What says so is told apart
//! from what is wrong with a copy.

use super::Postgres;
use super::detail::Detail;
use crate::Error;

/// What servers and libraries say if one is missing: `must be loaded via "shared_preload_libraries"`,
/// `must be preloaded`, and the hint of a log that is written by a library.
const MISSING: [&str; 2] = ["shared_preload_libraries", "must be preloaded"];

/// The settings of a server on a scratch copy.
pub(super) fn settings(engine: &Postgres) -> [(&'static str, String); 3] {
    [
        ("shared_preload_libraries", engine.preload.join(", ")),
        ("session_preload_libraries", String::new()),
        ("local_preload_libraries", String::new()),
    ]
}

/// The same for its command line.
pub(super) fn on_command_line(engine: &Postgres) -> impl Iterator<Item = String> {
    settings(engine).into_iter().map(|(name, value)| format!("{name}={value}"))
}

/// What the source preloads and a scratch copy does not; none if nobody could ask the source.
pub(super) fn left_out(engine: &Postgres, detail: &Detail) -> Option<Vec<String>> {
    let libraries = detail.shared_preload_libraries.as_deref()?.split(',');
    let names = libraries.map(|library| library.trim().trim_matches('"'));
    let left =
        names.filter(|name| !name.is_empty() && !engine.preload.iter().any(|one| one == name));
    Some(left.map(str::to_owned).collect())
}

/// The line that says that a library is missing which was left out.
pub(super) fn missed<'a>(said: &'a str, left_out: Option<&[String]>) -> Option<&'a str> {
    if left_out.is_some_and(<[String]>::is_empty) {
        return None;
    }
    let line = said.lines().find(|line| MISSING.iter().any(|words| line.contains(words)));
    line.map(str::trim)
}

/// The error for that: it says nothing about the copy.
pub(super) fn needed(engine: &Postgres, line: &str, left_out: Option<&[String]>) -> Error {
    let what =
        format!("the copy needs a library that a drill preloads only if it is told to: {line}");
    Error::invalid(what).hinting(hint(engine, left_out))
}

/// What to do about a library that is missing.
pub(super) fn hint(engine: &Postgres, left_out: Option<&[String]>) -> String {
    let name = &engine.name;
    let has = match left_out {
        Some(left_out) => format!("; the source also preloads {}", left_out.join(", ")),
        None => String::new(),
    };
    format!(
        "List the library in `drill-preload` of [service.{name}], if it may run in a copy that is \
         cut off{has}."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_that_a_library_is_missing_is_known() {
        let left_out = ["citus".to_owned()];
        for said in [
            "ERROR:  pg_stat_statements must be loaded via \"shared_preload_libraries\"",
            "FATAL:  extension \"timescaledb\" must be preloaded",
            "FATAL:  resource manager with ID 128 not registered\n  HINT:  Include the extension \
             module that implements this resource manager in \"shared_preload_libraries\".",
            "ERROR:  Citus can only be loaded via shared_preload_libraries",
        ] {
            assert!(missed(said, Some(&left_out)).is_some(), "{said}");
            assert!(missed(said, None).is_some(), "{said}");
            assert!(missed(said, Some(&[])).is_none(), "nothing was left out");
        }
        assert_eq!(missed("PANIC:  could not locate a valid checkpoint record", None), None);
    }
}
