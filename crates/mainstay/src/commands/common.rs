//! Words that several commands share.

use crate::failure::Failure;
use crate::units;
use jiff::Timestamp;
use model::ServiceName;
use operations::{Site, Which};

/// Which recovery point.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Point {
    /// The point's name, or its snapshot's id or the beginning of it [default: the head].
    #[arg(long, value_name = "POINT", conflicts_with = "at")]
    pub(crate) snapshot: Option<String>,

    /// The newest point not later than this on the source: `2026-11-21T01:04:42Z`,
    /// `2026-11-21 01:04` or `2h ago`.
    #[arg(long, value_name = "TIME", value_parser = units::parse_time)]
    pub(crate) at: Option<Timestamp>,
}

impl Point {
    /// As operations know it.
    pub(crate) fn which(&self) -> Which {
        match (&self.snapshot, self.at) {
            (Some(name), _) if name != "latest" => Which::Named(name.clone()),
            (_, Some(time)) => Which::At(time),
            _ => Which::Latest,
        }
    }
}

/// `SERVICE` or `SERVICE:POINT`.
#[derive(Clone, Debug)]
pub(crate) struct ServicePoint {
    pub(crate) service: ServiceName,
    pub(crate) point: Option<String>,
}

impl std::str::FromStr for ServicePoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, point) = match text.split_once(':') {
            Some((service, point)) => (service, Some(point.to_owned())),
            None => (text, None),
        };
        let service = ServiceName::new(service).map_err(|e| e.to_string())?;
        Ok(ServicePoint { service, point })
    }
}

/// The services that were named, or all.
pub(crate) fn named_or_all(
    site: &Site,
    names: &[ServiceName],
) -> Result<Vec<ServiceName>, Failure> {
    for name in names {
        site.service(name)?;
    }
    Ok(if names.is_empty() { site.services() } else { names.to_vec() })
}
