//! Dumps a server's databases, each at one moment of its own, and hands the dump to the sink.
//!
//! What comes of it is staged in the operation's own directory, which goes when the operation ends,
//! however it does. The archives are not compressed: what has not changed since the last dump is the
//! same bytes again, and is stored once.

use super::catalog::{self, Listed, Server};
use super::manifest::{self, DATABASES, Database, GLOBALS, Manifest};
use super::tools::{self, Tools};
use super::{DUMP, Logical, go_on};
use crate::postgres::connect::Session;
use crate::postgres::facts;
use crate::{CaptureSink, Captured, Context, Error, TreeOptions};
use model::Class;
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Besides what the databases need.
const SPACE_MARGIN: u64 = 16 << 20;

pub(super) fn capture(
    engine: &Logical,
    cx: &Context<'_>,
    sink: &mut dyn CaptureSink,
) -> Result<Captured, Error> {
    go_on(cx)?;
    cx.progress.phase("looking at the server");
    let mut session = engine.address.connect()?;
    let server = Server::ask(&mut session)?;
    if server.in_recovery {
        return Err(Error::new(
            Class::Refused,
            "the server is a standby: it replays another server's log",
        )
        .hinting("Dump the primary: of a standby nobody can tell how old what it holds is."));
    }
    let tools = Tools::find(&engine.name, engine.bin_dir.as_deref(), server.major, cx.cancel)?;
    let listed = chosen(engine, cx, &mut session)?;
    let need = listed.iter().fold(SPACE_MARGIN, |sum, one| sum.saturating_add(one.size_bytes));
    room_for(cx.scratch, need, "the dump")?;

    let staging = cx.scratch.join("dump");
    private_dir(&staging)?;
    private_dir(&staging.join(DATABASES))?;
    let taken = facts::now(&mut session)?;
    globals(engine, cx, &tools, &server, &staging)?;
    let mut databases = Vec::new();
    for one in &listed {
        go_on(cx)?;
        databases.push(dump_one(engine, cx, &tools, &mut session, one, &staging)?);
    }
    let manifest = Manifest {
        format: 1,
        server_version: server.version.clone(),
        major: server.major,
        pg_dump: tools.version.clone(),
        taken,
        superuser: server.superuser,
        role_passwords: server.reads_passwords,
        tablespaces: catalog::tablespaces(&mut session)?,
        databases,
    };
    manifest.write(&staging)?;
    drop(session);
    cx.progress.phase("reading the dump");
    sink.tree(DUMP, &staging, &TreeOptions::default())?;
    Ok(Captured {
        source_time: taken,
        position: None,
        engine_version: Some(server.version),
        detail: manifest.detail()?,
    })
}

/// The databases that are dumped: all that accept connections. One that cannot be is no reason to
/// leave it out.
fn chosen(engine: &Logical, cx: &Context<'_>, session: &mut Session) -> Result<Vec<Listed>, Error> {
    let mut chosen = Vec::new();
    for one in catalog::databases(session)? {
        let name = &one.name;
        if !one.open {
            cx.progress.note(&format!("database {name:?} accepts no connections, and is left out"));
            continue;
        }
        if catalog::is_temporary(name) {
            cx.progress.note(&format!("database {name:?} is of an import that was not finished"));
            continue;
        }
        if !one.admits {
            return Err(Error::invalid(format!(
                "role {:?} may not connect to database {name:?}",
                engine.address.user()
            ))
            .hinting(format!(
                "GRANT CONNECT ON DATABASE {} TO {}.",
                super::script::quoted(name),
                super::script::quoted(engine.address.user())
            )));
        }
        if name.contains(['\n', '\r']) {
            return Err(Error::invalid(format!(
                "database {name:?} has a line break in its name, which PostgreSQL's own programs \
                 refuse"
            ))
            .hinting("Give it another name: ALTER DATABASE … RENAME TO …."));
        }
        chosen.push(one);
    }
    Ok(chosen)
}

/// Roles, their memberships, tablespaces.
fn globals(
    engine: &Logical,
    cx: &Context<'_>,
    tools: &Tools,
    server: &Server,
    staging: &Path,
) -> Result<(), Error> {
    cx.progress.phase("dumping roles");
    let file = staging.join(GLOBALS);
    let mut command = tools
        .client("pg_dumpall", &engine.address)?
        .arg("--globals-only")
        .arg(format!("--database={}", engine.address.database()))
        .arg("--file")
        .arg(&file);
    if !server.reads_passwords {
        cx.progress.warn(&format!(
            "role {:?} may not read the passwords of roles: they are not in this dump",
            engine.address.user()
        ));
        command = command.arg("--no-role-passwords");
    }
    tools::run(cx, &command)?;
    fs::set_permissions(&file, Permissions::from_mode(0o600))
        .map_err(|e| Error::io("change the mode of", file.display(), e))
}

fn dump_one(
    engine: &Logical,
    cx: &Context<'_>,
    tools: &Tools,
    session: &mut Session,
    one: &Listed,
    staging: &Path,
) -> Result<Database, Error> {
    cx.progress.phase(&format!("dumping {}", one.name));
    let address = engine.address.clone().with_database(&one.name);
    let (content, extensions, tablespaces) = {
        let mut inside = address.connect()?;
        (
            catalog::content(&mut inside)?,
            catalog::extensions(&mut inside)?,
            catalog::used_tablespaces(&mut inside)?,
        )
    };
    let began = facts::now(session)?;
    let directory = manifest::encoded(&one.name);
    let archive = staging.join(DATABASES).join(&directory);
    let command = tools
        .client("pg_dump", &address)?
        .args(["--format=directory", "--compress=0", "--no-sync"])
        .arg(format!("--jobs={}", tools::jobs()))
        .arg("--file")
        .arg(&archive);
    tools::run(cx, &command)?;
    let database = Database {
        name: one.name.clone(),
        directory,
        owner: one.owner.clone(),
        encoding: one.encoding.clone(),
        collate: one.collate.clone(),
        ctype: one.ctype.clone(),
        size_bytes: one.size_bytes,
        dump_bytes: size_of(&archive)?,
        began,
        content,
        extensions,
        tablespaces,
    };
    database.is_there(staging)?;
    cx.progress.note(&format!(
        "database {:?}: {} on the server, {} in the dump",
        one.name,
        model::size::human(one.size_bytes),
        model::size::human(database.dump_bytes)
    ));
    Ok(database)
}

/// Refuses what a disk has no room for.
pub(super) fn room_for(place: &Path, need: u64, what: &str) -> Result<(), Error> {
    let stat = rustix::fs::statvfs(place)
        .map_err(|e| Error::io("ask for free space of", place.display(), e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= need {
        return Ok(());
    }
    Err(Error::new(
        Class::NoSpace,
        format!(
            "too little space at {}: {} are free, and {what} may need {}",
            place.display(),
            model::size::human(free),
            model::size::human(need)
        ),
    )
    .hinting("Free some space there; nothing was touched."))
}

pub(super) fn private_dir(dir: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().mode(0o700).create(dir);
    made.map_err(|e| Error::io("make", dir.display(), e))
}

/// The bytes of the files in a directory.
fn size_of(dir: &Path) -> Result<u64, Error> {
    let failed = |e| Error::io("look at", dir.display(), e);
    let mut size = 0_u64;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let meta = entry.and_then(|entry| entry.metadata()).map_err(failed)?;
        size = size.saturating_add(meta.len());
    }
    Ok(size)
}
