//! Where the server listens, and a session with it.

use crate::{Context, Error, Password};
use model::config::Service;
use model::{Class, Secret, ServiceName};
use postgres::config::Host;
use postgres::types::ToSql;
use postgres::{Client, Config, NoTls, Row, SimpleQueryMessage};
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may take to notice that a session was closed.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a running query looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(50);
/// Where servers put their socket unless they are told otherwise, Debian's first.
const SOCKET_DIRS: [&str; 3] = ["/run/postgresql", "/var/run/postgresql", "/tmp"];

/// How to reach a server, read off its URL once. Never shows the password.
#[derive(Clone)]
pub(super) struct Address {
    config: Config,
    /// What the URL leaves out, from where the definition says.
    password: Option<Password>,
    /// The directory of its socket, or the name of its host.
    pub(super) host: Place,
    /// Its port.
    pub(super) port: u16,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A socket in this directory.
    Socket(PathBuf),
    /// A name or an address.
    Tcp(String),
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Address {
    /// Where a service's own server is, as its definition says; connects to nothing.
    pub(super) fn of(
        service: &ServiceName,
        definition: &Service,
        password: Option<Password>,
    ) -> Result<Address, Error> {
        let example = "postgres://backup@/postgres?host=/run/postgresql";
        let url = definition.url.as_deref().ok_or_else(|| missing(service, "url", example))?;
        Ok(Address { password, ..Address::parse(service, url)? })
    }

    /// Judges the URL; connects to nothing.
    pub(super) fn parse(service: &ServiceName, url: &str) -> Result<Address, Error> {
        let bad = |what: String| {
            Error::invalid(format!("service {service}: `url` is not usable: {what}")).hinting(
                "Write it as `postgres://USER@/DATABASE?host=/run/postgresql` or \
                 `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with special characters as %XX.",
            )
        };
        // The parser's own words name parameters and never their values.
        let mut config = Config::from_str(url).map_err(|e| bad(e.to_string()))?;
        let host = match config.get_hosts() {
            [] => Place::Socket(default_socket_dir()),
            [Host::Unix(dir)] => Place::Socket(dir.clone()),
            // An unescaped `@` in the password ends up here.
            [Host::Tcp(name)] if name.contains('@') => {
                return Err(bad("there are two `@` in it".to_owned()));
            }
            [Host::Tcp(name)] => Place::Tcp(name.clone()),
            _ => return Err(bad("it names several hosts".to_owned())),
        };
        let port = match config.get_ports() {
            [] => 5432,
            [port] => *port,
            _ => return Err(bad("it names several ports".to_owned())),
        };
        if config.get_hosts().is_empty()
            && let Place::Socket(dir) = &host
        {
            config.host_path(dir);
        }
        if config.get_user().is_none() {
            return Err(bad("it names no user".to_owned()));
        }
        if config.get_dbname().is_none() {
            config.dbname("postgres");
        }
        config.connect_timeout(CONNECT_TIMEOUT).application_name("mainstay");
        Ok(Address { config, password: None, host, port })
    }

    /// The same server for another role and database, without password.
    pub(super) fn as_role(&self, role: &str) -> Address {
        let mut config = Config::new();
        match &self.host {
            Place::Socket(dir) => config.host_path(dir),
            Place::Tcp(name) => config.host(name),
        };
        config.port(self.port).user(role).dbname("postgres");
        config.connect_timeout(CONNECT_TIMEOUT).application_name("mainstay");
        Address { config, password: None, ..self.clone() }
    }

    /// A server that listens in a directory of ours.
    pub(super) fn in_dir(dir: &Path, role: &str) -> Address {
        let host = Place::Socket(dir.to_owned());
        Address { config: Config::new(), password: None, host, port: 5432 }.as_role(role)
    }

    /// The same server and role, for another database.
    pub(super) fn with_database(mut self, database: &str) -> Address {
        self.config.dbname(database);
        self
    }

    /// For messages.
    pub(super) fn shown(&self) -> String {
        match &self.host {
            Place::Socket(dir) => format!("{}/.s.PGSQL.{}", dir.display(), self.port),
            Place::Tcp(name) => format!("{name}:{}", self.port),
        }
    }

    /// The database that it connects to.
    pub(super) fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or("postgres")
    }

    /// The role that it connects as.
    pub(super) fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// As `libpq` takes it.
    pub(super) fn conninfo(&self, with_password: bool) -> String {
        let host = match &self.host {
            Place::Socket(dir) => dir.display().to_string(),
            Place::Tcp(name) => name.clone(),
        };
        let port = self.port.to_string();
        let mut pairs = vec![("host", host.as_str()), ("port", &port), ("user", self.user())];
        pairs.push(("dbname", self.config.get_dbname().unwrap_or("postgres")));
        pairs.push(("application_name", "mainstay"));
        let password = self.config.get_password().filter(|_| with_password);
        let password = password.map(|password| String::from_utf8_lossy(password));
        if let Some(password) = &password {
            pairs.push(("password", password));
        }
        let quoted = |(key, value): &(&str, &str)| {
            format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
        };
        pairs.iter().map(quoted).collect::<Vec<_>>().join(" ")
    }

    /// The password, if there is one: of the URL, or from where the definition says, or of the file
    /// that `libpq` reads.
    pub(super) fn password(&self) -> Result<Option<Secret>, Error> {
        if let Some(password) = self.config.get_password() {
            return Ok(Some(Secret::new(String::from_utf8_lossy(password).into_owned())));
        }
        match &self.password {
            Some(password) => password.get().map(Some),
            None => Ok(self.password_from_file()?.map(Secret::new)),
        }
    }

    /// The password may have been changed since it was fetched.
    pub(super) fn forget_password(&self) {
        if let Some(password) = &self.password {
            password.forget();
        }
    }

    /// Opens a session.
    pub(super) fn connect(&self) -> Result<Session, Error> {
        let password = self.password()?;
        let error = match self.connect_with(password.as_ref()) {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        if refuses(&error) && self.password.is_some() {
            self.forget_password();
            let other = self.password()?;
            if other != password {
                return self.connect_with(other.as_ref()).map_err(|e| self.unconnected(e));
            }
        }
        Err(self.unconnected(error))
    }

    fn connect_with(&self, password: Option<&Secret>) -> Result<Session, postgres::Error> {
        let mut config = self.config.clone();
        if let Some(password) = password {
            config.password(password.expose());
        }
        Ok(Session { client: config.connect(NoTls)?, shown: self.shown() })
    }

    fn unconnected(&self, error: postgres::Error) -> Error {
        let password = match &self.password {
            Some(_) => "correct its password where `url-password-…` says that it is",
            None => "put its password into the file of `url-password-file` or of PGPASSFILE",
        };
        let (class, hint) = match error.as_db_error() {
            _ if refuses(&error) => (
                Class::Invalid,
                format!(
                    "Let pg_hba.conf and pg_ident.conf of the server admit role {} from this \
                     user, or {password}.",
                    self.user()
                ),
            ),
            Some(db) if db.code().code().starts_with("3D") => {
                (Class::Invalid, "Correct the database in `url`.".to_owned())
            }
            _ => (Class::Unavailable, "Start the server, or correct `url`.".to_owned()),
        };
        let shown = self.shown();
        Error::new(class, format!("cannot connect to the server at {shown}"))
            .because(error)
            .hinting(hint)
    }

    /// What `libpq` does: the file in PGPASSFILE, else `~/.pgpass`, if nobody else can read it.
    fn password_from_file(&self) -> Result<Option<String>, Error> {
        let named = env::var_os("PGPASSFILE").map(PathBuf::from);
        let file = match (&named, env::home_dir()) {
            (Some(file), _) => file.clone(),
            (None, Some(home)) => home.join(".pgpass"),
            (None, None) => return Ok(None),
        };
        let text = match fs::metadata(&file).and_then(|meta| {
            let private = meta.permissions().mode() & 0o077 == 0;
            if private { fs::read_to_string(&file).map(Some) } else { Ok(None) }
        }) {
            Ok(Some(text)) => text,
            Ok(None) => {
                return Err(Error::invalid(format!("others may read {}", file.display()))
                    .hinting(format!("Run `chmod 600 {}`.", file.display())));
            }
            // Nobody named it, so that somebody else's home (HOME kept by `su`, say) is no error: the
            // server may want no password, and says so if it does.
            Err(e)
                if named.is_none()
                    && matches!(
                        e.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                    ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(Error::io("read the password file", file.display(), e)),
        };
        let host = match &self.host {
            Place::Socket(dir) => dir.to_string_lossy().into_owned(),
            Place::Tcp(name) => name.clone(),
        };
        let database = self.config.get_dbname().unwrap_or("postgres");
        Ok(password_in(&text, [&host, &self.port.to_string(), database, self.user()]))
    }
}

/// Whether the server does not admit us: the password is wrong, or there is none, or nobody may.
fn refuses(error: &postgres::Error) -> bool {
    // It asked for one and we have none: the client gives up by itself, and has no code for it.
    let missing =
        |cause: &(dyn std::error::Error + 'static)| cause.to_string() == "password missing";
    match error.as_db_error() {
        Some(db) => db.code().code().starts_with("28"),
        None => std::error::Error::source(error).is_some_and(missing),
    }
}

/// A definition lacks something that the engine needs.
pub(super) fn missing(service: &ServiceName, key: &str, example: &str) -> Error {
    Error::invalid(format!("service {service} has no `{key}`"))
        .hinting(format!("Add `{key} = \"{example}\"` to [service.{service}]."))
}

/// The password of the first line that matches `[host, port, database, user]`.
fn password_in(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = passfile_fields(line);
        let (password, named) = fields.split_last()?;
        let matches = named.len() == wanted.len()
            && named.iter().zip(wanted).all(|((text, literal), wanted)| {
                text == wanted
                    || (text == "*" && !literal)
                    // How a socket is called there, whatever its directory.
                    || (text == "localhost" && wanted.starts_with('/'))
            });
        matches.then(|| password.0.clone())
    })
}

/// The five fields of a line, each with whether something in it was escaped.
fn passfile_fields(line: &str) -> Vec<(String, bool)> {
    let mut fields = vec![(String::new(), false)];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        // The fifth takes colons as they come.
        let last = fields.len() == 5;
        let Some(field) = fields.last_mut() else { break };
        match c {
            '\\' => {
                field.0.extend(chars.next());
                field.1 = true;
            }
            ':' if !last => fields.push((String::new(), false)),
            c => field.0.push(c),
        }
    }
    fields
}

fn default_socket_dir() -> PathBuf {
    let there = SOCKET_DIRS.iter().find(|dir| Path::new(dir).is_dir());
    PathBuf::from(there.unwrap_or(&SOCKET_DIRS[0]))
}

/// A session with the server.
pub(super) struct Session {
    client: Client,
    shown: String,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.shown)
    }
}

impl Session {
    /// One row of one query, which is over soon.
    pub(super) fn row(
        &mut self,
        what: &str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, Error> {
        let result = self.client.query_one(sql, params);
        result.map_err(|e| self.failed(what, e))
    }

    /// All rows of one query, which is over soon.
    pub(super) fn rows(
        &mut self,
        what: &str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let result = self.client.query(sql, params);
        result.map_err(|e| self.failed(what, e))
    }

    /// As [`Session::row`], for a query that may take long: a cancel ends it.
    pub(super) fn long_row(
        &mut self,
        cx: &Context<'_>,
        what: &str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, Error> {
        self.watched(cx, what, |client| client.query_one(sql, params))
    }

    /// Statements that answer nothing. A cancel ends them.
    pub(super) fn run(&mut self, cx: &Context<'_>, what: &str, sql: &str) -> Result<(), Error> {
        self.watched(cx, what, |client| client.batch_execute(sql))
    }

    /// What any statements answer, as text: columns by `|`, rows by lines. A cancel ends them.
    pub(super) fn text(
        &mut self,
        cx: &Context<'_>,
        what: &str,
        sql: &str,
    ) -> Result<String, Error> {
        let messages = self.watched(cx, what, |client| client.simple_query(sql))?;
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                let values: Vec<&str> =
                    (0..row.len()).map(|column| row.get(column).unwrap_or_default()).collect();
                Some(values.join("|"))
            }
            _ => None,
        };
        let rows: Vec<String> = messages.iter().filter_map(row).collect();
        Ok(rows.join("\n").trim().to_owned())
    }

    fn watched<T>(
        &mut self,
        cx: &Context<'_>,
        what: &str,
        run: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, Error> {
        let token = self.client.cancel_token();
        let done = AtomicBool::new(false);
        let client = &mut self.client;
        let result = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    if cx.cancel.is_cancelled() {
                        // It may come too early or too late to hit the query: again until it is
                        // over. The session runs nothing else meanwhile.
                        let _ = token.cancel_query(NoTls);
                    }
                    std::thread::park_timeout(TICK);
                }
            });
            let result = run(client);
            done.store(true, Ordering::SeqCst);
            watch.thread().unpark();
            result
        });
        if cx.cancel.is_cancelled() {
            return Err(Error::new(Class::Cancelled, format!("cancelled while asked to {what}")));
        }
        result.map_err(|e| self.failed(what, e))
    }

    /// Ends the session, and waits until the server has: it is then that backup mode and temporary
    /// slots are gone.
    pub(super) fn end(mut self, address: &Address) -> Result<(), Error> {
        let backend = self.client.query_one("SELECT pg_backend_pid()", &[]);
        // Whatever the server says to this, the connection is closed.
        let _ = self.client.close();
        let Ok(backend) = backend else { return Ok(()) };
        let backend: i32 = backend.get(0);
        let mut witness = address.connect()?;
        let deadline = Instant::now() + END_TIMEOUT;
        loop {
            let row = witness.row(
                "tell which sessions there are",
                "SELECT count(*) FROM pg_stat_activity WHERE pid = $1",
                &[&backend],
            )?;
            if row.get::<_, i64>(0) == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::failed(format!(
                    "the server at {} did not end our session within {END_TIMEOUT:?}",
                    witness.shown
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Settings of this session.
    pub(super) fn set(&mut self, sql: &str) -> Result<(), Error> {
        let result = self.client.batch_execute(sql);
        result.map_err(|e| self.failed("change a setting of this session", e))
    }

    fn failed(&self, what: &str, error: postgres::Error) -> Error {
        let gone = error.is_closed()
            || error.as_db_error().is_none_or(|db| {
                // Connection exceptions, and the server shutting down or crashing.
                let code = db.code().code();
                code.starts_with("08") || code.starts_with("57P")
            });
        let denied = error.code() == Some(&postgres::error::SqlState::INSUFFICIENT_PRIVILEGE);
        let class = match (gone, denied) {
            (true, _) => Class::Unavailable,
            (false, true) => Class::Invalid,
            (false, false) => Class::Failed,
        };
        let message = format!("the server at {} did not {what}", self.shown);
        let error = Error::new(class, message).because(error);
        if denied {
            error.hinting(
                "Grant the role what docs/engines/postgres.md lists, or connect as a superuser.",
            )
        } else {
            error
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, Error> {
        Address::parse(&ServiceName::new("shop").expect("name"), url)
    }

    #[test]
    fn urls_are_read() {
        let address = parse("postgres://backup@/postgres?host=/run/pg").expect("a socket");
        assert_eq!(address.host, Place::Socket("/run/pg".into()));
        assert_eq!((address.port, address.user()), (5432, "backup"));
        let address = parse("postgresql://u:p%40w@db1:5433/shop").expect("a host");
        assert_eq!(address.host, Place::Tcp("db1".to_owned()));
        assert_eq!(address.port, 5433);
        assert_eq!(address.config.get_password(), Some(&b"p@w"[..]));
        let address = parse("postgres://u@/d?host=/tmp&port=6000").expect("a port");
        assert_eq!((address.port, address.shown()), (6000, "/tmp/.s.PGSQL.6000".to_owned()));
        assert!(matches!(parse("postgres://u@/").expect("defaults").host, Place::Socket(_)));
    }

    #[test]
    fn bad_urls_are_refused_without_showing_the_password() {
        for bad in [
            "mysql://u:geheim@h/d",
            "postgres://u:geheim@h:port/d",
            "postgres://u:ge@heim@h/d",
            "postgres://u:geheim@a,b/d",
            "postgres://u:geheim@h/d?no_such=geheim",
            "postgres:///d",
            "",
        ] {
            let error = parse(bad).expect_err(bad);
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("geheim") && !shown.contains("heim@"), "{shown}");
        }
        let address = parse("postgres://u:geheim@h/d").expect("good");
        assert!(!format!("{address:?}").contains("geheim"));
    }

    #[test]
    fn the_password_file_is_read_as_libpq_does() {
        let text =
            "# comment\nh:5432:d:u:one\n*:*:*:v:t\\:w\\\\o:x\nlocalhost:*:*:s:sock\n\\*:*:*:*:no\n";
        let find = |host, user| password_in(text, [host, "5432", "d", user]);
        assert_eq!(find("h", "u").as_deref(), Some("one"));
        assert_eq!(find("h", "v").as_deref(), Some("t:w\\o:x"));
        assert_eq!(find("/run/postgresql", "s").as_deref(), Some("sock"));
        assert_eq!(find("h", "nobody"), None);
        assert_eq!(password_in("short:line", ["h", "1", "d", "u"]), None);
    }
}
