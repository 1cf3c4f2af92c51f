//! Whether no recovery leads from the newest point to what the primary writes now: it went back behind that,
//! as a restore in its place to an earlier time does, or is of another database cluster. A new base is due,
//! whatever a schedule says.

use super::data_dir;
use super::timelines::{Way, place_of};
use crate::{Error, ServiceSite, cluster};
use engines::postgres::WalFile;
use model::ServiceState;

/// Why none does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WentBack {
    /// One sentence for people.
    pub why: String,
    /// It is of another cluster: no base is taken of it before somebody says that it is meant.
    pub is_another: bool,
}

impl WentBack {
    /// What to do about it.
    pub fn advice(&self, site: &ServiceSite) -> String {
        let name = site.name();
        match self.is_another {
            true => format!(
                "If it goes on in the place of the other, say so once: `mainstay backup {name} \
                 --allow-another`. If not, `mainstay restore {name} --replace` brings the other back."
            ),
            false => format!("Run `mainstay backup {name}`."),
        }
    }
}

/// Whether none does, by what the server says of its own timelines. Of a server whose files cannot be
/// read nothing is said.
pub fn went_back(site: &ServiceSite, state: &ServiceState) -> Result<Option<WentBack>, Error> {
    let (Some(_), Some(head)) = (site.log_server()?, state.head_point()) else { return Ok(None) };
    let (Some((on, lsn)), Some(data_dir)) = (place_of(head), data_dir(site)?) else {
        return Ok(None);
    };
    // One that took the place of the point's has timelines of its own.
    if let (Some(here), Some(there)) = (cluster::here(site)?, cluster::of_point(site, head)?)
        && here != there
    {
        let why = format!(
            "the server here is of the database cluster {here}, and {}, the newest point, of {there}: no \
             recovery leads from there to what it writes now, and a backup is refused without \
             `--allow-another`",
            head.name()
        );
        return Ok(Some(WentBack { why, is_another: true }));
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
    Ok((!leads).then(|| WentBack {
        why: format!(
            "the server went back behind {}, and goes on along timeline {timeline}: no recovery leads \
             from there to what it writes now",
            head.name()
        ),
        is_another: false,
    }))
}
