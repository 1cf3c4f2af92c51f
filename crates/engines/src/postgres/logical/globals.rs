//! Makes the roles of a dump that a server has not. A role that it has is kept as it is: what
//! somebody changed in it since the dump is theirs.

use super::manifest::{Database, Manifest};
use super::script::{Token, statements, tokens};
use crate::postgres::connect::Session;
use crate::{Context, Error};
use model::Class;
use std::collections::BTreeSet;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) made: Vec<String>,
    pub(super) kept: Vec<String>,
}

/// What a statement of the dump is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum About {
    Role {
        name: String,
        made: bool,
    },
    /// Somebody gets something: a membership, a parameter.
    Grantee(String),
    Tablespace,
    /// A setting of the session.
    Session,
}

/// Makes what is missing, all of it or nothing.
pub(super) fn apply(cx: &Context<'_>, session: &mut Session, sql: &str) -> Result<Applied, Error> {
    let rows = session.rows("list its roles", "SELECT rolname::text FROM pg_roles", &[])?;
    let there: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut applied = Applied::default();
    let mut wanted = Vec::new();
    for statement in statements(sql) {
        let keeps = |name: &str| there.contains(name);
        match about(&tokens(statement)) {
            Some(About::Role { name, made }) if keeps(&name) => {
                if made {
                    applied.kept.push(name);
                }
            }
            Some(About::Role { name, made }) => {
                if made {
                    applied.made.push(name);
                }
                wanted.push(statement);
            }
            Some(About::Grantee(name)) if keeps(&name) => {}
            Some(About::Grantee(_)) | None => wanted.push(statement),
            // Where things lie is this server's own affair.
            Some(About::Tablespace | About::Session) => {}
        }
    }
    if !applied.kept.is_empty() {
        cx.progress.note(&format!("roles that are there are kept: {}", listed(&applied.kept)));
    }
    if applied.made.is_empty() && wanted.is_empty() {
        return Ok(applied);
    }
    session.run(cx, "begin", "BEGIN; SET LOCAL standard_conforming_strings = on")?;
    for statement in wanted {
        if let Err(error) = session.run(cx, "make a role of the dump", statement) {
            let _ = session.set("ROLLBACK");
            return Err(error);
        }
    }
    session.run(cx, "make the roles of the dump", "COMMIT")?;
    if !applied.made.is_empty() {
        cx.progress.note(&format!("roles that were made: {}", listed(&applied.made)));
    }
    Ok(applied)
}

/// Refuses a server that has not the tablespaces that these databases lie in. Where they could be on
/// its host nobody has said.
pub(super) fn require_tablespaces(
    session: &mut Session,
    manifest: &Manifest,
    databases: &[&Database],
) -> Result<(), Error> {
    let there = super::catalog::tablespaces(session)?;
    let used: BTreeSet<&String> =
        databases.iter().flat_map(|database| &database.tablespaces).collect();
    let missing: Vec<&String> =
        used.into_iter().filter(|name| !there.iter().any(|has| has.name == **name)).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let was = manifest.tablespaces.iter().find(|one| one.name == **first);
    let was = was.map(|one| format!(" It was at {}.", one.location)).unwrap_or_default();
    let names: Vec<String> = missing.iter().map(|name| format!("{name:?}")).collect();
    Err(Error::new(
        Class::Refused,
        format!("the server has not the tablespaces that the dump uses: {}", names.join(", ")),
    )
    .hinting(format!(
        "Make each first, at a place that you choose: CREATE TABLESPACE {} LOCATION '/…'.{was}",
        super::script::quoted(first)
    )))
}

fn listed(names: &[String]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

fn about(tokens: &[Token]) -> Option<About> {
    let is = |at: usize, word: &str| tokens.get(at).is_some_and(|token| token.is(word));
    let name = |at: usize| tokens.get(at).and_then(Token::name).map(str::to_owned);
    let place = |word: &str| tokens.iter().position(|token| token.is(word));
    if is(0, "SET") || is(0, "SELECT") {
        return Some(About::Session);
    }
    if (is(0, "CREATE") || is(0, "ALTER")) && is(1, "ROLE") {
        return Some(About::Role { name: name(2)?, made: is(0, "CREATE") });
    }
    if (is(0, "CREATE") || is(0, "ALTER")) && is(1, "TABLESPACE") {
        return Some(About::Tablespace);
    }
    if is(0, "COMMENT") || is(0, "SECURITY") {
        let on = place("ON")?;
        return match is(on + 1, "ROLE") {
            true => Some(About::Role { name: name(on + 2)?, made: false }),
            false => Some(About::Tablespace),
        };
    }
    if is(0, "GRANT") || is(0, "REVOKE") {
        let on_tablespace = tokens
            .iter()
            .zip(tokens.iter().skip(1))
            .any(|(on, what)| on.is("ON") && what.is("TABLESPACE"));
        if on_tablespace {
            return Some(About::Tablespace);
        }
        let to = tokens.iter().rposition(|token| token.is("TO") || token.is("FROM"))?;
        return Some(About::Grantee(name(to + 1)?));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(statement: &str) -> Option<About> {
        super::about(&tokens(statement))
    }

    #[test]
    fn statements_are_told_apart() {
        let role = |name: &str, made| Some(About::Role { name: name.to_owned(), made });
        assert_eq!(about("CREATE ROLE \"o'dd; \"\"one\"\"\""), role("o'dd; \"one\"", true));
        assert_eq!(about("ALTER ROLE a WITH LOGIN PASSWORD 'x'"), role("a", false));
        assert_eq!(about("ALTER ROLE a IN DATABASE d SET x TO 'y'"), role("a", false));
        assert_eq!(about("COMMENT ON ROLE \"On\" IS 'ON ROLE x'"), role("On", false));
        let grantee = |name: &str| Some(About::Grantee(name.to_owned()));
        assert_eq!(about("GRANT a TO b WITH ADMIN OPTION GRANTED BY c"), grantee("b"));
        assert_eq!(about("GRANT SET ON PARAMETER work_mem TO b"), grantee("b"));
        for statement in [
            "CREATE TABLESPACE fast OWNER a LOCATION '/x'",
            "ALTER TABLESPACE fast SET (seq_page_cost = 1)",
            "COMMENT ON TABLESPACE fast IS 'x'",
            "GRANT ALL ON TABLESPACE fast TO b",
        ] {
            assert_eq!(about(statement), Some(About::Tablespace), "{statement}");
        }
        assert_eq!(about("SET client_encoding = 'UTF8'"), Some(About::Session));
    }
}
