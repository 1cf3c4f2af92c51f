//! How a bucket is reached: `[vault.s3]`.

use super::rules::Judge;
use super::{Vault, VaultUrl};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How a vault in an S3 bucket is reached. What is missing comes from the environment, by the
/// names that other tools for S3 read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Bucket {
    /// `https://host:port` of a server other than Amazon's, if the vault's URL does not name it.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Region, e.g. `eu-central-1`.
    #[serde(default)]
    pub region: Option<String>,
    /// Whether the bucket is a part of the path and not of the host's name.
    #[serde(default)]
    pub path_style: Option<bool>,
    /// Certificate authorities in PEM, trusted instead of the public ones.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Id of the access key, which is no secret.
    #[serde(default)]
    pub access_key_id: Option<String>,
    /// File whose first line is the secret of the access key.
    #[serde(default)]
    pub secret_access_key_file: Option<PathBuf>,
    /// Environment variable with the secret.
    #[serde(default)]
    pub secret_access_key_env: Option<String>,
    /// Name of a systemd credential (`LoadCredential=` of the unit) that holds the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_access_key_credential: Option<String>,
    /// Command that prints the secret.
    #[serde(default)]
    pub secret_access_key_command: Option<String>,
    /// Shared credentials file of Amazon's tools, instead of a key here.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// Profile in the credentials file; `default` without it.
    #[serde(default)]
    pub profile: Option<String>,
    /// Ask the metadata service of the cloud machine that this runs on.
    #[serde(default)]
    pub instance_credentials: bool,
    /// Lock what is written against removal; the bucket must have been made with locks.
    #[serde(default)]
    pub object_lock: Option<ObjectLock>,
    /// For so many days.
    #[serde(default)]
    pub object_lock_days: Option<u32>,
    /// Read the vault as it was at this time, and write nothing: `2026-11-01T00:00:00Z`.
    #[serde(default)]
    pub as_of: Option<String>,
}

/// How strong a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectLock {
    /// Who has a special permission can lift it.
    Governance,
    /// Nobody can lift it before its time.
    Compliance,
}

/// Judges a vault in a bucket.
pub(super) fn judge(judge: &mut Judge<'_>, vault: &Vault) {
    let VaultUrl::S3(url) = VaultUrl::new(&vault.url) else {
        if vault.s3.is_some() {
            judge.wrong("vault.s3", "means nothing: `vault.url` names no bucket");
        }
        return;
    };
    if url.contains(['@', '?', '#', '%']) {
        judge.wrong("vault.url", "holds no user, password, query or escapes");
    }
    let names_server = !url.starts_with("s3://");
    let rest = url.trim_start_matches("s3:").trim_start_matches("https:").trim_matches('/');
    if rest.is_empty() || (names_server && !rest.trim_start_matches("http://").contains('/')) {
        judge.wrong("vault.url", "names no bucket; write \"s3://BUCKET/PREFIX\"");
    }
    let Some(bucket) = &vault.s3 else { return };
    if let Some(endpoint) = &bucket.endpoint {
        if names_server {
            judge.wrong("vault.s3.endpoint", "contradicts `vault.url`, which names a server");
        }
        if !(endpoint.starts_with("https://") || endpoint.starts_with("http://")) {
            judge.wrong("vault.s3.endpoint", "must begin with https:// or http://");
        }
        if endpoint.contains('@') {
            judge.wrong("vault.s3.endpoint", "holds no user or password");
        }
    }
    for (key, text) in [
        ("vault.s3.region", &bucket.region),
        ("vault.s3.access-key-id", &bucket.access_key_id),
        ("vault.s3.secret-access-key-env", &bucket.secret_access_key_env),
        ("vault.s3.secret-access-key-credential", &bucket.secret_access_key_credential),
        ("vault.s3.secret-access-key-command", &bucket.secret_access_key_command),
        ("vault.s3.profile", &bucket.profile),
    ] {
        judge.not_empty(key, text.as_ref());
    }
    for (key, path) in [
        ("vault.s3.ca-file", &bucket.ca_file),
        ("vault.s3.secret-access-key-file", &bucket.secret_access_key_file),
        ("vault.s3.credentials-file", &bucket.credentials_file),
    ] {
        if let Some(path) = path {
            judge.path(key, path);
        }
    }
    credentials(judge, bucket);
    match (bucket.object_lock, bucket.object_lock_days) {
        (Some(_), None) => judge.wrong("vault.s3.object-lock", "needs `object-lock-days`"),
        (None, Some(_)) => judge.wrong("vault.s3.object-lock-days", "needs `object-lock`"),
        (Some(_), Some(0 | 36_501..)) => {
            judge.wrong("vault.s3.object-lock-days", "must be from 1 to 36500");
        }
        _ => {}
    }
    if let Some(time) = &bucket.as_of
        && time.parse::<Timestamp>().is_err()
    {
        judge.wrong("vault.s3.as-of", format!("{time:?} is not a time like 2026-11-01T00:00:00Z"));
    }
}

fn credentials(judge: &mut Judge<'_>, bucket: &Bucket) {
    let secrets = [
        ("vault.s3.secret-access-key-file", bucket.secret_access_key_file.is_some()),
        ("vault.s3.secret-access-key-env", bucket.secret_access_key_env.is_some()),
        ("vault.s3.secret-access-key-credential", bucket.secret_access_key_credential.is_some()),
        ("vault.s3.secret-access-key-command", bucket.secret_access_key_command.is_some()),
    ];
    judge.at_most_one(&secrets);
    judge.at_most_one(&[
        ("vault.s3.access-key-id", bucket.access_key_id.is_some()),
        ("vault.s3.credentials-file", bucket.credentials_file.is_some()),
        ("vault.s3.instance-credentials", bucket.instance_credentials),
    ]);
    let secret = secrets.iter().find(|(_, set)| *set);
    match (&bucket.access_key_id, secret) {
        (Some(_), None) => {
            judge.wrong("vault.s3.access-key-id", "needs `secret-access-key-file` or the like");
        }
        (None, Some((key, _))) => judge.wrong(key, "needs `access-key-id`"),
        _ => {}
    }
    if bucket.profile.is_some() && bucket.credentials_file.is_none() {
        judge.wrong("vault.s3.profile", "needs `credentials-file`");
    }
}
