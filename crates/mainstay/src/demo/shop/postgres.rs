//! The shop in a PostgreSQL server of its own, with a socket in the host's directory and no port.

use super::{Shop, id, number_of, prices, total};
use crate::demo::judge::Books;
use crate::demo::stage::{Identity, Place};
use crate::failure::Failure;
use model::Class;
use postgres::{Client, NoTls};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const SCHEMA: &str = "
    CREATE EXTENSION IF NOT EXISTS amcheck;
    CREATE TABLE orders (number bigint PRIMARY KEY, host text NOT NULL, total bigint NOT NULL);
    CREATE TABLE items (number bigint NOT NULL, position int NOT NULL, price bigint NOT NULL,
        PRIMARY KEY (number, position));
    CREATE TABLE till (total bigint NOT NULL);
    INSERT INTO till VALUES (0);";

/// Programs without which there is no demo.
const PROGRAMS: [&str; 4] = ["initdb", "pg_ctl", "pg_basebackup", "pg_amcheck"];

/// Where Debian puts them, by version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// What the shop's server is told beyond its defaults. Segments are archived at least every second,
/// which bounds what a loss can cost.
const SETTINGS: &str = "
listen_addresses = ''
fsync = on
shared_buffers = 16MB
max_connections = 20
max_wal_size = 256MB
wal_level = replica
archive_mode = on
archive_timeout = 1s
archive_command = 'mainstay wal push shop %p'
";

pub(super) struct Postgres {
    client: Client,
}

/// The directory of PostgreSQL's programs: on PATH, or where Debian puts them.
pub(crate) fn programs() -> Result<PathBuf, Failure> {
    programs_among(&std::env::var_os("PATH").unwrap_or_default(), Path::new(DEBIAN))
}

/// PATH comes first, then the versions, the newest first.
fn programs_among(path: &OsStr, debian: &Path) -> Result<PathBuf, Failure> {
    let mut places: Vec<PathBuf> = std::env::split_paths(path).collect();
    let versions = std::fs::read_dir(debian).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    places.extend(versions.into_iter().rev().map(|(_, place)| place));
    let whole = |place: &PathBuf| PROGRAMS.iter().all(|program| place.join(program).is_file());
    places.into_iter().find(whole).ok_or_else(|| {
        Failure::invalid(format!(
            "the demo with PostgreSQL needs its programs ({}), and they are neither on PATH nor in \
             {DEBIAN}/*/bin",
            PROGRAMS.join(", ")
        ))
        .hint(
            "Install PostgreSQL (on Debian: apt-get install postgresql), or run the demo without \
             --engine.",
        )
    })
}

fn failed(what: &str) -> impl Fn(postgres::Error) -> Failure {
    move |e| Failure::new(Class::Failed, format!("the shop cannot {what}")).because(&e)
}

pub(super) fn connect(place: &Place, database: &str) -> Result<Client, Failure> {
    let socket = place.run();
    let url = format!("host={} user=postgres dbname={database}", socket.display());
    Client::connect(&url, NoTls).map_err(failed("reach its database"))
}

impl Postgres {
    pub(super) fn open(place: &Place) -> Result<Postgres, Failure> {
        Ok(Postgres { client: connect(place, "shop")? })
    }
}

impl Shop for Postgres {
    fn take(&mut self, number: u64, host: &str, pause: Duration) -> Result<(), Failure> {
        let failed = failed("take an order");
        let number_there = id(number);
        let mut order = self.client.transaction().map_err(&failed)?;
        order
            .execute(
                "INSERT INTO orders VALUES ($1, $2, $3)",
                &[&number_there, &host, &total(number)],
            )
            .map_err(&failed)?;
        std::thread::sleep(pause);
        for (position, price) in (1_i32..).zip(prices(number)) {
            order
                .execute(
                    "INSERT INTO items VALUES ($1, $2, $3)",
                    &[&number_there, &position, &price],
                )
                .map_err(&failed)?;
        }
        order.execute("UPDATE till SET total = total + $1", &[&total(number)]).map_err(&failed)?;
        order.commit().map_err(&failed)
    }
}

/// Makes a cluster, starts it, and fills it. It runs on from here.
pub(super) fn seed(place: &Place, orders: u64) -> Result<(), Failure> {
    let data = place.data();
    run(
        place,
        "initdb",
        &[
            "--pgdata".as_ref(),
            data.as_os_str(),
            "--username=postgres".as_ref(),
            "--auth=trust".as_ref(),
            "--data-checksums".as_ref(),
            "--no-instructions".as_ref(),
        ],
    )?;
    let file = data.join("postgresql.conf");
    let text =
        std::fs::read_to_string(&file).and_then(|text| std::fs::write(&file, text + SETTINGS));
    text.map_err(|e| Failure::io("write", file.display(), &e))?;
    let _running = Started::without_archive(place)?;
    let mut client = connect(place, "postgres")?;
    client.batch_execute("CREATE DATABASE shop").map_err(failed("be made"))?;
    drop(client);
    let mut client = connect(place, "shop")?;
    let failed = failed("be made");
    client.batch_execute(SCHEMA).map_err(&failed)?;
    let mut past = client.transaction().map_err(&failed)?;
    let last = id(orders);
    // The prices as `super::prices` has them: so many round trips would be a long prologue.
    past.execute(
        "INSERT INTO items
         SELECT n, p, CASE p WHEN 1 THEN 100 + n % 9973 WHEN 2 THEN 250 + 2 * (n % 9973)
                             ELSE 999 + 3 * (n % 9973) END
         FROM generate_series(1::bigint, $1) n, generate_series(1, 3) p",
        &[&last],
    )
    .map_err(&failed)?;
    past.batch_execute(
        "INSERT INTO orders SELECT number, 'past', sum(price) FROM items GROUP BY number;
         UPDATE till SET total = (SELECT sum(total) FROM orders);",
    )
    .map_err(&failed)?;
    past.commit().map_err(&failed)
}

/// A server that runs as long as this lives, and archives nothing: the vault knows nothing of its
/// host yet.
pub(super) struct Started<'a>(&'a Place);

impl Started<'_> {
    pub(super) fn without_archive(place: &Place) -> Result<Started<'_>, Failure> {
        let options = format!("-k {} -c archive_mode=off", place.run().display());
        server(place, &["start", "-w", "-o", &options])?;
        Ok(Started(place))
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        // One that does not stop is killed with everything else on its host.
        let _ = server(self.0, &["stop", "-w", "-m", "fast"]);
    }
}

pub(super) fn books(place: &Place) -> Result<Books, Failure> {
    let failed = failed("be counted");
    let mut client = connect(place, "shop")?;
    let mut books = Books::default();
    for row in client.query("SELECT number FROM orders", &[]).map_err(&failed)? {
        let number: i64 = row.try_get(0).map_err(&failed)?;
        books.numbers.insert(number_of(number));
    }
    let torn = client
        .query(
            "SELECT o.number, count(i.number) FROM orders o LEFT JOIN items i USING (number)
             GROUP BY o.number, o.total
             HAVING count(i.number) <> 3 OR coalesce(sum(i.price), 0) <> o.total",
            &[],
        )
        .map_err(&failed)?;
    for row in torn {
        let (number, items): (i64, i64) =
            (row.try_get(0).map_err(&failed)?, row.try_get(1).map_err(&failed)?);
        books.torn.push(format!("order {number} has {items} items, or they do not add up"));
    }
    let row = client
        .query_one("SELECT (SELECT total FROM till), (SELECT sum(total)::bigint FROM orders)", &[])
        .map_err(&failed)?;
    let (till, sum): (i64, i64) =
        (row.try_get(0).map_err(&failed)?, row.try_get(1).map_err(&failed)?);
    if till != sum {
        books.torn.push(format!("the till holds {till}, the orders are worth {sum}"));
    }
    Ok(books)
}

/// `pg_amcheck` reads every table and index of every database and follows each into the other.
pub(super) fn unsound(place: &Place) -> Result<Option<String>, Failure> {
    let output = command(place, "pg_amcheck")?
        .arg("--host")
        .arg(place.run())
        .args(["--username", "postgres", "--database", "shop", "--heapallindexed"])
        .output()
        .map_err(|e| Failure::io("start", "pg_amcheck", &e))?;
    if output.status.success() {
        return Ok(None);
    }
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(Some(said.trim().to_owned()))
}

fn server(place: &Place, words: &[&str]) -> Result<(), Failure> {
    let (data, log) = (place.data(), place.run().join("server.log"));
    let mut all: Vec<&OsStr> =
        vec!["--pgdata".as_ref(), data.as_os_str(), "-l".as_ref(), log.as_os_str()];
    all.extend(words.iter().map(OsStr::new));
    run(place, "pg_ctl", &all)
}

/// Runs one of PostgreSQL's programs to its end. What it prints goes to a file, because a server
/// that it starts keeps its output open.
fn run(place: &Place, program: &str, words: &[&OsStr]) -> Result<(), Failure> {
    let log = place.run().join(format!("{program}.log"));
    let file = std::fs::File::create(&log).map_err(|e| Failure::io("make", log.display(), &e))?;
    let again = file.try_clone().map_err(|e| Failure::io("make", log.display(), &e))?;
    let status = command(place, program)?
        .args(words)
        .stdout(file)
        .stderr(again)
        .status()
        .map_err(|e| Failure::io("start", program, &e))?;
    if status.success() {
        return Ok(());
    }
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    Err(Failure::new(Class::Failed, format!("{program} failed: {status}"))
        .listing(said.lines().map(str::to_owned).collect()))
}

fn command(place: &Place, program: &str) -> Result<Command, Failure> {
    let mut command = Command::new(programs()?.join(program));
    command.stdin(Stdio::null()).current_dir(place.run());
    Identity::of(place.directory())?.wear(&mut command);
    Ok(command)
}

/// The words that start the server of a host, for its start script.
pub(crate) fn start_words(data: &Path, run: &Path) -> String {
    format!(
        "pg_ctl start --silent -w -D '{}' -l '{}/server.log' -o '-k {}'",
        data.display(),
        run.display(),
        run.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_set_of_programs_is_found_and_none_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let missing = programs_among(OsStr::new("/nonexistent"), home.path()).unwrap_err();
        assert!(missing.one_line().contains("initdb"), "{missing:?}");
        for (version, programs) in
            [("9", &PROGRAMS[..]), ("15", &PROGRAMS[..]), ("16", &PROGRAMS[..2])]
        {
            let bin = home.path().join(version).join("bin");
            std::fs::create_dir_all(&bin).unwrap();
            for program in programs {
                std::fs::write(bin.join(program), "").unwrap();
            }
        }
        let found = programs_among(OsStr::new("/nonexistent"), home.path()).unwrap();
        assert_eq!(found, home.path().join("15/bin"));
    }
}
