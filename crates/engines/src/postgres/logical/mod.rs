//! The engine `postgres` by dumps (`method = "logical"`): each database as `pg_dump` writes it, with
//! the roles and what else belongs to the server as a whole.
//!
//! A dump is loaded into databases that nobody knows, beside those that are there, and put in place by
//! their new names in one transaction. So a standby is at the old point or the new one, and what is
//! stopped halfway leaves nothing that looks whole. A standby's databases admit nobody until it takes
//! over: nobody can have written to them.

mod catalog;
mod dump;
mod globals;
mod listing;
mod load;
mod manifest;
mod part;
mod script;
mod swap;
mod tools;
mod trial;

use super::connect::{Address, Session, missing};
use super::programs::Owner;
use crate::control::Control;
use crate::files::{no_link, plain_path};
use crate::{
    Abilities, CaptureSink, Captured, Context, Engine, Error, Inspection, Part, Password, Promoted,
    Proof, Purpose, Refresh, Rehearsal, Rehearsed, Root, RootKind, SnapshotMeta, Staged, Verdict,
};
use load::{Import, Loader, admit, holds};
use manifest::{DATABASES, Database, Detail, FILE, GLOBALS, Manifest, every_server_has};
use model::config::Service;
use model::{CancelToken, Class, ServiceName};
use std::fs;
use std::path::{Path, PathBuf};
use swap::{Stands, Swap};
use tools::Tools;

/// Where a dump is in snapshots.
const DUMP: &str = "/postgres/dump";

/// A service of engine `postgres` that is dumped.
#[derive(Debug)]
pub struct Logical {
    name: ServiceName,
    address: Address,
    path: PathBuf,
    bin_dir: Option<PathBuf>,
    control: Control,
}

impl Logical {
    /// Reads and judges the definition; the password is what its `url` leaves out.
    pub fn new(
        name: &ServiceName,
        definition: &Service,
        password: Option<Password>,
    ) -> Result<Self, Error> {
        let address = Address::of(name, definition, password)?;
        let path = definition
            .path
            .as_deref()
            .ok_or_else(|| missing(name, "path", "/var/lib/mainstay-dumps/shop"))?;
        Ok(Logical {
            name: name.clone(),
            address,
            path: plain_path(name, path)?,
            bin_dir: definition.bin_dir.clone(),
            control: Control::of(name, definition),
        })
    }

    fn tools(&self, cx: &Context<'_>, major: u32) -> Result<Tools, Error> {
        Tools::find(&self.name, self.bin_dir.as_deref(), major, cx.cancel)
    }

    /// Loads a whole dump beside what is there.
    fn load(
        &self,
        cx: &Context<'_>,
        dump: &Path,
        replaces: Vec<load::Loaded>,
    ) -> Result<Import, Error> {
        let manifest = Manifest::read(dump)?;
        let (mut session, _) = catalog::anywhere(&self.address)?;
        let server = catalog::Server::ask(&mut session)?;
        let tools = self.tools(cx, server.major.max(manifest.major))?;
        let loader = Loader {
            service: &self.name,
            address: &self.address,
            tools: &tools,
            no_tablespaces: false,
        };
        let databases: Vec<&Database> = manifest.restorable().collect();
        loader.ready(&mut session, &manifest, &databases)?;
        let roles = manifest::text(&dump.join(GLOBALS))?;
        globals::apply(cx, &mut session, &roles)?;
        let named: Vec<_> = databases.iter().map(|one| (*one, one.name.as_str())).collect();
        let databases = loader.load(cx, &mut session, dump, &named)?;
        let import = Import { databases, replaces };
        import.write(dump)?;
        Ok(import)
    }

    /// What an earlier refresh put here, and nobody has opened since.
    fn untouched(&self, session: &mut Session, old: &Path) -> Result<Vec<load::Loaded>, Error> {
        let Some(record) = Import::read(old)? else { return Ok(Vec::new()) };
        let there = catalog::databases(session)?;
        let is_closed = |one: &load::Loaded| {
            there.iter().any(|db| {
                db.oid == one.oid && db.name == one.name && (!db.open || every_server_has(&db.name))
            })
        };
        Ok(record.databases.into_iter().filter(is_closed).collect())
    }
}

impl Engine for Logical {
    fn name(&self) -> &str {
        "postgres"
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            live_capture: true,
            start_stop: self.control.can_start_stop(),
            promote: false,
            log: false,
            check: true,
        }
    }

    fn refresh(&self) -> Refresh {
        Refresh::Import
    }

    fn roots(&self) -> Vec<Root> {
        vec![Root {
            in_snapshot: DUMP.to_owned(),
            on_host: self.path.clone(),
            kind: RootKind::Tree,
        }]
    }

    fn inspect(&self, cx: &Context<'_>) -> Result<Inspection, Error> {
        let mut found = Inspection {
            running: self.control.running(cx)?,
            has_data: false,
            version: None,
            size_bytes: None,
            position: None,
            replayed: None,
            following: false,
            unarchived: None,
            doubts: Vec::new(),
            summary: String::new(),
        };
        let asked = catalog::anywhere(&self.address).and_then(|(mut session, _)| {
            let server = catalog::Server::ask(&mut session)?;
            Ok((server, catalog::databases(&mut session)?))
        });
        let (server, databases) = match asked {
            Ok(asked) => asked,
            Err(error) => {
                found.summary = format!("the server cannot be asked: {error}");
                return Ok(found);
            }
        };
        let ours: Vec<_> =
            databases.iter().filter(|one| !catalog::is_temporary(&one.name)).collect();
        let size = ours.iter().fold(0_u64, |sum, one| sum.saturating_add(one.size_bytes));
        let own = ours.iter().filter(|one| !every_server_has(&one.name)).count();
        let shared = ours.iter().any(|one| {
            every_server_has(&one.name)
                && one.open
                && catalog::has_content(&self.address, &one.name).unwrap_or(false)
        });
        found.has_data = own > 0 || shared;
        found.size_bytes = Some(size);
        found.summary = format!(
            "PostgreSQL {} at {}, {own} databases, {}",
            server.version,
            self.address.shown(),
            model::size::human(size)
        );
        found.version = Some(server.version);
        Ok(found)
    }

    fn reach(&self, _cx: &Context<'_>) -> Result<(), Error> {
        catalog::anywhere(&self.address).map(drop)
    }

    fn capture(&self, cx: &Context<'_>, sink: &mut dyn CaptureSink) -> Result<Captured, Error> {
        dump::capture(self, cx, sink)
    }

    fn prepare(
        &self,
        cx: &Context<'_>,
        _meta: &SnapshotMeta,
        staged: &[Staged],
        purpose: &Purpose,
    ) -> Result<(), Error> {
        go_on(cx)?;
        let dump = dump_of(staged)?;
        Manifest::read(&dump.staged)?;
        let replaces = match purpose {
            Purpose::Scratch { .. } => return Ok(()),
            // What a primary has is put aside, whatever put it there.
            Purpose::Primary { .. } => Vec::new(),
            Purpose::Standby => {
                let (mut session, _) = catalog::anywhere(&self.address)?;
                self.untouched(&mut session, &dump.target)?
            }
        };
        self.load(cx, &dump.staged, replaces).map(drop)
    }

    fn abandon(&self, cx: &Context<'_>) -> Result<(), Error> {
        let (mut session, _) = catalog::anywhere(&self.address)?;
        catalog::drop_leftovers(cx, &mut session, &self.name).map(drop)
    }

    fn occupied(
        &self,
        _cx: &Context<'_>,
        meta: &SnapshotMeta,
        purpose: &Purpose,
    ) -> Result<Option<String>, Error> {
        if matches!(purpose, Purpose::Scratch { .. }) {
            return Ok(None);
        }
        let detail = Detail::of(&meta.detail)?;
        let (mut session, _) = catalog::anywhere(&self.address)?;
        let there = catalog::databases(&mut session)?;
        let record = Import::read(&self.path)?.unwrap_or_default().databases;
        let standby = *purpose == Purpose::Standby;
        if standby {
            for one in &record {
                if !there.iter().any(|db| db.oid == one.oid && db.name == one.name) {
                    return Ok(Some(format!(
                        "database {:?}, which the last refresh put here, is not there any more",
                        one.name
                    )));
                }
            }
        }
        for told in detail.databases.iter().filter(|told| told.is_restored()) {
            let Some(db) = there.iter().find(|db| db.name == told.name) else { continue };
            if standby && holds(&record, &db.name, db.oid) {
                if db.open && !every_server_has(&db.name) {
                    return Ok(Some(format!(
                        "database {:?} was opened since the last refresh put it here, and may have \
                         been written to",
                        db.name
                    )));
                }
                continue;
            }
            if !db.open || catalog::has_content(&self.address, &db.name)? {
                return Ok(Some(format!(
                    "the server at {} has a database {:?} already",
                    self.address.shown(),
                    db.name
                )));
            }
        }
        Ok(None)
    }

    fn ready_to_replace(
        &self,
        _cx: &Context<'_>,
        _root: &Root,
        target: &Path,
    ) -> Result<(), Error> {
        no_link(target)
    }

    fn activate(
        &self,
        cx: &Context<'_>,
        _meta: &SnapshotMeta,
        purpose: &Purpose,
    ) -> Result<(), Error> {
        let closed = match purpose {
            Purpose::Scratch { .. } => return Ok(()),
            Purpose::Standby => true,
            Purpose::Primary { .. } => false,
        };
        let mut import = Import::read(&self.path)?;
        let where_all_are = |import: &Import| -> Result<Vec<Stands>, Error> {
            let (mut session, _) = catalog::anywhere(&self.address)?;
            import.databases.iter().map(|one| swap::stands(&mut session, one)).collect()
        };
        let mut stand = import.as_ref().map(where_all_are).transpose()?;
        if stand.as_ref().is_none_or(|stand| stand.contains(&Stands::Missing)) {
            // Somebody has dropped what was loaded: the dump is here, so it is loaded once more.
            let replaces = import.map(|import| import.replaces).unwrap_or_default();
            let again = self.load(cx, &self.path, replaces)?;
            stand = Some(where_all_are(&again)?);
            import = Some(again);
        }
        let import = import.unwrap_or_default();
        let ready = stand.unwrap_or_default().contains(&Stands::Ready);
        if ready || (import.databases.is_empty() && !import.replaces.is_empty()) {
            let swap = Swap {
                service: &self.name,
                address: &self.address,
                loaded: &import.databases,
                replaces: &import.replaces,
                closed,
            };
            for (name, aside) in swap.run(cx)? {
                cx.progress.note(&format!("database {name:?} is put aside as {aside:?}, closed"));
            }
        }
        let (mut session, _) = catalog::anywhere(&self.address)?;
        catalog::drop_leftovers(cx, &mut session, &self.name)?;
        if !closed {
            for one in import.databases.iter().filter(|one| !every_server_has(&one.name)) {
                admit(cx, &mut session, &one.name, true)?;
            }
        }
        Ok(())
    }

    fn control(&self) -> &Control {
        // Not of the server, which has to run for a dump and for a refresh: of what works with the
        // databases.
        &self.control
    }

    fn promote(&self, _cx: &Context<'_>) -> Result<Promoted, Error> {
        // Opening the databases is all there is to do, and `activate` does it.
        Ok(Promoted { position: None })
    }

    fn check(&self, cx: &Context<'_>, copy: &[Staged]) -> Result<Verdict, Error> {
        trial::check(self, cx, &dump_of(copy)?.staged)
    }

    fn proof(&self) -> Proof {
        Proof::Server
    }

    fn rehearses_as(&self) -> Option<(u32, u32)> {
        trial::server_user().map(|owner: Owner| (owner.uid, owner.gid))
    }

    fn rehearse(&self, cx: &Context<'_>, rehearsal: &Rehearsal<'_>) -> Result<Rehearsed, Error> {
        trial::rehearse(self, cx, rehearsal, &dump_of(rehearsal.copy)?.staged)
    }

    fn part_needs(&self, meta: &SnapshotMeta, part: &Part) -> Result<Vec<String>, Error> {
        let told = Detail::of(&meta.detail)?;
        let told = told.database(&part.database)?;
        part::names(part)?;
        Ok(vec![
            format!("{DUMP}/{FILE}"),
            format!("{DUMP}/{GLOBALS}"),
            format!("{DUMP}/{DATABASES}/{}", told.directory),
        ])
    }

    fn restore_part(
        &self,
        cx: &Context<'_>,
        _meta: &SnapshotMeta,
        fetched: &Path,
        part: &Part,
    ) -> Result<Vec<String>, Error> {
        part::restore(self, cx, &fetched.join(DUMP.trim_start_matches('/')), part)
    }
}

/// The dump among the roots.
fn dump_of(staged: &[Staged]) -> Result<&Staged, Error> {
    staged.iter().find(|staged| staged.root.in_snapshot == DUMP).ok_or_else(|| {
        Error::invalid(format!("the snapshot has no dump at {DUMP}")).hinting(
            "It was made with another `method`. Restore it with `--target DIR`, or with a definition \
             of that method.",
        )
    })
}

/// The same context for what a cancel must not stop.
fn calm<'c>(cx: &Context<'c>, cancel: &'c CancelToken) -> Context<'c> {
    Context { cancel, ..*cx }
}

/// Ends what is going on if somebody asked for it.
fn go_on(cx: &Context<'_>) -> Result<(), Error> {
    if cx.cancel.is_cancelled() {
        return Err(Error::new(Class::Cancelled, "cancelled"));
    }
    Ok(())
}

/// Removes a directory of ours, whatever is in it.
fn clear(dir: &Path) {
    let _ = fs::remove_dir_all(dir);
}
