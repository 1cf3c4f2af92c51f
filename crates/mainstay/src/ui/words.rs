//! The words for what the model names.

use model::Role;
use operations::Outcome;
use operations::history::Operation;

/// A role, as the documentation calls it.
pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Standby => "standby",
        Role::Broken => "broken",
    }
}

/// `1 file`, `2 files`.
pub(crate) fn count(count: u64, one: &str, many: &str) -> String {
    let word = if count == 1 { one } else { many };
    format!("{count} {word}")
}

/// Text from outside as it may be shown: control characters, which could move the cursor or colour
/// the terminal, are written out.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The same of several lines, as one.
pub(crate) fn on_one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    shown(&lines.join(" "))
}

/// How an operation ended.
pub(crate) fn outcome(one: &Operation) -> &'static str {
    match one.outcome {
        None if one.running => "running",
        None => "died, and was not cleaned up after yet",
        Some(Outcome::Done) if one.hook_failed.is_some() => "done, but a hook failed",
        Some(Outcome::Done) => "done",
        Some(Outcome::Incomplete) => "done, but incomplete",
        Some(Outcome::Failed) => "failed",
        Some(Outcome::Cancelled) => "cancelled",
        Some(Outcome::Died) => "died, and was cleaned up after",
    }
}

/// Whether there is nothing to look into.
pub(crate) fn went_well(one: &Operation) -> bool {
    one.running || matches!(one.outcome, Some(Outcome::Done | Outcome::Cancelled))
}
