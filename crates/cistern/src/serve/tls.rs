//! Certificates: the operator's own, read again when their files change, or ones of our own making.
//!
//! A new certificate is taken between two handshakes; open connections keep the one they began with. A file that is
//! broken, or does not fit its key, is logged and the certificate in use stays.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::platform::error::{Error, Result};

/// The two files of a certificate.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate and its chain, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// The certificate in use.
#[derive(Debug)]
pub struct Certificate {
    files: Files,
    current: RwLock<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    seen: Seen,
}

/// What tells whether the files have changed since.
type Seen = [Option<(SystemTime, u64)>; 2];

/// Makes aws-lc-rs the cryptography of everything in this process. A second call changes nothing.
pub fn provider_install() {
    // Fails only where it has been installed before.
    let _ = aws_lc_rs::default_provider().install_default();
}

impl Certificate {
    /// Reads both files.
    pub fn load(files: Files) -> Result<Arc<Self>> {
        let seen = look(&files);
        let key = read(&files)?;
        Ok(Arc::new(Self {
            files,
            current: RwLock::new(Loaded {
                key: Arc::new(key),
                seen,
            }),
        }))
    }

    /// Takes a changed certificate into use. Says whether it did; an error leaves the old one in use and is told
    /// once for each change.
    pub fn reload(&self) -> Result<bool> {
        let seen = look(&self.files);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.seen == seen {
            return Ok(false);
        }
        current.seen = seen;
        current.key = Arc::new(read(&self.files)?);
        Ok(true)
    }

    /// The settings of a listener that uses this certificate.
    pub fn server_config(self: &Arc<Self>) -> Arc<ServerConfig> {
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.current.read().unwrap_or_else(PoisonError::into_inner).key,
        ))
    }
}

fn look(files: &Files) -> Seen {
    [&files.cert, &files.key].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    })
}

fn read(files: &Files) -> Result<CertifiedKey> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(|e| unusable(&files.cert, &e.to_string()))?;
    if chain.is_empty() {
        return Err(unusable(&files.cert, "there is no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| unusable(&files.key, &e.to_string()))?;
    let provider = CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()));
    let key = CertifiedKey::from_der(chain, key, &provider)
        .map_err(|e| unusable(&files.key, &format!("it does not fit the certificate: {e}")))?;
    Ok(key)
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::Precondition(format!("cannot use `{}` for TLS: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn write_pair(dir: &Path, name: &str) -> Files {
        let key = KeyPair::generate().expect("a key");
        let cert = CertificateParams::new(vec![name.to_owned()])
            .and_then(|p| p.self_signed(&key))
            .expect("signs");
        let files = Files {
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
        };
        std::fs::write(&files.cert, cert.pem()).expect("writes");
        std::fs::write(&files.key, key.serialize_pem()).expect("writes");
        files
    }

    fn in_use(certificate: &Certificate) -> Vec<u8> {
        certificate.current.read().expect("not poisoned").key.cert[0].to_vec()
    }

    #[test]
    fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let certificate = Certificate::load(write_pair(dir.path(), "a.example")).expect("loads");
        let first = in_use(&certificate);
        assert!(!certificate.reload().expect("nothing changed"));

        write_pair(dir.path(), "longer-name.example");
        assert!(certificate.reload().expect("takes it"));
        let second = in_use(&certificate);
        assert_ne!(first, second);

        std::fs::write(dir.path().join("cert.pem"), "nonsense").expect("writes");
        let error = certificate.reload().expect_err("broken").to_string();
        assert!(error.contains("cert.pem"), "{error}");
        assert_eq!(in_use(&certificate), second);
        assert!(!certificate.reload().expect("told once"));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let files = write_pair(dir.path(), "a.example");
        std::fs::write(&files.key, KeyPair::generate().expect("a key").serialize_pem()).expect("writes");
        let error = Certificate::load(files).expect_err("does not fit").to_string();
        assert!(error.contains("does not fit"), "{error}");
    }
}
