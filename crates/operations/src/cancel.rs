//! Asks the running operation of a member to stop.

use crate::operation::operations_dir;
use crate::{Error, ServiceSite, lock};
use model::OperationId;
use serde::Serialize;

/// What the request met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It was asked to stop.
    Asked {
        /// Which operation.
        operation: OperationId,
    },
    /// It had been asked already; a second request does nothing.
    AskedBefore {
        /// Which operation.
        operation: OperationId,
    },
    /// Nothing runs.
    Idle,
}

/// Asks. The operation cleans up by itself; past its commit marker it goes on to its end.
pub fn request(site: &ServiceSite) -> Result<Answer, Error> {
    let Some(holder) = lock::holder(&site.dir())? else { return Ok(Answer::Idle) };
    let Some(operation) = holder.operation else { return Ok(Answer::Idle) };
    let file = operations_dir(site).join(operation.as_str()).join("cancel");
    match std::fs::File::options().write(true).create_new(true).open(&file) {
        Ok(_) => Ok(Answer::Asked { operation }),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            Ok(Answer::AskedBefore { operation })
        }
        Err(e) => Err(Error::io("write", &file, e)),
    }
}
