//! Puts databases that were loaded in place of those that are there: all of them, by new names, in
//! one transaction. Whoever asks before it sees the old ones, and after it the new.
//!
//! What was there is kept under another name, unless it is empty. Whether it is, is asked last: a
//! session that was with it could have written to it until it was ended, and only one that nobody is
//! connected to gets another name, under which nobody looks for it.

use super::load::{Loaded, admit, holds};
use super::manifest::every_server_has;
use super::script::{literal, quoted};
use super::{calm, catalog};
use crate::postgres::connect::{Address, Session};
use crate::{Context, Error};
use jiff::Timestamp;
use model::{CancelToken, Class, Classify, ServiceName};
use std::time::{Duration, Instant};

/// How long sessions that come back again and again may keep a database from being renamed.
const PATIENCE: Duration = Duration::from_secs(60);
/// PostgreSQL's own limit on names.
const LONGEST_NAME: usize = 63;

/// What becomes of what was loaded.
pub(super) struct Swap<'a> {
    pub(super) service: &'a ServiceName,
    pub(super) address: &'a Address,
    pub(super) loaded: &'a [Loaded],
    /// What an earlier import put in place, and nobody has opened since: it goes.
    pub(super) replaces: &'a [Loaded],
    /// What is put in place admits nobody until it is opened: nobody can write to it.
    pub(super) closed: bool,
}

/// Where something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// Loaded, and under its own name already.
    InPlace,
    /// Loaded, under its temporary name.
    Ready,
    /// Not there at all.
    Missing,
}

/// A database that was put aside: it admits nobody.
struct Aside {
    /// Its number among those that make room.
    number: usize,
    name: String,
    to: String,
    /// It admitted sessions before, so it can be looked into.
    was_open: bool,
}

/// Where a database that was loaded is now.
pub(super) fn stands(session: &mut Session, one: &Loaded) -> Result<Stands, Error> {
    let rows = session.rows(
        "look for a database",
        "SELECT datname::text FROM pg_database WHERE oid = $1",
        &[&one.oid],
    )?;
    Ok(match rows.first().map(|row| row.get::<_, String>(0)) {
        Some(name) if name == one.name => Stands::InPlace,
        Some(name) if name == one.temporary => Stands::Ready,
        _ => Stands::Missing,
    })
}

impl Swap<'_> {
    /// Puts everything in place, and says what was put aside under which name.
    pub(super) fn run(&self, cx: &Context<'_>) -> Result<Vec<(String, String)>, Error> {
        cx.progress.phase("putting the databases in place");
        let (mut first, at) = catalog::anywhere(self.address)?;
        // A database that somebody is connected to cannot be renamed, not even by that somebody. So
        // this is done from one that is made for it.
        let seat = format!("{}seat", catalog::prefix(self.service));
        catalog::drop_database(cx, &mut first, &seat)?;
        let make = format!("CREATE DATABASE {} TEMPLATE template0", quoted(&seat));
        first.run(cx, "make a database to work from", &make)?;
        drop(first);
        let done = self.work_from(cx, &seat);
        // Whatever came of it; and the one that we were in may have another name now.
        let cleaned = catalog::anywhere(&at).and_then(|(mut session, _)| {
            if done.is_ok() {
                let old = format!("{}old", catalog::prefix(self.service));
                for left in catalog::databases(&mut session)? {
                    if left.name.starts_with(&old) {
                        catalog::drop_database(cx, &mut session, &left.name)?;
                    }
                }
            }
            catalog::drop_database(cx, &mut session, &seat)
        });
        let aside = done?;
        if let Err(error) = cleaned {
            // The next import drops it.
            cx.progress.warn(&error.to_string());
        }
        Ok(aside)
    }

    fn work_from(&self, cx: &Context<'_>, seat: &str) -> Result<Vec<(String, String)>, Error> {
        let here = self.address.clone().with_database(seat);
        let mut session = here.connect()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.transaction(cx, &mut session) {
                Ok(aside) => return self.without_empty(cx, &mut session, &here, aside),
                Err(error) => {
                    let _ = session.set("ROLLBACK");
                    if !in_use(&error) || Instant::now() >= deadline {
                        return Err(error);
                    }
                    cx.progress.note("sessions came back; they are ended once more");
                }
            }
        }
    }

    fn transaction(&self, cx: &Context<'_>, session: &mut Session) -> Result<Vec<Aside>, Error> {
        let there = catalog::databases(session)?;
        let prefix = catalog::prefix(self.service);
        let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut aside = Vec::new();
        session.run(cx, "begin", "BEGIN")?;
        // What an earlier import put in place and this one has not is gone at the source.
        let gone = there.iter().filter(|one| {
            holds(self.replaces, &one.name, one.oid)
                && !self.loaded.iter().any(|loaded| loaded.name == one.name)
        });
        let displaced = there
            .iter()
            .filter(|one| self.loaded.iter().any(|loaded| loaded.name == one.name))
            .filter(|one| !self.loaded.iter().any(|loaded| loaded.oid == one.oid));
        for (number, old) in displaced.chain(gone).enumerate() {
            let ours = holds(self.replaces, &old.name, old.oid);
            let to = match ours {
                true => format!("{prefix}old{number}"),
                false => aside_name(&old.name, &stamp),
            };
            session.run(
                cx,
                "end the sessions of a database",
                &format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}",
                    literal(&old.name)
                ),
            )?;
            rename(cx, session, &old.name, &to)?;
            if !ours {
                // What was put aside is not dumped, and nobody takes it for the one in place.
                admit(cx, session, &to, false)?;
                aside.push(Aside { number, name: old.name.clone(), to, was_open: old.open });
            }
        }
        for one in self.loaded {
            if stands(session, one)? == Stands::InPlace {
                continue;
            }
            rename(cx, session, &one.temporary, &one.name)?;
            if self.closed && !every_server_has(&one.name) {
                admit(cx, session, &one.name, false)?;
            }
        }
        session.run(cx, "put the databases in place", "COMMIT")?;
        Ok(aside)
    }

    /// Lets what was put aside, and is empty, go with the rest. Says what stays.
    fn without_empty(
        &self,
        cx: &Context<'_>,
        session: &mut Session,
        here: &Address,
        aside: Vec<Aside>,
    ) -> Result<Vec<(String, String)>, Error> {
        // The databases are in place: a cancel comes too late, and would leave one of these open.
        let never = CancelToken::new();
        let cx = &calm(cx, &never);
        let mut kept = Vec::new();
        for Aside { number, name, to, was_open } in aside {
            let old = format!("{}old{number}", catalog::prefix(self.service));
            let went = match was_open {
                true => is_empty(cx, session, here, &to).and_then(|empty| {
                    if empty {
                        rename(cx, session, &to, &old)?;
                    }
                    Ok(empty)
                }),
                false => Ok(false),
            };
            if let Err(error) = &went {
                cx.progress.note(&format!("whether {to:?} is empty is not known: {error}"));
            }
            if !matches!(went, Ok(true)) {
                kept.push((name, to));
            }
        }
        Ok(kept)
    }
}

/// Whether a database that was put aside has nothing in it, and nobody is about to change that. It
/// admits nobody again when this returns.
fn is_empty(
    cx: &Context<'_>,
    session: &mut Session,
    here: &Address,
    aside: &str,
) -> Result<bool, Error> {
    admit(cx, session, aside, true)?;
    let look = here.clone().with_database(aside).connect();
    admit(cx, session, aside, false)?;
    let mut look = look?;
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                  AND pid <> pg_backend_pid() AND backend_type IS DISTINCT FROM 'autovacuum worker'";
    let others: i64 = look.row("tell who uses a database", others, &[])?.get(0);
    let content = catalog::content(&mut look)?;
    look.end(here)?;
    Ok(others == 0 && !content)
}

fn rename(cx: &Context<'_>, session: &mut Session, from: &str, to: &str) -> Result<(), Error> {
    let sql = format!("ALTER DATABASE {} RENAME TO {}", quoted(from), quoted(to));
    session.run(cx, &format!("rename database {from:?}"), &sql)
}

/// A name that tells what it was and since when it is not.
fn aside_name(name: &str, stamp: &str) -> String {
    let suffix = format!("_replaced_{stamp}");
    let mut kept = name.to_owned();
    while kept.len() + suffix.len() > LONGEST_NAME {
        kept.pop();
    }
    kept + &suffix
}

/// Whether a rename failed because somebody uses the database.
fn in_use(error: &Error) -> bool {
    if error.class() == Class::Cancelled {
        return false;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(postgres) = inner.downcast_ref::<postgres::Error>() {
            return postgres.code() == Some(&postgres::error::SqlState::OBJECT_IN_USE);
        }
        cause = inner.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_was_put_aside_fit() {
        let stamp = "20261121T010203Z";
        assert_eq!(aside_name("shop", stamp), "shop_replaced_20261121T010203Z");
        let long = aside_name(&"ü".repeat(31), stamp);
        assert!(long.len() <= LONGEST_NAME && long.ends_with(stamp), "{long}");
    }
}
