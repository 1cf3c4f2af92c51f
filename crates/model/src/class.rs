//! What a caller does next about an error; every crate's error type says.

/// Split by consequence, not by origin. The command line turns it into an exit code, an operation
/// into retry, undo or alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The request or the configuration is wrong; trying again cannot help. Exit code 1.
    Invalid,
    /// What was asked for is refused by a rule that protects data (a gate, a generation, an
    /// existing target). Exit code 1.
    Refused,
    /// The other side did not answer or the connection broke; trying again may help. Exit code 1.
    Unavailable,
    /// No space left where something had to be written. Exit code 1.
    NoSpace,
    /// Bytes that were read are not what was written. Exit code 1.
    Corrupt,
    /// There is no repository at the place named. Exit code 10.
    NoRepository,
    /// Somebody else holds the lock. Exit code 11.
    Locked,
    /// The password opens no key of the repository. Exit code 12.
    WrongPassword,
    /// Somebody asked for it to stop. Exit code 130.
    Cancelled,
    /// Anything else that went wrong. Exit code 1.
    Failed,
}

impl Class {
    /// The exit code that scripts may count on (restic's numbers).
    pub fn exit_code(self) -> u8 {
        match self {
            Class::NoRepository => 10,
            Class::Locked => 11,
            Class::WrongPassword => 12,
            Class::Cancelled => 130,
            _ => 1,
        }
    }
}

/// An error that knows its class and, where there is one, what the user can do about it.
pub trait Classify: std::error::Error {
    /// What the caller does next.
    fn class(&self) -> Class;

    /// One sentence that begins with a verb ("Run `mainstay init` first."), if there is one.
    fn hint(&self) -> Option<String> {
        None
    }
}
