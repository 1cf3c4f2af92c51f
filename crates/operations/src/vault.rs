//! How the vault is reached, from what the configuration says.

use crate::Error;
use crate::secrets::{self, Source};
use model::CancelToken;
use model::config::{Bucket, ObjectLock, Vault};
use std::sync::Arc;
use std::time::Duration;
use storage::{Storage, s3};

/// Opens the vault. `cancel` ends waiting for it, where it is on another machine.
pub fn open(vault: &Vault, cancel: &CancelToken) -> Result<Arc<dyn Storage>, Error> {
    Ok(storage::open(&vault.url, &options(vault, cancel)?)?)
}

/// What the vault's storage is told besides its URL. Reads the secrets that it needs.
fn options(vault: &Vault, cancel: &CancelToken) -> Result<storage::Options, Error> {
    let s3 = match &vault.s3 {
        Some(bucket) => s3_options(bucket)?,
        None => s3::Options::default(),
    };
    Ok(storage::Options { cancel: cancel.clone(), served: secrets::served(vault)?, s3 })
}

fn s3_options(bucket: &Bucket) -> Result<s3::Options, Error> {
    let lock = match (bucket.object_lock, bucket.object_lock_days) {
        (Some(mode), Some(days)) => Some(s3::Lock {
            mode: match mode {
                ObjectLock::Governance => s3::LockMode::Governance,
                ObjectLock::Compliance => s3::LockMode::Compliance,
            },
            period: Duration::from_secs(u64::from(days) * 24 * 60 * 60),
        }),
        _ => None,
    };
    let as_of = bucket.as_of.as_deref().map(|time| {
        time.parse().map_err(|e| Error::invalid(format!("vault.s3.as-of: {time:?}: {e}")))
    });
    Ok(s3::Options {
        endpoint: bucket.endpoint.clone(),
        region: bucket.region.clone(),
        path_style: bucket.path_style,
        credentials: credentials(bucket)?,
        ca_file: bucket.ca_file.clone(),
        lock,
        as_of: as_of.transpose()?,
        tuning: s3::Tuning::default(),
    })
}

fn credentials(bucket: &Bucket) -> Result<s3::Credentials, Error> {
    if let Some(id) = &bucket.access_key_id {
        let source = secret_source(bucket).ok_or_else(|| {
            Error::invalid("the access key of the vault has no secret")
                .hinting("Set `secret-access-key-file` in [vault.s3].")
        })?;
        return Ok(s3::Credentials::Key {
            id: id.clone(),
            secret: secrets::read_what(&source, "secret access key")?,
            token: None,
        });
    }
    if let Some(path) = &bucket.credentials_file {
        return Ok(s3::Credentials::File { path: path.clone(), profile: bucket.profile.clone() });
    }
    Ok(match bucket.instance_credentials {
        true => s3::Credentials::Instance,
        false => s3::Credentials::Environment,
    })
}

/// Where the secret of the access key is.
fn secret_source(bucket: &Bucket) -> Option<Source> {
    Source::pick(
        &bucket.secret_access_key_file,
        &bucket.secret_access_key_env,
        &bucket.secret_access_key_credential,
        &bucket.secret_access_key_command,
    )
}
