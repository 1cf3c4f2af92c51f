use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use serde_json::json;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use storage::serve::{Access, Limits, Rights, Server, Tell, Users};

const EXAMPLES: &str = "\
Examples:
  mainstay vault user add db1 --users /etc/mainstay/users --path shop
  mainstay vault serve /srv/vault --users /etc/mainstay/users --append-only \\
      --listen 0.0.0.0:8000 --tls-cert cert.pem --tls-key key.pem
  mainstay vault serve /srv/vault --no-auth --listen 127.0.0.1:8000

  restic -r rest:https://db1:TOKEN@vault:8000/shop snapshots
  restic -o rclone.program='ssh vault mainstay vault' -r rclone:/srv/vault/shop snapshots

In ~/.ssh/authorized_keys of the vault host, for one who may only add:
  restrict,command=\"mainstay vault serve --stdio --append-only /srv/vault\" ssh-ed25519 ...";

/// Serve a directory as a vault, also to plain restic (REST protocol, versions 1 and 2).
///
/// What is stored is durable before it is answered, and is checked against its name before anybody
/// sees it. Ends at SIGTERM or SIGINT, after the requests that run.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// The directory; the repository of a service is a directory in it. The word `restic` may stand
    /// before it, as restic says it to rclone.
    #[arg(value_name = "DIR", required = true, num_args = 1..=2)]
    words: Vec<String>,

    /// Speak over standard input and output (HTTP/2), to the one who started this.
    #[arg(long, conflicts_with_all = ["listen", "users", "no_auth", "tls_cert", "plain_http"])]
    stdio: bool,

    /// Address to listen on; port 0 takes a free one, which is told.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,

    /// Nobody changes or removes anything (but locks), whatever their own rights.
    #[arg(long)]
    append_only: bool,

    /// File with the users, as `mainstay vault user add` writes it.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["no_auth", "stdio"])]
    users: Option<PathBuf>,

    /// Let in whoever reaches the address.
    #[arg(long, conflicts_with = "users")]
    no_auth: bool,

    /// Certificate chain, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Speak without TLS on an address that others can reach.
    #[arg(long, conflicts_with = "tls_cert")]
    plain_http: bool,

    /// Largest object, e.g. `512 MiB` [default: 2 GiB].
    #[arg(long, value_name = "SIZE", value_parser = model::size::parse)]
    max_size: Option<u64>,

    /// Connections at once; further ones wait.
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u16).range(1..))]
    max_connections: u16,

    /// restic's default arguments for rclone have it; there is nothing it could mean here.
    #[arg(long, hide = true)]
    b2_hard_delete: bool,

    /// Likewise.
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1)]
    drive_use_trash: Option<String>,
}

pub(crate) fn run(app: &App, args: &ServeArgs) -> Outcome {
    let dir = match args.words.as_slice() {
        [dir] => dir,
        [restic, dir] if restic == "restic" => dir,
        _ => return Err(Failure::invalid("name one directory")),
    };
    let dir = std::path::absolute(dir).map_err(|e| Failure::io("find", dir, &e))?;
    let cap = if args.append_only { Rights::Append } else { Rights::Full };
    let access = match &args.users {
        Some(file) => Access::Users(Users::open(file)?, cap),
        None => Access::Everyone(cap),
    };
    let defaults = Limits::default();
    let limits = Limits {
        object_bytes: args.max_size.unwrap_or(defaults.object_bytes),
        connections: args.max_connections.into(),
        ..defaults
    };
    let mut server = Server::new(&dir, access, limits, tell(app))?;
    if args.stdio {
        let (input, output) = (std::io::stdin(), std::io::stdout());
        server.serve_pipe(input, output, app.cancel())?;
        return Ok(Exit::DONE);
    }
    let tls = args.tls_cert.is_some();
    if let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) {
        server = server.with_tls(certificate.clone(), key.clone())?;
    }
    if !tls && !args.listen.ip().is_loopback() && !args.plain_http {
        let what =
            format!("{} can be reached by others, and without TLS they read all", args.listen);
        return Err(Failure::refused(what).hint(
            "Give `--tls-cert` and `--tls-key`, or `--plain-http` where the network is trusted.",
        ));
    }
    let failed = |e: &std::io::Error| Failure::io("listen on", args.listen, e);
    let listener = TcpListener::bind(args.listen).map_err(|e| failed(&e))?;
    let address = listener.local_addr().map_err(|e| failed(&e))?;
    let url = format!("rest:{}://{address}/", if tls { "https" } else { "http" });
    // From here on a signal is a reason to end well.
    let stop = app.cancel();
    if app.out.json {
        app.out.document(&json!({ "listening": address, "url": url, "dir": dir }))?;
    } else {
        app.out.say(format_args!("Serving {} at {url}", dir.display()))?;
    }
    server.serve(listener, stop)?;
    Ok(Exit::DONE)
}

/// What was refused or failed, a line each, on standard error.
fn tell(app: &App) -> Tell {
    let out = app.out.clone();
    Arc::new(move |line| {
        if out.json {
            out.complain(json!({ "event": line }));
        } else {
            out.complain(line);
        }
    })
}
