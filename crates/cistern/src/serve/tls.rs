//! Certificates: the operator's own, read again when their files change, or ones of our own making.
//!
//! A new certificate is taken between two handshakes; open connections keep the one they began with. A file that is
//! broken, unreadable, or does not fit its key, is logged once and tried again; the certificate in use stays meanwhile.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
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
    /// What was told of reading it.
    reading: Told,
    /// What was told of making it anew, where we do that.
    pub renewal: Told,
}

/// Why one looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is time to.
    Usual,
    /// Somebody asked: the files are read even if they seem unchanged, and every failure is told.
    Asked,
}

/// The last failure that was told, so that one that stays is told once and not every few seconds.
#[derive(Debug, Default)]
pub struct Told(Mutex<Option<String>>);

impl Told {
    /// The failure's sentence, if it is to be told.
    pub fn news(&self, failure: Option<Error>, look: Look) -> Option<String> {
        let text = failure.map(|error| error.chain());
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = look == Look::Asked || *told != text;
        told.clone_from(&text);
        text.filter(|_| is_news)
    }
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
        let seen = look_at(&files);
        let key = read(&files)?;
        Ok(Arc::new(Self {
            files,
            current: RwLock::new(Loaded {
                key: Arc::new(key),
                seen,
            }),
            reading: Told::default(),
            renewal: Told::default(),
        }))
    }

    /// Takes a changed certificate into use and says whether it did. An error is a sentence that is to be told; it
    /// leaves the old one in use. What failed is tried again each time: that a file may be read by now, or fits its
    /// key, need not show in its time or length.
    pub fn reload(&self, look: Look) -> std::result::Result<bool, String> {
        let seen = look_at(&self.files);
        if look == Look::Usual && self.current.read().unwrap_or_else(PoisonError::into_inner).seen == seen {
            return Ok(false);
        }
        match read(&self.files) {
            Ok(key) => {
                self.reading.news(None, look);
                Ok(self.take(key, seen))
            }
            Err(error) => self.reading.news(Some(error), look).map_or(Ok(false), Err),
        }
    }

    /// Uses `key` from now on; says whether it is another.
    fn take(&self, key: CertifiedKey, seen: Seen) -> bool {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = current.key.cert != key.cert;
        *current = Loaded {
            key: Arc::new(key),
            seen,
        };
        is_new
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

fn look_at(files: &Files) -> Seen {
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

    /// Writes a file that looks unchanged from outside: of this length, with this time.
    fn write_alike(path: &Path, text: &str, length: usize, at: SystemTime) {
        // What stands outside a PEM block is no part of it.
        let text = format!("{text}{}", "\n".repeat(length - text.len()));
        std::fs::write(path, text).expect("writes");
        let file = std::fs::File::options().write(true).open(path).expect("opens");
        file.set_modified(at).expect("a file has a time");
    }

    #[test]
    fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let certificate = Certificate::load(write_pair(dir.path(), "a.example")).expect("loads");
        let first = in_use(&certificate);
        assert!(!certificate.reload(Look::Usual).expect("nothing changed"));

        write_pair(dir.path(), "longer-name.example");
        assert!(certificate.reload(Look::Usual).expect("takes it"));
        let second = in_use(&certificate);
        assert_ne!(first, second);

        std::fs::write(dir.path().join("cert.pem"), "nonsense").expect("writes");
        let error = certificate.reload(Look::Usual).expect_err("broken");
        assert!(error.contains("cert.pem"), "{error}");
        assert_eq!(in_use(&certificate), second);
        assert!(!certificate.reload(Look::Usual).expect("told once"));
        certificate.reload(Look::Asked).expect_err("whoever asks is told");

        std::fs::remove_file(dir.path().join("key.pem")).expect("removes");
        std::fs::remove_file(dir.path().join("cert.pem")).expect("removes");
        let other = certificate
            .reload(Look::Usual)
            .expect_err("another failure is told");
        assert_ne!(error, other);
    }

    #[test]
    fn what_failed_once_is_tried_again_though_the_files_look_the_same() {
        let (dir, other) = (
            tempfile::tempdir().expect("a temporary folder"),
            tempfile::tempdir().expect("a temporary folder"),
        );
        let files = write_pair(dir.path(), "a.example");
        let certificate = Certificate::load(files.clone()).expect("loads");
        let first = in_use(&certificate);
        let new = write_pair(other.path(), "b.example");
        let text = |path: &Path| std::fs::read_to_string(path).expect("is there");
        let (length, at) = (
            4096,
            SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000),
        );
        std::fs::write(&files.key, text(&new.key)).expect("writes");
        // A test that runs as root can read everything: nonsense stands for a file that may not be read yet.
        write_alike(&files.cert, "not yet", length, at);
        certificate.reload(Look::Usual).expect_err("unreadable");
        assert_eq!(in_use(&certificate), first);
        write_alike(&files.cert, &text(&new.cert), length, at);
        assert!(certificate.reload(Look::Usual).expect("readable by now"));
        assert_ne!(in_use(&certificate), first);
    }

    #[test]
    fn who_asks_gets_the_files_read_though_they_look_the_same() {
        let (dir, other) = (
            tempfile::tempdir().expect("a temporary folder"),
            tempfile::tempdir().expect("a temporary folder"),
        );
        let (files, new) = (
            write_pair(dir.path(), "a.example"),
            write_pair(other.path(), "b.example"),
        );
        let text = |path: &Path| std::fs::read_to_string(path).expect("is there");
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        let put = |from: &Files| {
            write_alike(&files.cert, &text(&from.cert), 4096, at);
            write_alike(&files.key, &text(&from.key), 4096, at);
        };
        put(&files);
        let certificate = Certificate::load(files.clone()).expect("loads");
        let first = in_use(&certificate);
        put(&new);
        assert!(!certificate.reload(Look::Usual).expect("looks the same"));
        assert_eq!(in_use(&certificate), first);
        assert!(certificate.reload(Look::Asked).expect("is read"));
        assert_ne!(in_use(&certificate), first);
        assert!(!certificate.reload(Look::Asked).expect("is the same"), "no news");
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
