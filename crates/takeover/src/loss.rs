//! What a takeover would lose, as far as it is known.

use crate::assess::View;
use crate::plan;
use jiff::Timestamp;
use model::duration;
use model::state::TakeoverKind;
use serde::Serialize;
use std::time::Duration;

/// What would be lost. Times are the source's own; ages compare them with this host's clock, which
/// is as good as the two clocks agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Loss {
    /// It is known that nothing is lost.
    pub nothing: bool,
    /// The new primary will hold the state of this time.
    pub kept_until: Option<Timestamp>,
    /// So long ago that was.
    pub age_secs: Option<u64>,
    /// The newest state that the vault is known to have.
    pub vault_until: Option<Timestamp>,
    /// What the vault has beyond what will be kept, in source time.
    pub left_in_vault_secs: Option<u64>,
    /// One sentence for people.
    pub sentence: String,
}

/// Estimates.
pub(crate) fn estimate(view: &View<'_>) -> Loss {
    let head = view.state.head_point();
    let target = plan::target(view);
    let last = view.state.primary_stopped().and_then(|stopped| stopped.last_point);
    let last_time = last.and_then(|id| view.state.point(id)).map(|point| point.source_time);
    let held = view.held_time();
    let kept_until = match &target {
        // After the refresh.
        Some(_) => last_time.or(head.map(|head| head.source_time)).max(held).max(view.log_until()),
        None => held,
    };
    let age = kept_until.and_then(|time| duration::age(time, view.now));
    let vault_until = head.map(|head| head.source_time).max(view.observed.log_until);
    let left = match (kept_until, vault_until) {
        (Some(kept), Some(vault)) => duration::age(kept, vault).filter(|left| !left.is_zero()),
        _ => None,
    };
    let (nothing, sentence) = words(view, kept_until, age, left);
    Loss {
        nothing,
        kept_until,
        age_secs: age.map(|age| age.as_secs()),
        vault_until,
        left_in_vault_secs: left.map(|left| left.as_secs()),
        sentence,
    }
}

fn words(
    view: &View<'_>,
    kept_until: Option<Timestamp>,
    age: Option<Duration>,
    left: Option<Duration>,
) -> (bool, String) {
    let to = view.to;
    let Some(primary) = &view.state.primary else {
        return (true, "Nothing: there is no primary that could have written anything.".to_owned());
    };
    let handed_over = view
        .state
        .primary_stopped()
        .filter(|stopped| stopped.last_point.is_some() || stopped.last_position.is_some());
    if let Some(stopped) = handed_over {
        if stopped.unguarded {
            let words = format!(
                "Whatever was written on {primary} after {}: it was taken out of service then, but \
                 there was nothing to stop, so nobody kept its writers away.",
                when(stopped.at)
            );
            return (false, words);
        }
        let last = match (stopped.last_point, &stopped.last_position) {
            (Some(id), _) => match view.state.point(id) {
                Some(point) => point.name().to_string(),
                None => format!("the point {}", id.short()),
            },
            (None, Some(position)) => format!("position {position}"),
            (None, None) => String::new(),
        };
        match plan::target(view) {
            None if view.as_is && !plan::reached_last(view) => {}
            None => {
                return (
                    true,
                    format!("Nothing: {primary} stopped after {last}, and {to} holds it."),
                );
            }
            Some(_) => {
                let words = format!(
                    "Nothing: {primary} stopped after {last}, and {to} will hold it before it takes \
                     over."
                );
                return (true, words);
            }
        }
    } else if view.kind == TakeoverKind::Planned {
        let words = format!("Nothing, once {primary} has stopped and {to} holds its last point.");
        return (true, words);
    }
    let Some(kept) = kept_until else {
        return (false, format!("Unknown: {to} holds no point of this service."));
    };
    let ago = match age {
        Some(age) => format!("{} ago", duration::human(age)),
        None => "in the future".to_owned(),
    };
    let mut words = format!(
        "Everything that {primary} wrote after {}, which is {ago} by the clock of this host.",
        when(kept)
    );
    if let Some(left) = left {
        words += &format!(
            " The vault has {} more than that, which is lost only if it is not fetched first.",
            duration::human(left)
        );
    }
    (false, words)
}

/// A time without the fractions that nobody reads.
pub(crate) fn when(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
