//! The server's certificate and key.

use crate::{Error, ErrorKind};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, crypto::ring};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Reads a certificate chain and its key, both PEM.
pub(super) fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, Error> {
    let invalid =
        |file: &Path, e: &dyn std::fmt::Display| Error::new(ErrorKind::Invalid, file.display(), e);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|e| invalid(certificate, &e))?;
    if chain.is_empty() {
        return Err(invalid(certificate, &"there is no certificate in it"));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| invalid(key, &e))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid(certificate, &e))?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|e| invalid(key, &e))?;
    // One request at a time and connection: what an attacker can make us hold stays countable.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
