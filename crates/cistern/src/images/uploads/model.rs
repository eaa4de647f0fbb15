//! The rules of tus 1.0.0 that need neither a file nor a database.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::platform::error::{Error, Result};

/// `Tus-Resumable` and `Tus-Version`.
pub const VERSION: &str = "1.0.0";
/// `Tus-Extension`.
pub const EXTENSIONS: &str =
    "creation,creation-defer-length,creation-with-upload,expiration,termination,checksum";
/// `Tus-Checksum-Algorithm`.
pub const CHECKSUMS: &str = "sha1,sha256";
/// Longest `Upload-Metadata`, in bytes.
const MAX_METADATA_BYTES: usize = 4096;

/// Why an upload was refused in a way that only tus has a status for.
#[derive(Debug)]
pub enum Refusal {
    /// 409: the offset is not where the upload is.
    Offset,
    /// 423: someone else writes it at this moment.
    Locked,
    /// 400, as tusd answers it: a newer request writes it now.
    TakenOver,
    /// 460: the bytes are not what `Upload-Checksum` says; nothing was kept.
    Checksum,
    /// Anything that every other part of the service also says.
    Other(Error),
}

impl<E: Into<Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// What `Upload-Checksum` wants of a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    algorithm: Algorithm,
    wanted: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha1,
    Sha256,
}

impl Checksum {
    /// Reads the header: the algorithm, a space, and the digest in Base64.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, digest) = text.split_once(' ').unwrap_or((text, ""));
        let (algorithm, length) = match name {
            "sha1" => (Algorithm::Sha1, 20),
            "sha256" => (Algorithm::Sha256, 32),
            other => {
                return Err(Error::BadRequest(format!(
                    "`{other}` is not a checksum that this server knows; it knows sha1 and sha256"
                )));
            }
        };
        match BASE64.decode(digest.trim()) {
            Ok(wanted) if wanted.len() == length => Ok(Self { algorithm, wanted }),
            _ => Err(Error::BadRequest(format!(
                "`Upload-Checksum` must be `{name}`, a space and {length} bytes in Base64"
            ))),
        }
    }

    /// What hashes the body.
    pub fn hasher(&self) -> Hasher {
        match self.algorithm {
            Algorithm::Sha1 => Hasher::Sha1(Sha1::new()),
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
        }
    }

    /// Whether the hashed body is the wanted one.
    pub fn matches(&self, hasher: Hasher) -> bool {
        match hasher {
            Hasher::Sha1(h) => h.finalize().as_slice() == self.wanted,
            Hasher::Sha256(h) => h.finalize().as_slice() == self.wanted,
        }
    }
}

/// A running checksum.
pub enum Hasher {
    /// SHA-1: tus demands it. It guards against accidents only.
    Sha1(Sha1),
    /// SHA-256.
    Sha256(Sha256),
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(h) => h.update(bytes),
            Self::Sha256(h) => h.update(bytes),
        }
    }
}

/// Checks `Upload-Metadata`: pairs of a key and an optional Base64 value, with commas between them.
pub fn metadata_check(text: &str) -> Result<()> {
    let wrong = |what: String| Err(Error::BadRequest(format!("`Upload-Metadata` {what}")));
    if text.len() > MAX_METADATA_BYTES {
        return wrong(format!("has at most {MAX_METADATA_BYTES} bytes"));
    }
    let mut keys = Vec::new();
    for pair in text.split(',').map(str::trim) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return wrong("has a pair without a key".into());
        }
        if keys.contains(&key) {
            return wrong(format!("names `{key}` twice"));
        }
        if BASE64.decode(value.trim()).is_err() {
            return wrong(format!("must give `{key}` in Base64"));
        }
        keys.push(key);
    }
    Ok(())
}

/// Reads a header that is a count of bytes.
pub fn number(name: &str, text: &str) -> Result<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(n) if digits && i64::try_from(n).is_ok() => Ok(n),
        _ => Err(Error::BadRequest(format!(
            "`{name}` must be a whole number of bytes"
        ))),
    }
}

/// How far an upload really is: what the row promises, unless the file has less.
pub fn true_offset(row: u64, file: u64) -> u64 {
    row.min(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_read_and_compared() {
        let of = |text: &str, body: &[u8]| {
            let checksum = Checksum::parse(text).expect("valid");
            let mut hasher = checksum.hasher();
            hasher.update(body);
            checksum.matches(hasher)
        };
        // The digest of the tus specification's example, of the bytes "hello world".
        assert!(of("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", b"hello world"));
        let sha256 = format!("sha256 {}", BASE64.encode(Sha256::digest(b"hello")));
        let sha1 = format!("sha1 {}", BASE64.encode(Sha1::digest(b"hello")));
        assert!(of(&sha256, b"hello") && !of(&sha256, b"hellO"));
        assert!(of(&sha1, b"hello") && !of(&sha1, b""));
    }

    #[test]
    fn what_is_no_checksum_is_refused() {
        for bad in [
            "",
            "sha1",
            "md5 AAAA",
            "sha256 AAAA",
            "sha1 ???",
            "SHA1 Lve95gjOVATpfV8EL5X4nxwjKHE=",
        ] {
            assert!(Checksum::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn metadata_has_keys_and_base64() {
        for good in ["filename d29ybGQ=", "a,b", "filename d29ybGQ=, is_confidential"] {
            assert!(metadata_check(good).is_ok(), "{good:?}");
        }
        for bad in ["", ",", "a ,", "a %%", "a YQ==,a YQ=="] {
            assert!(metadata_check(bad).is_err(), "{bad:?}");
        }
        assert!(metadata_check(&"k".repeat(5000)).is_err());
    }

    #[test]
    fn numbers_are_plain_digits() {
        assert_eq!(number("Upload-Length", "0").ok(), Some(0));
        for bad in [
            "",
            "-1",
            "+1",
            " 1",
            "1.0",
            "9223372036854775808",
            "99999999999999999999",
        ] {
            assert!(number("Upload-Length", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn after_a_crash_the_lesser_of_row_and_file_counts() {
        assert_eq!(true_offset(10, 25), 10, "bytes that were never promised");
        assert_eq!(true_offset(10, 4), 4, "a file that lost bytes is believed");
    }
}
