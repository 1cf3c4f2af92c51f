//! Asks the vault, and waits for the answer no longer than is right.
//!
//! A vault that is gone says so. One that hangs says nothing: a network file system for ever, a server
//! that takes connections and does not answer for minutes. What must go on meanwhile asks in a thread
//! of its own. That is left behind if it has to be, and ends with the process.

use crate::Error;
use model::Class;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// How often it is looked whether there is a reason to wait no longer.
const LOOK: Duration = Duration::from_millis(50);
/// An answer that came so long ago is of another time.
const FRESH: Duration = Duration::from_secs(30);

/// How long an answer is waited for.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'a> {
    time: Duration,
    enough: Option<&'a dyn Fn() -> bool>,
}

impl Patience<'_> {
    /// So long.
    pub(crate) fn of(time: Duration) -> Patience<'static> {
        Patience { time, enough: None }
    }
}

impl<'a> Patience<'a> {
    /// So long, and less if this comes true.
    pub(crate) fn until(time: Duration, enough: &'a dyn Fn() -> bool) -> Patience<'a> {
        Patience { time, enough: Some(enough) }
    }
}

/// Questions to the vault, one after the other.
pub(crate) struct Asking<T> {
    open: Option<Open<T>>,
    /// What was done meanwhile, and not asked for again yet.
    done: Option<(String, T)>,
}

struct Open<T> {
    question: String,
    answer: Receiver<(Instant, Result<T, Error>)>,
    /// Its answer is as good later: it is something that was done.
    lasts: bool,
}

/// What the answer to a question that was open before is good for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Late {
    /// To say how something is, if it came just now.
    IfFresh,
    /// Nothing: the question may have been put long ago, and the vault have looked then.
    Never,
    /// As much as ever.
    Always,
}

impl<T: Send + 'static> Asking<T> {
    pub(crate) fn new() -> Asking<T> {
        Asking { open: None, done: None }
    }

    /// How something is now, if that is said in time.
    pub(crate) fn ask(
        &mut self,
        question: &str,
        patience: Patience<'_>,
        ask: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.put(question, Late::IfFresh, patience, ask)
    }

    /// The same, by an answer to a question that is put now, and not before. One that is open is waited for
    /// first.
    pub(crate) fn ask_anew(
        &mut self,
        question: &str,
        patience: Patience<'_>,
        ask: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.put(question, Late::Never, patience, ask)
    }

    /// Does something, if that is done in time. What was not is done further, and not begun again: give
    /// it again under the same name, and what came of it is said.
    pub(crate) fn have_done(
        &mut self,
        what: &str,
        patience: Patience<'_>,
        act: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        match self.done.take_if(|(done, _)| done == what) {
            Some((_, answer)) => Ok(answer),
            None => self.put(what, Late::Always, patience, act),
        }
    }

    /// Each question waits for the end of the one before.
    fn put(
        &mut self,
        question: &str,
        late: Late,
        patience: Patience<'_>,
        ask: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if let Some(open) = self.open.take() {
            match wait(&open.answer, patience) {
                None => {
                    self.open = Some(open);
                    return Err(silent());
                }
                Some((came, answer)) if open.question == question => match late {
                    Late::Always => return answer,
                    Late::IfFresh if came.elapsed() < FRESH => return answer,
                    Late::IfFresh | Late::Never => {}
                },
                Some((_, Ok(answer))) if open.lasts => self.done = Some((open.question, answer)),
                Some(_) => {}
            }
        }
        let lasts = late == Late::Always;
        let (tell, answer) = sync_channel(1);
        std::thread::Builder::new()
            .name("asking".to_owned())
            .spawn(move || {
                let said = ask();
                // Whoever asked may have ended.
                let _ = tell.send((Instant::now(), said));
            })
            .map_err(|e| Error::new(Class::Failed, "cannot start a thread").because(e))?;
        match wait(&answer, patience) {
            Some((_, said)) => said,
            None => {
                self.open = Some(Open { question: question.to_owned(), answer, lasts });
                Err(silent())
            }
        }
    }
}

/// None if it did not come.
fn wait<T>(
    answer: &Receiver<(Instant, Result<T, Error>)>,
    patience: Patience<'_>,
) -> Option<(Instant, Result<T, Error>)> {
    let began = Instant::now();
    loop {
        let left = patience.time.saturating_sub(began.elapsed());
        match answer.recv_timeout(left.min(LOOK)) {
            Ok(said) => return Some(said),
            Err(RecvTimeoutError::Disconnected) => {
                let error = Error::new(Class::Failed, "a question to the vault came to no end");
                return Some((Instant::now(), Err(error)));
            }
            Err(RecvTimeoutError::Timeout) => {
                if left <= LOOK || patience.enough.is_some_and(|enough| enough()) {
                    return None;
                }
            }
        }
    }
}

/// The same words each time: they are told once.
fn silent() -> Error {
    Error::new(Class::Unavailable, "the vault does not answer")
        .hinting("Look at what it is on: a network file system, a server, a connection.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Classify;
    use std::sync::mpsc::{Sender, channel};

    const SHORT: Patience<'static> = Patience { time: Duration::from_millis(20), enough: None };
    const LONG: Patience<'static> = Patience { time: Duration::from_secs(30), enough: None };

    /// What comes to its end when it is told to.
    fn slow() -> (Sender<()>, impl FnOnce() -> Result<u32, Error> + Send + 'static) {
        let (go, wait) = channel();
        (go, move || Ok(wait.recv().map_or(0, |()| 1)))
    }

    #[test]
    fn an_open_question_is_not_asked_again_and_keeps_others_waiting() {
        let (mut asking, (go, slow)) = (Asking::new(), slow());
        let error = asking.ask("one", SHORT, slow).expect_err("it hangs");
        assert_eq!(error.class(), Class::Unavailable);
        let error = asking.ask("two", SHORT, || Ok(2)).expect_err("the first is open");
        assert_eq!(error.class(), Class::Unavailable);
        go.send(()).expect("it waits");
        assert_eq!(asking.ask("one", LONG, || Ok(3)).expect("an answer"), 1);
        assert_eq!(asking.ask("one", LONG, || Ok(3)).expect("an answer"), 3);
    }

    #[test]
    fn an_answer_to_what_was_asked_before_is_no_answer_to_what_is_asked_anew() {
        let (mut asking, (go, slow)) = (Asking::new(), slow());
        asking.ask_anew("one", SHORT, slow).expect_err("it hangs");
        asking.ask_anew("one", SHORT, || Ok(2)).expect_err("the first is open");
        go.send(()).expect("it waits");
        assert_eq!(asking.ask_anew("one", LONG, || Ok(3)).expect("an answer"), 3);
    }

    #[test]
    fn what_was_done_meanwhile_is_not_done_again() {
        let (mut asking, (go, slow)) = (Asking::new(), slow());
        asking.have_done("one", SHORT, slow).expect_err("it hangs");
        go.send(()).expect("it waits");
        assert_eq!(asking.ask("two", LONG, || Ok(2)).expect("an answer"), 2);
        assert_eq!(asking.have_done("one", LONG, || Ok(3)).expect("an answer"), 1);
        assert_eq!(asking.have_done("one", LONG, || Ok(3)).expect("an answer"), 3);
    }

    #[test]
    fn nobody_waits_when_there_is_a_reason_not_to() {
        let (mut asking, (_go, slow)) = (Asking::new(), slow());
        let patience = Patience::until(Duration::from_secs(3600), &|| true);
        asking.ask("one", patience, slow).expect_err("it hangs");
    }
}
