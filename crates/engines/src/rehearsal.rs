//! What a drill asks of an engine: to bring a restored copy to life where it can harm nobody, and to
//! judge it there.

pub mod left;

use crate::command::{Command, Output};
use crate::{Context, Error, SnapshotMeta, Staged, Verdict};
use model::CancelToken;
use model::config::Service;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long a command that looks at a copy may take, if nobody says otherwise.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// How long it may take to find out whether programs can be cut off.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an answer is shown.
const SHOWN: usize = 200;

/// The first process of a namespace of processes. It is no program of somebody's: the first one is
/// sent no signal that it does not expect, and could not be asked to end.
const FIRST: &str = r#""$@"; exit $?"#;
/// The same, after it has switched on the loopback interface, which a new network namespace has, but
/// off.
const FIRST_WITH_LOOPBACK: &str = r#"
    (PATH="$PATH:/usr/sbin:/sbin"; ip link set lo up || ifconfig lo up) 2>/dev/null || exit 1
    "$@"; exit $?"#;

/// What a drill proves of a copy of an engine's service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: the engine has no rehearsal.
    None,
    /// The files are the service, and are compared with the snapshot byte by byte.
    Bytes,
    /// A server is started on the copy.
    Server,
}

/// A copy to be rehearsed.
pub struct Rehearsal<'a> {
    /// What the snapshot says of itself.
    pub meta: &'a SnapshotMeta,
    /// The copy, prepared as [`Purpose::Scratch`](crate::Purpose::Scratch). Nobody needs it
    /// afterwards: the rehearsal may change it.
    pub copy: &'a [Staged],
    /// An empty directory for sockets and the like. It goes with the copy.
    pub home: &'a Path,
    /// How programs that work on the copy are cut off from the network.
    pub isolation: &'a Isolation,
    /// What the user wants the copy to be asked.
    pub question: Option<&'a Question>,
    /// How long each program of the user's that works on the copy may take; what is usual for it
    /// without this. One that takes longer is ended, and the copy not sound.
    pub limit: Option<Duration>,
    /// Lets the user whom the copy belongs to come to it. Called before a program works on it that is not
    /// ours, once or more often; and not before this process has done what it does there by path itself,
    /// since from then on that user may lead it elsewhere.
    pub before_programs: &'a dyn Fn() -> Result<(), Error>,
}

/// What came of a rehearsal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsed {
    /// The engine's judgement, and that of the user's question.
    pub verdict: Verdict,
    /// How long it took from the start until the copy answered; none if it did not, or if there is
    /// nothing to start.
    pub answered_after: Option<Duration>,
    /// What the user's question was answered.
    pub answer: Option<String>,
}

impl Rehearsal<'_> {
    /// The rehearsal of a copy that lies there as it is used: judged, then looked at by the user's
    /// command.
    pub fn of_files(&self, cx: &Context<'_>, mut verdict: Verdict) -> Result<Rehearsed, Error> {
        let answer = match self.question.map(|question| (question, &question.asked)) {
            None => None,
            Some((question, Asked::Command(line))) => {
                self.command(cx, question, line, &[], &mut verdict)?
            }
            Some((_, Asked::Query(_))) => {
                return Err(Error::invalid("this engine cannot be asked in SQL")
                    .hinting("Write a `drill-command` instead of the `drill-query`."));
            }
        };
        Ok(Rehearsed { verdict, answered_after: None, answer })
    }

    /// Runs the user's command beside the copy, with these variables besides.
    pub(crate) fn command(
        &self,
        cx: &Context<'_>,
        question: &Question,
        line: &str,
        variables: &[(String, String)],
        verdict: &mut Verdict,
    ) -> Result<Option<String>, Error> {
        cx.progress.phase("running the drill command");
        let mut command = Command::shell("the drill command", line)
            .dir(self.home)
            .envs(cx.variables)
            .envs(variables)
            .timeout(self.limit.unwrap_or(COMMAND_TIMEOUT))
            .tied();
        if let Some(first) = self.copy.first() {
            command = command.env("MAINSTAY_DRILL_DIR", &first.staged);
        }
        let output = match self.try_out(cx, command, false, verdict)? {
            Ok(output) => output,
            Err(why) => {
                verdict.bad(why.to_string());
                return Ok(None);
            }
        };
        let answer = output.stdout_text()?.trim().to_owned();
        question.judge(&answer, verdict);
        Ok(Some(answer))
    }

    /// Tries out a program on the copy, as [`Enclosed::try_out`] does; the verdict says where it cannot be
    /// made sure that nothing of it is left.
    pub(crate) fn try_out(
        &self,
        cx: &Context<'_>,
        command: Command,
        loopback: bool,
        verdict: &mut Verdict,
    ) -> Result<Result<Output, Error>, Error> {
        (self.before_programs)()?;
        let enclosed = Enclosed { isolation: self.isolation, home: self.home };
        let (tried, doubt) = enclosed.try_out(cx, command, loopback)?;
        verdict.doubt(doubt);
        Ok(tried)
    }
}

/// Where the programs of a drill are tried out.
#[derive(Clone, Copy, Debug)]
pub struct Enclosed<'a> {
    /// How they are cut off from the network.
    pub isolation: &'a Isolation,
    /// The directory of the rehearsal, which may not be there yet: what they start is known by it.
    pub home: &'a Path,
}

impl Enclosed<'_> {
    /// Tries out a program of which nobody knows what it leaves behind: nothing of it is left, as far
    /// as this host allows that to be made sure; besides, a sentence where it does not. With `loopback`
    /// the program reaches itself at 127.0.0.1.
    pub(crate) fn try_out(
        &self,
        cx: &Context<'_>,
        command: Command,
        loopback: bool,
    ) -> Result<(Result<Output, Error>, Option<String>), Error> {
        let enclosure = self.isolation.enclosing(loopback, cx.cancel)?;
        let tried = enclosure.around(command, self.home).try_out(cx.cancel);
        let doubt = enclosure.end_what_is_left(self.home, self.home);
        Ok((tried?, doubt))
    }
}

/// What the user wants a restored copy to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// In which words.
    pub asked: Asked,
    /// What it has to answer.
    pub expect: Option<String>,
}

/// How a copy is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// In SQL.
    Query(String),
    /// By a command that runs beside it.
    Command(String),
}

impl Question {
    /// What a definition wants to be asked.
    pub fn of(definition: &Service) -> Option<Question> {
        let asked = match (&definition.drill_query, &definition.drill_command) {
            (Some(query), _) => Asked::Query(query.clone()),
            (None, Some(line)) => Asked::Command(line.clone()),
            (None, None) => return None,
        };
        Some(Question { asked, expect: definition.drill_expect.clone() })
    }

    /// Compares an answer with what was expected.
    pub(crate) fn judge(&self, answer: &str, verdict: &mut Verdict) {
        let got = shown(answer);
        match &self.expect {
            None => verdict.findings.push(format!("the question was answered {got}")),
            Some(expected) if answer == expected.trim() => {
                verdict.findings.push(format!("the question was answered {got}, as expected"));
            }
            Some(expected) => verdict.bad(format!(
                "the question was answered {got}; {} was expected",
                shown(expected.trim())
            )),
        }
    }
}

/// On one line, and not too long.
fn shown(answer: &str) -> String {
    let mut short: String = answer.chars().take(SHOWN).collect();
    if short.len() < answer.len() {
        short.push('…');
    }
    format!("{short:?}")
}

impl Verdict {
    /// A finding that makes the copy unsound.
    pub(crate) fn bad(&mut self, finding: String) {
        self.sound = false;
        self.findings.push(finding);
    }

    /// A finding that says how far it can be trusted, once.
    pub(crate) fn doubt(&mut self, doubt: Option<String>) {
        let new = doubt.filter(|doubt| !self.findings.contains(doubt));
        self.findings.extend(new);
    }
}

/// How programs are run where they reach no network: in a network namespace of their own, in which
/// there is nobody.
///
/// Sockets in the file system are reached as before. That is how a server is asked that is cut off,
/// and why it is no jail: it keeps an honest copy from calling out, not a program that wants to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolation {
    words: Vec<&'static str>,
    said: String,
}

impl Isolation {
    /// Finds out what this host allows, by trying it.
    pub fn find(cancel: &CancelToken) -> Result<Isolation, Error> {
        let words = if rustix::process::geteuid().is_root() {
            vec!["unshare", "--net", "--"]
        } else {
            vec!["unshare", "--user", "--map-current-user", "--net", "--"]
        };
        let ours = fs::read_link("/proc/self/ns/net")
            .map_err(|e| Error::io("read", "/proc/self/ns/net", e))?;
        let cut_off = Isolation { words, said: "in a network namespace of its own".to_owned() };
        let tried = Command::program("unshare", "readlink")
            .arg("/proc/self/ns/net")
            .within(&cut_off)
            .timeout(PROBE_TIMEOUT)
            .ask(cancel);
        let why = match tried {
            Err(error) if cancel.is_cancelled() => return Err(error),
            Err(error) => error.to_string(),
            Ok(output) if !output.success() => output.failure().to_string(),
            Ok(output) => {
                let theirs = output.stdout_text()?;
                if theirs.trim() != ours.to_string_lossy() {
                    return Ok(cut_off);
                }
                "it stayed in the host's network".to_owned()
            }
        };
        Ok(Isolation::none(&why))
    }

    /// None, and why.
    pub fn none(why: &str) -> Isolation {
        let said = format!("not cut off from the network: {}", one_line(why));
        Isolation { words: Vec::new(), said }
    }

    /// Whether programs are cut off.
    pub fn is_complete(&self) -> bool {
        !self.words.is_empty()
    }

    /// How, or why not.
    pub fn said(&self) -> &str {
        &self.said
    }

    pub(crate) fn words(&self) -> &[&'static str] {
        &self.words
    }

    /// How a program is run of which nobody knows what it leaves behind: cut off as it is, and where
    /// the host allows it, in a namespace of processes, all of which end with the first, and one of
    /// memory that is shared between them, which goes with it. With `loopback` it reaches itself at
    /// 127.0.0.1.
    pub(crate) fn enclosing(
        &self,
        loopback: bool,
        cancel: &CancelToken,
    ) -> Result<Enclosure, Error> {
        let own = match self.words.split_last() {
            Some((_, own)) => own,
            // In the host's network there is a loopback interface that is on.
            None if rustix::process::geteuid().is_root() => &["unshare"][..],
            None => &["unshare", "--user", "--map-current-user"],
        };
        let loopback = loopback && self.is_complete();
        let first = if loopback { FIRST_WITH_LOOPBACK } else { FIRST };
        let mut open = None;
        for processes in [&["--ipc", "--pid", "--fork", "--kill-child"][..], &[]] {
            if processes.is_empty() && !self.is_complete() {
                break;
            }
            let mut words = own.to_vec();
            // Whoever is root only in there may do to its network what root may.
            words.extend((loopback && own.contains(&"--user")).then_some("--keep-caps"));
            words.extend(processes);
            words.extend(["--", "/bin/sh", "-c", first, "mainstay-rehearsal"]);
            let tried = Command::program("unshare", "true")
                .behind(&words)
                .timeout(PROBE_TIMEOUT)
                .ask(cancel);
            let why = match tried {
                Ok(output) if output.success() => return Ok(Enclosure { words, open }),
                Ok(output) => output.failure(),
                Err(error) if cancel.is_cancelled() => return Err(error),
                Err(error) => error,
            };
            open.get_or_insert_with(|| one_line(&why.to_string()));
        }
        if !loopback {
            return Ok(Enclosure { words: self.words.clone(), open });
        }
        let what = "what is cut off from the network cannot be given a port of its own";
        Err(Error::invalid(format!("{what}: {}", open.unwrap_or_default()))
            .hinting("Install `ip` (iproute2), or let the program use a socket in its directory."))
    }
}

/// How a program is run so that nothing of it is left.
pub(crate) struct Enclosure {
    /// The words before it.
    words: Vec<&'static str>,
    /// Why its processes could leave: they are in no namespace of their own.
    open: Option<String>,
}

impl Enclosure {
    /// The program within, and marked as one of the rehearsal in this directory.
    pub(crate) fn around(&self, command: Command, home: &Path) -> Command {
        command.behind(&self.words).env(left::MARK, home)
    }

    /// Where its processes could leave: ends those that are found, and says so. A server is found by the
    /// directory, in this one, that it works in.
    pub(crate) fn end_what_is_left(&self, home: &Path, dir: &Path) -> Option<String> {
        let why = self.open.as_ref()?;
        let ended = left::end(home, dir);
        Some(format!(
            "this host has no namespace of processes for what works on the copy ({why}): of what it left \
             running {ended} processes were ended; one that changed its environment was not found"
        ))
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
