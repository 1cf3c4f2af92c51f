//! Access keys, from where the configuration or the environment says they are.

use super::options::Credentials;
use crate::{Error, ErrorKind};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use std::path::{Path, PathBuf};

/// No credentials file is longer.
const LARGEST_FILE_BYTES: u64 = 1 << 20;

const NONE: &str = "Set `access-key-id` and `secret-access-key-file` in [vault.s3], or \
                    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment; \
                    docs/guide/s3.md has the other ways.";

/// A variable of the environment that says something.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Tells the builder who we are.
pub(super) fn provide(
    builder: AmazonS3Builder,
    credentials: &Credentials,
    place: &str,
) -> Result<AmazonS3Builder, Error> {
    match credentials {
        Credentials::Key { id, secret, token } => {
            let builder = builder.with_access_key_id(id).with_secret_access_key(secret.expose());
            Ok(match token {
                Some(token) => builder.with_token(token.expose()),
                None => builder,
            })
        }
        Credentials::File { path, profile } => {
            let profile = profile.as_deref().unwrap_or("default");
            from_file(builder, path, profile)
        }
        Credentials::Instance => Ok(builder),
        Credentials::Environment => from_environment(builder, place),
    }
}

fn from_environment(builder: AmazonS3Builder, place: &str) -> Result<AmazonS3Builder, Error> {
    match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => {
            let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            return Ok(match variable("AWS_SESSION_TOKEN") {
                Some(token) => builder.with_token(token),
                None => builder,
            });
        }
        (None, None) => {}
        (there, _) => {
            let missing =
                if there.is_some() { "AWS_SECRET_ACCESS_KEY" } else { "AWS_ACCESS_KEY_ID" };
            let what = format!("half of an access key is in the environment; {missing} is missing");
            return Err(Error::new(ErrorKind::Permission, place, what).hinting(NONE));
        }
    }
    let profile = variable("AWS_PROFILE");
    let named = variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    let home = variable("HOME").map(|home| Path::new(&home).join(".aws/credentials"));
    if let Some(file) = named.or_else(|| home.filter(|file| file.is_file())) {
        return from_file(builder, &file, profile.as_deref().unwrap_or("default"));
    }
    // What orchestrators set for the programs that they run.
    let roles = [
        (AmazonS3ConfigKey::WebIdentityTokenFile, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        (AmazonS3ConfigKey::RoleArn, "AWS_ROLE_ARN"),
        (AmazonS3ConfigKey::RoleSessionName, "AWS_ROLE_SESSION_NAME"),
        (
            AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        ),
        (AmazonS3ConfigKey::ContainerCredentialsFullUri, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        (
            AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        ),
    ];
    let mut builder = builder;
    let mut any = false;
    for (key, name) in roles {
        if let Some(value) = variable(name) {
            builder = builder.with_config(key, value);
            any = true;
        }
    }
    if any {
        return Ok(builder);
    }
    Err(Error::new(ErrorKind::Permission, place, "there is no access key for this bucket")
        .hinting(NONE))
}

/// The shared credentials file of Amazon's tools: sections of `key = value`
/// (<https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html>).
fn from_file(
    builder: AmazonS3Builder,
    file: &Path,
    profile: &str,
) -> Result<AmazonS3Builder, Error> {
    let shown = &file.display();
    let size = std::fs::metadata(file)
        .map_err(|e| Error::io(shown, "read the credentials file", e))?
        .len();
    if size > LARGEST_FILE_BYTES {
        return Err(Error::new(ErrorKind::Invalid, shown, "this is no credentials file"));
    }
    let text = std::fs::read_to_string(file)
        .map_err(|e| Error::io(shown, "read the credentials file", e))?;
    let found = section(&text, profile);
    let (Some(id), Some(secret)) = (found.id, found.secret) else {
        let what = format!("holds no access key and secret for profile {profile}");
        return Err(Error::new(ErrorKind::Invalid, shown, what)
            .hinting("Add them, or name another profile with `profile` in [vault.s3]."));
    };
    let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    Ok(match found.token {
        Some(token) => builder.with_token(token),
        None => builder,
    })
}

#[derive(Default)]
struct Found<'a> {
    id: Option<&'a str>,
    secret: Option<&'a str>,
    token: Option<&'a str>,
}

fn section<'a>(text: &'a str, profile: &str) -> Found<'a> {
    let mut found = Found::default();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name = name.trim();
            inside = name.strip_prefix("profile ").unwrap_or(name).trim() == profile;
        } else if let (true, Some((key, value))) = (inside, line.split_once('=')) {
            let value = Some(value.trim()).filter(|value| !value.is_empty());
            match key.trim() {
                "aws_access_key_id" => found.id = value,
                "aws_secret_access_key" => found.secret = value,
                "aws_session_token" => found.token = value,
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_in_the_file() {
        let text = "# comment\n[default]\naws_access_key_id = A\naws_secret_access_key=b=c\n\
                    [profile two]\naws_access_key_id=T\n aws_session_token = t \n\
                    aws_secret_access_key = s\n";
        let one = section(text, "default");
        assert_eq!((one.id, one.secret, one.token), (Some("A"), Some("b=c"), None));
        let two = section(text, "two");
        assert_eq!((two.id, two.secret, two.token), (Some("T"), Some("s"), Some("t")));
        let none = section(text, "three");
        assert_eq!((none.id, none.secret, none.token), (None, None, None));
    }
}
