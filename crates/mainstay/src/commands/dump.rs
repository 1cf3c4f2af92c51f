use super::common::{Looking, Point};
use super::ls::{absolute, missing, open};
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::files::{self, Existing};
use crate::ui::words::shown;
use crate::units;
use model::{CancelToken, Class, ServiceName};
use repository::NodeKind;
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Write one file of a recovery point to standard output or to a file.
///
/// Every byte is verified. A file that is written with --output is there whole or not at all.
#[derive(Debug, clap::Args)]
pub(crate) struct DumpArgs {
    /// The service.
    service: ServiceName,

    /// The file in the point, as `/srv/docs/letter.txt`.
    path: OsString,

    #[command(flatten)]
    point: Point,

    /// Write to this file, which must not exist.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace the file that --output names.
    #[arg(long, requires = "output")]
    replace: bool,

    #[command(flatten)]
    looking: Looking,
}

pub(crate) fn run(app: &App, args: &DumpArgs) -> Outcome {
    if app.out.json && args.output.is_none() {
        return Err(Failure::invalid("--json and the file's content cannot share standard output")
            .hint("Name a file with `--output`."));
    }
    let service = app.service(&args.service)?;
    let _lock = args.looking.lock(app, &service)?;
    let reader = open(&service, &args.point.which())?;
    let path = absolute(args.path.as_bytes());
    let Some(node) = reader.node(&path)? else {
        return Err(missing(&path, &service));
    };
    if node.kind != NodeKind::File {
        let kind = match node.kind {
            NodeKind::Dir => "directory",
            kind => kind.name(),
        };
        let what = format!("{} is a {kind}, not a file", shown(&lossy(&path)));
        return Err(Failure::invalid(what)
            .hint(format!("Restore it with `mainstay restore {} --target DIR`.", service.name())));
    }
    let Some(output) = &args.output else {
        let mut to = Watched::new(app.out.bytes(), app.cancel());
        let dumped = reader.dump(&path, &mut to).map_err(Failure::from);
        return to.end(dumped, Failure::output).map(|()| Exit::DONE);
    };
    let existing = if args.replace { Existing::Replace } else { Existing::Keep };
    if existing == Existing::Keep && output.symlink_metadata().is_ok() {
        return Err(Failure::refused(format!("{} exists already", output.display()))
            .hint("Name another file, or add `--replace`."));
    }
    files::write_by(output, 0o666, existing, |file| {
        let mut to = Watched::new(file, app.cancel());
        let dumped = reader.dump(&path, &mut to).map_err(Failure::from);
        to.end(dumped, |e| Failure::io("write", output.display(), e))
    })?;
    if app.out.json {
        app.out.document(&json!({ "output": output, "size-bytes": node.size }))?;
    } else {
        app.out.say(format_args!("{}: {}", output.display(), units::size(node.size)))?;
    }
    Ok(Exit::DONE)
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Stops when somebody asks for it, and remembers the error of the writing side as it was: a reader
/// who went away is no failure of the repository.
struct Watched<'a, W: Write> {
    out: BufWriter<W>,
    cancel: &'a CancelToken,
    error: Option<io::Error>,
}

impl<'a, W: Write> Watched<'a, W> {
    fn new(out: W, cancel: &'a CancelToken) -> Self {
        Watched { out: BufWriter::with_capacity(1 << 18, out), cancel, error: None }
    }

    fn told<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let again = io::Error::new(error.kind(), error.to_string());
            self.error.get_or_insert(error);
            again
        })
    }

    /// What came of it: a cancel, an error of this side, or what the repository says.
    fn end(
        mut self,
        dumped: Result<(), Failure>,
        failed: impl Fn(&io::Error) -> Failure,
    ) -> Result<(), Failure> {
        let flushed = self.flush();
        if self.cancel.is_cancelled() {
            return Err(Failure::new(Class::Cancelled, "the file was not written to its end"));
        }
        if let Some(error) = &self.error {
            return Err(failed(error));
        }
        dumped?;
        flushed.map_err(|e| failed(&e))
    }
}

impl<W: Write> Write for Watched<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let result = self.out.write(bytes);
        self.told(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.out.flush();
        self.told(result)
    }
}
