//! The configuration file: its shape, its schema, and everything about it that can be judged
//! without looking at the machine.
//!
//! Unknown keys are errors, because a misspelt `keep` is a history that is not kept.

mod bucket;
mod copies;
mod drills;
mod keys;
mod read;
mod rules;
mod section;
mod source;
mod url;
mod vault;

pub use bucket::{Bucket, ObjectLock};
pub use copies::SecondVault;
pub use read::{Checked, ConfigError, Finding, Tellable, read, read_sound, schema, tellable};
pub use rules::{CHUNK_BYTES, CHUNK_WORDS, ENGINES};
pub use section::Section;
pub use url::{lacks_password, without_password, without_path};
pub use vault::{VaultUrl, vault_dir};

use crate::{MemberName, ServiceName, VaultName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A whole configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// This host.
    pub host: Host,
    /// Where the history is.
    pub vault: Vault,
    /// Second vaults, to which `run-due` copies the history, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub copy: BTreeMap<VaultName, SecondVault>,
    /// Who is told when something fails.
    #[serde(default)]
    pub alerts: Alerts,
    /// The services this host has a member of, by name.
    #[serde(default)]
    pub service: BTreeMap<ServiceName, Service>,
    /// The URLs of second vaults whose sections are left out for a mistake: what they hold is there.
    #[serde(skip)]
    pub left_out: Vec<String>,
}

/// This host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Host {
    /// Its name: what members on it are called.
    pub name: MemberName,
    /// Where this host keeps locks, journals and logs. Not on the vault.
    pub state_dir: PathBuf,
}

/// Where the history is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Vault {
    /// A directory, an S3 bucket, or what another machine serves: `s3://bucket/prefix`,
    /// `rest:https://host/`, `ssh://host/dir`. The repository of service `docs` is `URL/docs`.
    pub url: String,
    /// The user of a `rest:` vault, instead of one in the URL.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the token or password of that user.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Environment variable with the token.
    #[serde(default)]
    pub token_env: Option<String>,
    /// Name of a systemd credential (`LoadCredential=` of the unit) that holds the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_credential: Option<String>,
    /// Command that prints the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_command: Option<String>,
    /// Certificates (PEM) that are believed of a `rest:https` vault, instead of the public
    /// authorities'.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the one certificate that is believed, whoever signed it.
    #[serde(default)]
    pub pinned_sha256: Option<String>,
    /// The words of the command that reaches the host of an `ssh:` vault, instead of `ssh`.
    #[serde(default)]
    pub ssh_command: Vec<String>,
    /// `mainstay` on that host, if it is not on PATH there.
    #[serde(default)]
    pub remote_program: Option<String>,
    /// File with the password of the repositories.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Environment variable with the password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// Name of a systemd credential (`LoadCredential=` of the unit) that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_credential: Option<String>,
    /// Command that prints the password.
    #[serde(default)]
    pub password_command: Option<String>,
    /// What the start gate does when the vault cannot be reached.
    #[serde(default)]
    pub when_unreachable: WhenUnreachable,
    /// How the bucket is reached, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<Bucket>,
}

/// What `may-start` answers when it cannot ask the vault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenUnreachable {
    /// The service does not start: two primaries are worse than none.
    #[default]
    Refuse,
    /// The service starts if this member was the primary when the vault was last seen.
    LastKnown,
}

/// Who is told when something fails.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Alerts {
    /// Run by `/bin/sh -c` with the alert as JSON on standard input and in `MAINSTAY_ALERT_*`.
    #[serde(default)]
    pub command: Option<String>,
    /// How long it may take, e.g. `"30s"`. After that it is ended, with all that it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_timeout: Option<String>,
    /// Receives the alert as a JSON `POST`.
    #[serde(default)]
    pub webhook: Option<String>,
    /// File with that URL, where it is a secret itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_file: Option<PathBuf>,
    /// Environment variable with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_env: Option<String>,
    /// Name of a systemd credential that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_credential: Option<String>,
    /// Command that prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_command: Option<String>,
}

/// One service on this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Service {
    /// `files`, `sqlite`, `postgres`, `script`, or NAME of a `mainstay-engine-NAME` on PATH.
    pub engine: String,
    /// The first role of this host's member. After that the vault's state rules.
    #[serde(default)]
    pub role: FirstRole,

    /// What is protected: a tree (`files`), a database file (`sqlite`), the backup directory
    /// (`script`). On a standby, where its copy is. Of a logical `postgres` service, where a dump lies
    /// that was fetched from the vault.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Several trees (`files`) or databases (`sqlite`) instead of one.
    #[serde(default)]
    pub paths: Vec<PathBuf>,
    /// Patterns of what is left out (`files`): `*.tmp`, `cache/`, `/absolute`, `**`.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Leave out directories that hold a `CACHEDIR.TAG` (`files`).
    #[serde(default)]
    pub exclude_caches: bool,
    /// Leave out files larger than this, e.g. `"2 GiB"` (`files`).
    #[serde(default)]
    pub exclude_larger_than: Option<String>,
    /// Do not cross into other file systems (`files`).
    #[serde(default)]
    pub one_file_system: bool,
    /// Cut files at every multiple of this, e.g. `"1 MiB"`: for disk images and database files, whose
    /// changes keep everything else in its place (`files`).
    #[serde(default)]
    pub chunk_size: Option<String>,

    /// How to connect, e.g. `postgres://backup@/postgres?host=/run/postgresql`.
    #[serde(default)]
    pub url: Option<String>,
    /// What is captured of a server (`postgres`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// File with the password that `url` leaves out (`postgres`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_password_file: Option<PathBuf>,
    /// Environment variable with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_password_env: Option<String>,
    /// Name of a systemd credential that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_password_credential: Option<String>,
    /// Command that prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_password_command: Option<String>,
    /// The server's data directory (`postgres`).
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
    /// Where the server's programs are, if not on PATH (`postgres`).
    #[serde(default)]
    pub bin_dir: Option<PathBuf>,
    /// How much of the log may wait for the vault, e.g. `"4 GiB"` (`postgres`, `sqlite`). Past it the
    /// log is let go, so that a vault that is gone never fills the primary's disk, and a new base is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_queue: Option<String>,
    /// How this host's copy reaches the primary when it is a standby, e.g.
    /// `postgres://replication@db1/`: it streams the log, and takes it from the vault when it cannot
    /// (`postgres`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_from: Option<String>,
    /// Executable that fills `path` (`script`).
    #[serde(default)]
    pub exporter: Option<PathBuf>,
    /// Executable that loads `path` (`script`).
    #[serde(default)]
    pub importer: Option<PathBuf>,

    /// systemd unit of the service; gives `start`, `stop` and `status`.
    #[serde(default)]
    pub unit: Option<String>,
    /// Command that starts the service.
    #[serde(default)]
    pub start: Option<String>,
    /// Command that stops the service and returns when it is stopped.
    #[serde(default)]
    pub stop: Option<String>,
    /// Command that exits 0 if the service runs and 3 if it does not.
    #[serde(default)]
    pub status: Option<String>,
    /// What is done to the service while it is captured.
    #[serde(default)]
    pub quiesce: Quiesce,
    /// How long it may be stopped or frozen for a capture, e.g. `"5m"`. After that it is brought back,
    /// and the backup fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiesce_limit: Option<String>,
    /// How long each of its hooks may run, e.g. `"20m"`. One that takes longer is ended, and has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook_timeout: Option<String>,
    /// How hard the history is compressed.
    #[serde(default)]
    pub compression: Compression,
    /// How a standby's copy is brought to another point.
    #[serde(default, skip_serializing_if = "Refreshing::is_auto")]
    pub refresh: Refreshing,

    /// When a backup is due, in cron syntax.
    #[serde(default)]
    pub schedule: Option<String>,
    /// Time zone of `schedule`, `drill-schedule` and `scrub-schedule` (IANA name); the host's own
    /// without it.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// Which points are kept; all without it.
    #[serde(default)]
    pub keep: Option<Keep>,
    /// When `run-due` on the primary applies `keep` and frees what nothing needs, in cron syntax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune_schedule: Option<String>,
    /// How long what a standby holds is kept for it, e.g. `"30d"`. One that lags further is built anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_for_standbys: Option<String>,
    /// The oldest that the newest point may get before it alarms, e.g. `"5m"`.
    #[serde(default)]
    pub rpo: Option<String>,
    /// The longest that a recovery may take, as drills measure it, before it alarms, e.g. `"10m"`.
    #[serde(default)]
    pub rto: Option<String>,
    /// When a drill is due on this host, in cron syntax.
    #[serde(default)]
    pub drill_schedule: Option<String>,
    /// When a scrub of this host's standby is due, in cron syntax.
    #[serde(default)]
    pub scrub_schedule: Option<String>,
    /// Where drills restore to, instead of below `host.state-dir`.
    #[serde(default)]
    pub drill_dir: Option<PathBuf>,
    /// SQL that a drill asks the restored copy (`postgres`, `sqlite`).
    #[serde(default)]
    pub drill_query: Option<String>,
    /// Command that a drill runs beside the restored copy; exit code 0 if that is as it should be.
    #[serde(default)]
    pub drill_command: Option<String>,
    /// What `drill-query` or `drill-command` has to answer.
    #[serde(default)]
    pub drill_expect: Option<String>,
    /// How long an importer, a program that is an engine, and `drill-command` may each work on the copy
    /// of a drill, e.g. `"20m"`. What takes longer is ended, and the copy is not sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill_timeout: Option<String>,
    /// Libraries that a server on a scratch copy preloads, of those that the source preloads
    /// (`postgres`). Without it none: nobody knows what one begins to do by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drill_preload: Vec<String>,

    /// File with this service's password, else the vault's.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Environment variable with this service's password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// Name of a systemd credential (`LoadCredential=` of the unit) that holds this service's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_credential: Option<String>,
    /// Command that prints this service's password.
    #[serde(default)]
    pub password_command: Option<String>,
    /// Commands that run around operations.
    #[serde(default)]
    pub hooks: Hooks,
}

impl Service {
    /// Whether its databases are dumped, and not its server's files read.
    pub fn is_logical(&self) -> bool {
        self.method == Some(Method::Logical)
    }
}

/// The first role of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FirstRole {
    /// The active copy.
    #[default]
    Primary,
    /// A copy that is kept ready.
    Standby,
}

/// What is captured of a database server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Its files and its log: the server as a whole, to any time.
    #[default]
    Physical,
    /// Dumps of its databases, roles and settings: single databases and tables, into other versions.
    Logical,
}

/// What is done to a service while it is captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Quiesce {
    /// Nothing: the engine captures a live service.
    #[default]
    None,
    /// The service is stopped and started again.
    Stop,
    /// The `freeze` hook runs before and the `thaw` hook after.
    Freeze,
}

/// How a standby's copy of files is brought to another point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Refreshing {
    /// In its place where few of many files have changed, else by an exchange.
    #[default]
    Auto,
    /// Always by one exchange: whoever reads the copy meanwhile finds the one point or the other.
    Exchange,
}

impl Refreshing {
    /// Whether it is what nobody has to ask for.
    pub fn is_auto(&self) -> bool {
        *self == Refreshing::Auto
    }
}

/// How hard the history is compressed. Only what is new is; what the vault has stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all: for what is compressed or encrypted already.
    Off,
    /// As fast as the disk and the network deserve.
    #[default]
    Fast,
    /// Smaller by a few per cent, for twice the time.
    Better,
    /// As small as can be had; many times slower.
    Max,
}

/// Which points are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Keep {
    /// The newest so many.
    #[serde(default)]
    pub last: u32,
    /// The newest of each of the last so many hours that have one.
    #[serde(default)]
    pub hourly: u32,
    /// Likewise days.
    #[serde(default)]
    pub daily: u32,
    /// Likewise ISO weeks.
    #[serde(default)]
    pub weekly: u32,
    /// Likewise months.
    #[serde(default)]
    pub monthly: u32,
    /// Likewise years.
    #[serde(default)]
    pub yearly: u32,
    /// Everything younger than this, e.g. `"14d"`.
    #[serde(default)]
    pub within: Option<String>,
}

/// Commands that run around operations, each by `/bin/sh -c` with `MAINSTAY_*` set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Hooks {
    /// Before a backup reads anything. Nonzero: the backup fails.
    #[serde(default)]
    pub before_backup: Option<String>,
    /// After a backup, with its outcome in `MAINSTAY_OUTCOME`.
    #[serde(default)]
    pub after_backup: Option<String>,
    /// Makes what is on disk consistent (`quiesce = "freeze"`).
    #[serde(default)]
    pub freeze: Option<String>,
    /// Undoes `freeze`. Runs whatever happens.
    #[serde(default)]
    pub thaw: Option<String>,
    /// Takeover: makes sure that the old primary does not serve. Exit 0 is taken as proof.
    #[serde(default)]
    pub fence: Option<String>,
    /// Takeover: inside the service, after it was promoted (adapt URLs, flush caches).
    #[serde(default)]
    pub promoted: Option<String>,
    /// Takeover: moves clients to the new primary (DNS, virtual IP, proxy).
    #[serde(default)]
    pub route: Option<String>,
    /// After a refresh.
    #[serde(default)]
    pub after_refresh: Option<String>,
}
