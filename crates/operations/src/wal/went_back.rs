//! Whether the primary went back behind its newest point, as a restore in its place to an earlier time does.
//! From that point no recovery leads to what it writes now: a new base is due, whatever a schedule says.

use super::data_dir;
use super::timelines::{Way, place_of};
use crate::{Error, ServiceSite, cluster};
use engines::postgres::WalFile;
use model::ServiceState;

/// One sentence if it did, by what the server says of its own timelines. Of a server whose files cannot be
/// read nothing is said.
pub fn went_back(site: &ServiceSite, state: &ServiceState) -> Result<Option<String>, Error> {
    let (Some(_), Some(head)) = (site.log_server()?, state.head_point()) else { return Ok(None) };
    let (Some((on, lsn)), Some(data_dir)) = (place_of(head), data_dir(site)?) else {
        return Ok(None);
    };
    // One that took the place of the point's has timelines of its own.
    let (here, there) = (cluster::here(site)?, cluster::of_point(site, head)?);
    if here.is_some() && there.is_some() && here != there {
        return Ok(None);
    }
    let wal = data_dir.join("pg_wal");
    let Ok(entries) = std::fs::read_dir(&wal) else { return Ok(None) };
    let histories = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        match WalFile::parse(&name) {
            Some(WalFile::History { timeline }) => Some((timeline, name)),
            _ => None,
        }
    });
    let Some((timeline, name)) = histories.max().filter(|(timeline, _)| *timeline > on) else {
        return Ok(None);
    };
    let Ok(history) = std::fs::read(wal.join(name)) else { return Ok(None) };
    let leads = Way::of(timeline, Some(&history)).leads_from((on, lsn));
    Ok((!leads).then(|| {
        format!(
            "the server went back behind {}, and goes on along timeline {timeline}: no recovery leads \
             from there to what it writes now",
            head.name()
        )
    }))
}
