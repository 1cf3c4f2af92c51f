//! What an exporter prints, and when it is believed.

use crate::Error;
use crate::command::Output;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// How much older than the begin of the export the captured point may be: an exporter may read from
/// a replica that lags, or take the clock of another host. What is older was not captured by this
/// export.
const OLDEST: SignedDuration = SignedDuration::from_hours(1);
/// How far another host's clock may be ahead of ours.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// An exporter's answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Answer {
    export_id: String,
    /// The consistency time of what was exported.
    pub(super) source_time: Timestamp,
    #[serde(default)]
    pub(super) position: Option<String>,
    #[serde(default)]
    pub(super) version: Option<String>,
    #[serde(default)]
    pub(super) importer_knows_scratch: bool,
    #[serde(default)]
    pub(super) detail: serde_json::Value,
}

impl Answer {
    /// Reads and judges the answer of the export that ran from `began` to `ended`.
    pub(super) fn read(
        output: &Output,
        export_id: &str,
        began: Timestamp,
        ended: Timestamp,
    ) -> Result<Self, Error> {
        let text = output.stdout_text()?;
        if text.is_empty() {
            return Err(hinted(output.failure_as("did not say which point it captured")));
        }
        let mut answer: Answer = serde_json::from_str(&text).map_err(|e| {
            hinted(output.failure_as("did not answer with the JSON object it should")).because(e)
        })?;
        if answer.export_id != export_id {
            return Err(hinted(Error::failed(format!(
                "the exporter answered for the export {:?}, not for this one ({export_id:?})",
                shortened(&answer.export_id)
            ))));
        }
        answer.source_time = plausible("the exporter", answer.source_time, began, ended)?;
        Ok(answer)
    }
}

/// The time of a captured point as it may be recorded, if `who` can have captured it in a run from
/// `began` to `ended`.
pub(crate) fn plausible(
    who: &str,
    time: Timestamp,
    began: Timestamp,
    ended: Timestamp,
) -> Result<Timestamp, Error> {
    // Where the sum does not fit into a timestamp no time can be beyond it.
    if began.checked_sub(OLDEST).is_ok_and(|oldest| time < oldest) {
        return Err(Error::failed(format!(
            "{who} captured the point of {time}, long before this run began ({began}): it is stale"
        ))
        .hinting("Let it capture the service as it is while it runs."));
    }
    if ended.checked_add(AHEAD).is_ok_and(|newest| time > newest) {
        return Err(Error::failed(format!(
            "{who} says that it captured the point of {time}, which is in the future"
        ))
        .hinting("Print the time with its zone, and check the clocks."));
    }
    // A point must not look fresher than the moment it was finished.
    Ok(time.min(ended))
}

fn hinted(error: Error) -> Error {
    error.hinting(
        "Print one JSON object to standard output, `{\"export-id\": \"$MAINSTAY_EXPORT_ID\", \
         \"source-time\": \"2026-11-21T01:04:42Z\"}`, and everything else to standard error.",
    )
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}
