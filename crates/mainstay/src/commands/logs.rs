use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::table::{Column, table};
use crate::ui::words::{on_one_line, outcome, shown};
use crate::units;
use model::{Class, OperationId, ServiceName};
use operations::ServiceSite;
use operations::history::{self, Operation};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Duration;

/// How often a followed log is looked at.
const TICK: Duration = Duration::from_millis(200);

/// Show the log of an operation of this host, by default of the newest one.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The service.
    service: ServiceName,

    /// The operation's id, or a unique part of it.
    operation: Option<String>,

    /// Go on until the operation is over.
    #[arg(short, long, conflicts_with = "list")]
    follow: bool,

    /// List the operations instead.
    #[arg(short, long, conflicts_with = "operation")]
    list: bool,
}

pub(crate) fn run(app: &App, args: &LogsArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let operations = history::list(&service)?;
    if args.list {
        return list(app, &operations);
    }
    let operation = pick(&service, &operations, args.operation.as_deref())?;
    if app.out.json {
        let log = std::fs::read_to_string(&operation.log)
            .map_err(|e| Failure::io("read", operation.log.display(), &e))?;
        let lines: Vec<&str> = log.lines().collect();
        app.out.document(&json!({ "operation": operation, "lines": lines }))?;
        return Ok(Exit::DONE);
    }
    show(app, &service, operation, args.follow)
}

fn list(app: &App, operations: &[Operation]) -> Outcome {
    if app.out.json {
        return app.out.document(&json!({ "operations": operations })).map(|()| Exit::DONE);
    }
    if operations.is_empty() {
        app.out.say("no operation was run on this host yet")?;
        return Ok(Exit::DONE);
    }
    let titles = [
        ("OPERATION", Column::Left),
        ("BEGAN", Column::Left),
        ("TOOK", Column::Right),
        ("OUTCOME", Column::Left),
    ];
    let rows = operations.iter().map(|one| {
        let took = one.ended.and_then(|ended| units::age(one.started, ended));
        vec![
            one.id.to_string(),
            units::local(one.started),
            took.map(units::duration).unwrap_or_default(),
            match &one.message {
                Some(message) => format!("{}: {}", outcome(one), on_one_line(message)),
                None => outcome(one).to_owned(),
            },
        ]
    });
    app.out.text(&table(&titles, rows.collect(), &app.out.paint))?;
    Ok(Exit::DONE)
}

fn pick<'o>(
    service: &ServiceSite,
    operations: &'o [Operation],
    wanted: Option<&str>,
) -> Result<&'o Operation, Failure> {
    let name = service.name();
    let Some(wanted) = wanted else {
        return operations.last().ok_or_else(|| {
            Failure::invalid(format!("no operation of {name} was run on this host yet"))
        });
    };
    let matching: Vec<&Operation> =
        operations.iter().filter(|one| one.id.as_str().contains(wanted)).collect();
    match matching.as_slice() {
        [one] => Ok(one),
        [] => Err(Failure::invalid(format!("{name} has no operation {wanted:?} on this host"))
            .hint(format!("List them with `mainstay logs {name} --list`."))),
        several => Err(Failure::invalid(format!("{wanted:?} means {} operations", several.len()))
            .hint(format!("List them with `mainstay logs {name} --list`."))),
    }
}

fn show(app: &App, service: &ServiceSite, operation: &Operation, follow: bool) -> Outcome {
    let failed = |e: &std::io::Error| Failure::io("read", operation.log.display(), e);
    let mut log = BufReader::new(File::open(&operation.log).map_err(|e| failed(&e))?);
    let mut over = !follow;
    let mut line = Vec::new();
    loop {
        // A last line that is still being written is shown when it is whole, or nothing more comes.
        let read = log.read_until(b'\n', &mut line).map_err(|e| failed(&e))?;
        if line.ends_with(b"\n") || (over && !line.is_empty()) {
            let text = String::from_utf8_lossy(&line);
            app.out.line(shown(text.trim_end_matches('\n')))?;
            line.clear();
        } else if over {
            return Ok(Exit::DONE);
        } else if app.cancel().is_cancelled() {
            return Err(Failure::new(Class::Cancelled, "the operation goes on"));
        } else if read == 0 {
            std::thread::sleep(TICK);
            // Looked at before the log, so that what was written last is still read.
            over = !is_running(service, &operation.id)?;
        }
    }
}

fn is_running(service: &ServiceSite, id: &OperationId) -> Result<bool, Failure> {
    Ok(history::list(service)?.iter().any(|one| one.id == *id && one.running))
}
