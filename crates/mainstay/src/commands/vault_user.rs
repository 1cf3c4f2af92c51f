use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::files::{self, Existing};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use storage::Key;
use storage::serve::{Rights, User, parse_users};

const EXAMPLES: &str = "\
Examples:
  mainstay vault user add db1 --users /etc/mainstay/users --path shop --path docs
  mainstay vault user add keeper --users /etc/mainstay/users --rights full --path /
  mainstay vault user remove db1 --users /etc/mainstay/users

A server that runs heeds the change at the next request.";

/// The users that a vault host lets in.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UserArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Add a user with a new token, which is shown once; replace the token of one who is there.
    Add {
        /// The user's name.
        name: String,
        /// `read`, `append` (add, never change or remove) or `full`.
        #[arg(long, default_value = "append", value_parser = rights)]
        rights: Rights,
        /// Below which path of the vault, again for several; `/` for all [default: the name].
        #[arg(long = "path", value_name = "PATH")]
        paths: Vec<String>,
        #[command(flatten)]
        file: FileArg,
    },
    /// Remove a user.
    Remove {
        /// The user's name.
        name: String,
        #[command(flatten)]
        file: FileArg,
    },
    /// List the users.
    List {
        #[command(flatten)]
        file: FileArg,
    },
}

#[derive(Debug, clap::Args)]
struct FileArg {
    /// The file with the users.
    #[arg(long, value_name = "FILE")]
    users: PathBuf,
}

fn rights(text: &str) -> Result<Rights, String> {
    Rights::named(text).ok_or_else(|| "write read, append or full".to_owned())
}

pub(crate) fn run(app: &App, args: &UserArgs) -> Outcome {
    match &args.what {
        What::Add { name, rights, paths, file } => {
            let paths = keys(name, paths)?;
            let (user, token) = User::generate(name, *rights, paths)?;
            let mut users = read(&file.users)?;
            users.retain(|other| other.name != user.name);
            users.push(user);
            write(&file.users, &users)?;
            if app.out.json {
                app.out.document(&json!({ "user": name, "token": token.expose() }))?;
            } else {
                app.out.line(token.expose())?;
                app.out.detail("This token is shown once.");
            }
        }
        What::Remove { name, file } => {
            let mut users = read(&file.users)?;
            let before = users.len();
            users.retain(|user| user.name != *name);
            if users.len() == before {
                let what = format!("there is no user {name} in {}", file.users.display());
                return Err(Failure::invalid(what));
            }
            write(&file.users, &users)?;
            if app.out.json {
                app.out.document(&json!({ "removed": name }))?;
            }
        }
        What::List { file } => {
            let users = read(&file.users)?;
            if app.out.json {
                let users: Vec<Value> = users.iter().map(shown).collect();
                app.out.document(&json!({ "users": users }))?;
            } else {
                for user in users {
                    let paths = paths(&user).join(", ");
                    app.out.line(format_args!("{} {} {paths}", user.name, user.rights.name()))?;
                }
            }
        }
    }
    Ok(Exit::DONE)
}

/// Everybody below a path of their own unless something else is said.
fn keys(name: &str, paths: &[String]) -> Result<Vec<Key>, Failure> {
    let own = [name.to_owned()];
    let paths = if paths.is_empty() { &own } else { paths };
    if paths.iter().any(|path| path == "/") {
        return Ok(Vec::new());
    }
    let key = |path: &String| {
        Key::new(path.trim_matches('/')).map_err(|e| Failure::invalid(e.to_string()))
    };
    paths.iter().map(key).collect()
}

fn paths(user: &User) -> Vec<&str> {
    match user.paths.as_slice() {
        [] => vec!["/"],
        some => some.iter().map(Key::as_str).collect(),
    }
}

fn shown(user: &User) -> Value {
    json!({ "name": user.name, "rights": user.rights.name(), "paths": paths(user) })
}

fn read(file: &Path) -> Result<Vec<User>, Failure> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Failure::io("read", file.display(), &e)),
    };
    parse_users(&text).map_err(|e| Failure::invalid(format!("{}: {e}", file.display())))
}

fn write(file: &Path, users: &[User]) -> Result<(), Failure> {
    let mut text = String::from("# NAME:RIGHTS:PATHS:HASH, see `mainstay vault user --help`\n");
    for user in users {
        text.push_str(&user.line());
        text.push('\n');
    }
    // Hashes of tokens that nobody can guess; all the same nobody's business.
    files::write(file, text.as_bytes(), 0o600, Existing::Replace)
}
