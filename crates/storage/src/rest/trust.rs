//! Which certificates a client believes.

use super::Options;
use crate::{Error, ErrorKind};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// By a pinned certificate if there is one, else by the CA file, else by the public authorities.
pub(super) fn connector(options: &Options) -> Result<TlsConnector, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(ErrorKind::Invalid, "TLS", e))?;
    let config = match (&options.pinned_sha256, &options.ca_file) {
        (Some(pin), _) => {
            let pin = Pinned { digest: digest(pin)?, provider };
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(pin))
                .with_no_client_auth()
        }
        (None, Some(file)) => {
            let invalid =
                |e: &dyn std::fmt::Display| Error::new(ErrorKind::Invalid, file.display(), e);
            let mut roots = RootCertStore::empty();
            let found = CertificateDer::pem_file_iter(file).map_err(|e| invalid(&e))?;
            for certificate in found {
                let certificate = certificate.map_err(|e| invalid(&e))?;
                roots.add(certificate).map_err(|e| invalid(&e))?;
            }
            if roots.is_empty() {
                return Err(invalid(&"there is no certificate in it"));
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        (None, None) => {
            let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect::<RootCertStore>();
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A SHA-256 in hex, with or without colons, as `openssl x509 -fingerprint -sha256` prints it.
fn digest(text: &str) -> Result<[u8; 32], Error> {
    let hex: String = text.chars().filter(|c| *c != ':').collect();
    let mut digest = [0; 32];
    hex::decode_to_slice(&hex, &mut digest).map_err(|_| {
        let message = "a pinned certificate is given by its SHA-256, 64 hex digits";
        Error::new(ErrorKind::Invalid, text, message)
    })?;
    Ok(digest)
}

/// Believes one certificate, whoever signed it and whatever name is in it. That the server has its
/// key is proved by the handshake's signature as ever.
#[derive(Debug)]
struct Pinned {
    digest: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found: [u8; 32] = Sha256::digest(certificate).into();
        if found == self.digest {
            return Ok(ServerCertVerified::assertion());
        }
        let found = hex::encode(found);
        Err(rustls::Error::General(format!("the certificate is not the pinned one but {found}")))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
