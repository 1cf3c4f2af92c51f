use crate::app::App;
use crate::cli::Cli;
use crate::failure::{Exit, Failure, Outcome};
use clap::CommandFactory;
use std::fs;
use std::path::{Path, PathBuf};

/// Write the manual pages into a directory.
///
/// One page per command: mainstay.1, mainstay-backup.1, and so on.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// The directory; made if it is missing.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(app: &App, args: &ManArgs) -> Outcome {
    fs::create_dir_all(&args.dir)
        .map_err(|e| Failure::io("make the directory", args.dir.display(), &e))?;
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    write_pages(&command, &args.dir, &mut pages)?;
    if app.out.json {
        app.out.document(&serde_json::json!({ "pages": pages }))?;
    } else {
        app.out.say(format_args!(
            "Wrote {} manual pages to {}.",
            pages.len(),
            args.dir.display()
        ))?;
    }
    Ok(Exit::DONE)
}

fn write_pages(
    command: &clap::Command,
    dir: &Path,
    pages: &mut Vec<PathBuf>,
) -> Result<(), Failure> {
    let man = clap_mangen::Man::new(command.clone());
    let file = dir.join(man.get_filename());
    let mut page = Vec::new();
    man.render(&mut page)
        .and_then(|()| fs::write(&file, page))
        .map_err(|e| Failure::io("write", file.display(), &e))?;
    pages.push(file);
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        write_pages(inner, dir, pages)?;
    }
    Ok(())
}
