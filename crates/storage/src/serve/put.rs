//! Taking an object in: nothing of it is visible before all of it is there, is what it must be, and
//! is durable.

use super::answer::{Answer, PROBE_BYTES, Served, append_only, blocking, done, is_probe};
use super::route::{How, Refusal};
use super::states::StateName;
use crate::local::Upload;
use crate::protocol::{File, Rights};
use crate::{Error, Key, Local, Put};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// How much is gathered before it is written.
const PIECE: usize = 1 << 20;

/// An object on its way in.
struct Arriving {
    upload: Upload,
    digest: Sha256,
}

impl Served {
    /// Takes a body in as the object of a key.
    pub(super) async fn put(
        self: Arc<Self>,
        key: Key,
        how: How,
        sha256: Option<String>,
        rights: Rights,
        body: Incoming,
    ) -> Answer {
        let at_most = if is_probe(&key) { PROBE_BYTES } else { self.limits.object_bytes };
        if body.size_hint().lower() > at_most {
            return Err(too_large(at_most));
        }
        let (local, begun) = (self.local.clone(), key.clone());
        let upload = blocking(move || local.upload(&begun)).await?;
        let arriving =
            self.receive(Arriving { upload, digest: Sha256::new() }, body, at_most).await?;
        let local = self.local.clone();
        blocking(move || store(&local, &key, how, sha256.as_deref(), rights, arriving)).await
    }

    async fn receive(
        &self,
        mut arriving: Arriving,
        mut body: Incoming,
        at_most: u64,
    ) -> Result<Arriving, Refusal> {
        let began = Instant::now();
        let (mut received, mut gathered) = (0_u64, Vec::new());
        loop {
            // Standing still is one way to be slow, a byte now and then is the other.
            let limits = &self.limits;
            let earned = std::time::Duration::from_secs(received / limits.slowest.max(1));
            let deadline = (Instant::now() + limits.body).min(began + limits.body + earned);
            let frame = match timeout_at(deadline, body.frame()).await {
                Ok(frame) => frame,
                Err(_) => {
                    return Err(Refusal::new(
                        StatusCode::REQUEST_TIMEOUT,
                        "the body came too slowly",
                    ));
                }
            };
            let end = frame.is_none();
            match frame {
                None => {}
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    received += data.len() as u64;
                    if received > at_most {
                        return Err(too_large(at_most));
                    }
                    gathered.extend_from_slice(&data);
                }
                Some(Err(_)) => {
                    let reason = "the body did not come to its end";
                    return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
                }
            }
            if gathered.len() >= PIECE || (end && !gathered.is_empty()) {
                let piece = std::mem::take(&mut gathered);
                arriving = blocking(move || {
                    arriving.digest.update(&piece);
                    arriving.upload.write(&piece)?;
                    Ok::<_, Error>(arriving)
                })
                .await?;
            }
            if end {
                return Ok(arriving);
            }
        }
    }
}

fn too_large(at_most: u64) -> Refusal {
    let reason = format!("this server takes {at_most} bytes at most here");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
}

/// Puts what arrived in place, as far as that is allowed.
fn store(
    local: &Local,
    key: &Key,
    how: How,
    sha256: Option<&str>,
    rights: Rights,
    arriving: Arriving,
) -> Answer {
    let Arriving { upload, digest } = arriving;
    let digest: [u8; 32] = digest.finalize().into();
    let found = hex::encode(digest);
    let file = File::of(key);
    let named = file.and_then(|file| file.digest());
    for wanted in [named, sha256].into_iter().flatten() {
        if wanted != found {
            let reason = format!("the bytes have the SHA-256 {found}, not {wanted}");
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, reason));
        }
    }
    let is_config = matches!(file, Some(File::Config { .. }));
    if how == How::Replace && rights == Rights::Full && !is_config {
        upload.replace()?;
        return Ok(done(StatusCode::OK));
    }
    if rights < Rights::Full
        && let Some(state) = StateName::of(key)
    {
        state.next(local, how)?;
    }
    match (upload.create()?, how) {
        (Put::Created, How::IfAbsent) => Ok(done(StatusCode::CREATED)),
        (Put::Created, _) => Ok(done(StatusCode::OK)),
        (Put::Exists, How::IfAbsent) => {
            Err(Refusal::new(StatusCode::PRECONDITION_FAILED, "there is one already"))
        }
        // Repeated by who has not heard our answer.
        (Put::Exists, _) if stored_digest(local, key)? == digest => Ok(done(StatusCode::OK)),
        (Put::Exists, _) if is_config => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "there is a config already, and it is never replaced",
        )),
        // The name is right, so what is stored is damaged.
        (Put::Exists, _) if named.is_some() && rights == Rights::Full => {
            upload.replace()?;
            Ok(done(StatusCode::OK))
        }
        (Put::Exists, _) if named.is_some() => {
            Err(append_only("what is stored under this name is damaged, and stays as it is"))
        }
        (Put::Exists, _) => Err(append_only("there is one already, with other bytes")),
    }
}

fn stored_digest(local: &Local, key: &Key) -> Result<[u8; 32], Error> {
    let (mut file, _) = local.object(key)?;
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digest.finalize().into()),
            Ok(length) => digest.update(&buffer[..length]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(key, "read", e)),
        }
    }
}
