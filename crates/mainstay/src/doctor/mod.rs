//! Walks the whole chain from the configuration to the newest point, and says of each link whether
//! it holds, and what to do where it does not.

pub(crate) mod boot;
pub(crate) mod host;
pub(crate) mod service;

use crate::failure::Failure;
use model::ServiceName;
use serde::Serialize;

/// What was found of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// It holds.
    Ok,
    /// It holds, but not well, or it cannot be known.
    Warn,
    /// It is broken.
    Fail,
}

/// One link of the chain.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Link {
    pub(crate) verdict: Verdict,
    /// Which service it belongs to; none for the host's own.
    pub(crate) service: Option<ServiceName>,
    /// `vault`, `repository`, `engine`.
    pub(crate) link: &'static str,
    /// What was found.
    pub(crate) found: String,
    /// What to do.
    pub(crate) advice: Option<String>,
}

/// Receives the links as they are looked at.
pub(crate) struct Chain<'a> {
    service: Option<ServiceName>,
    told: &'a mut dyn FnMut(&Link) -> Result<(), Failure>,
    pub(crate) links: Vec<Link>,
}

impl<'a> Chain<'a> {
    /// An empty chain; each link is told to somebody at once.
    pub(crate) fn new(told: &'a mut dyn FnMut(&Link) -> Result<(), Failure>) -> Chain<'a> {
        Chain { service: None, told, links: Vec::new() }
    }

    /// What follows belongs to this service.
    pub(crate) fn of(&mut self, service: &ServiceName) {
        self.service = Some(service.clone());
    }

    /// Whether a link is broken.
    pub(crate) fn broken(&self) -> bool {
        self.links.iter().any(|link| link.verdict == Verdict::Fail)
    }

    pub(crate) fn ok(&mut self, link: &'static str, found: impl Into<String>) -> Told {
        self.add(Verdict::Ok, link, found.into(), None)
    }

    pub(crate) fn warn(
        &mut self,
        link: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Told {
        self.add(Verdict::Warn, link, found.into(), Some(advice.into()))
    }

    pub(crate) fn fail(
        &mut self,
        link: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Told {
        self.add(Verdict::Fail, link, found.into(), Some(advice.into()))
    }

    /// A link that broke with an error, whose own hint is the advice.
    pub(crate) fn broke(&mut self, link: &'static str, error: impl Into<Failure>) -> Told {
        let error = error.into();
        let advice = error.the_hint().map(str::to_owned);
        self.add(Verdict::Fail, link, error.one_line(), advice)
    }

    /// The value, or the link is broken.
    pub(crate) fn need<T, E: Into<Failure>>(
        &mut self,
        link: &'static str,
        result: Result<T, E>,
    ) -> Result<Option<T>, Failure> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => self.broke(link, error).map(|()| None),
        }
    }

    fn add(
        &mut self,
        verdict: Verdict,
        link: &'static str,
        found: String,
        advice: Option<String>,
    ) -> Told {
        let link = Link { verdict, service: self.service.clone(), link, found, advice };
        (self.told)(&link)?;
        self.links.push(link);
        Ok(())
    }
}

/// Telling can fail (the terminal is gone); looking cannot.
pub(crate) type Told = Result<(), Failure>;
