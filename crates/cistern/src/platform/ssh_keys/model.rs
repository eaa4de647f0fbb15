//! What an SSH key is: one OpenSSH public key line, known by the MD5 of its blob, as DigitalOcean knows it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, PublicKey};

use crate::platform::error::{Error, Result};

/// No key that is in use is longer: an RSA key of 16,384 bits has about 2,800 characters.
const MAX_LENGTH: usize = 16 * 1024;
/// Shorter ones are refused by OpenSSH itself (`SSH_RSA_MINIMUM_MODULUS_SIZE`).
const MIN_RSA_BITS: usize = 1024;
/// The longest name.
const MAX_NAME: usize = 255;

/// A checked public key.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// The line as it was given, without white space around it.
    pub line: String,
    /// MD5 of the blob, as sixteen pairs of hex digits with colons.
    pub fingerprint: String,
}

/// How a key is named in a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Identifier {
    /// By its id.
    Id(i64),
    /// By its fingerprint.
    Fingerprint(String),
}

/// Checks a line as it stands in `id_ed25519.pub`.
pub fn key_parse(text: &str) -> Result<Key> {
    let line = text.trim();
    let refused = |why: &str| Err(Error::invalid(format!("Key invalid: {why}")));
    if line.is_empty() {
        return refused("it is empty; give the contents of a file such as `id_ed25519.pub`");
    }
    if line.contains("PRIVATE KEY") {
        return refused(
            "this is a private key; keep it to yourself and give the contents of the `.pub` file",
        );
    }
    if line.len() > MAX_LENGTH || line.chars().any(char::is_control) {
        return refused("a public key is one line; give one key at a time");
    }
    let Ok(key) = PublicKey::from_openssh(line) else {
        return refused("it is not an OpenSSH public key, such as `ssh-ed25519 AAAA… comment`");
    };
    if let Err(why) = algorithm_check(&key) {
        return refused(why);
    }
    // The blob as it was sent: what `ssh-keygen -l -E md5` hashes.
    let blob = line
        .split_whitespace()
        .nth(1)
        .and_then(|blob| STANDARD.decode(blob).ok());
    let Some(blob) = blob else {
        return refused("its second word is not base64");
    };
    let pairs: Vec<String> = Md5::digest(&blob)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Key {
        line: line.to_owned(),
        fingerprint: pairs.join(":"),
    })
}

fn algorithm_check(key: &PublicKey) -> Result<(), &'static str> {
    match (key.algorithm(), key.key_data()) {
        (Algorithm::Rsa { .. }, KeyData::Rsa(rsa)) => {
            let modulus = rsa.n.as_positive_bytes().unwrap_or_default();
            if bits(modulus) < MIN_RSA_BITS {
                return Err(
                    "an RSA key needs 1024 bits at least; make a new one with `ssh-keygen -t ed25519`",
                );
            }
            Ok(())
        }
        (
            Algorithm::Dsa
            | Algorithm::Ecdsa { .. }
            | Algorithm::Ed25519
            | Algorithm::SkEcdsaSha2NistP256
            | Algorithm::SkEd25519,
            _,
        ) => Ok(()),
        _ => Err("this type of key is not known here; make one with `ssh-keygen -t ed25519`"),
    }
}

/// The length of a big-endian number without its leading zeros.
fn bits(number: &[u8]) -> usize {
    let zeros = number.first().map_or(0, |byte| byte.leading_zeros() as usize);
    number.len() * 8 - zeros
}

/// Checks a key's name.
pub fn name_check(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(Error::invalid("Name can't be blank"));
    }
    if name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Error::invalid("a key's name has 1 to 255 printable characters"));
    }
    Ok(())
}

/// Reads an identifier from a path. Anything but digits is taken as a fingerprint, which then is not found.
pub fn identifier_parse(text: &str) -> Identifier {
    match text.parse() {
        Ok(id) => Identifier::Id(id),
        Err(_) => Identifier::Fingerprint(text.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::ssh_keys::known_tests::{CERTIFICATE, KEYS, TOO_SHORT};

    #[test]
    fn fingerprints_are_those_of_ssh_keygen() {
        for (line, fingerprint) in KEYS {
            let key = key_parse(&format!("  {line}\n")).expect("a valid key");
            assert_eq!((key.line.as_str(), key.fingerprint.as_str()), (line, fingerprint));
        }
    }

    #[test]
    fn what_is_no_public_key_is_refused_with_a_reason() {
        let (ed25519, _) = KEYS[0];
        let mislabelled = ed25519.replacen("ssh-ed25519", "ssh-rsa", 1);
        let cut = &ed25519[..60];
        let two = format!("{ed25519}\n{ed25519}");
        let options = format!("no-pty {ed25519}");
        for (bad, reason) in [
            ("", "empty"),
            ("hello", "OpenSSH"),
            (cut, "OpenSSH"),
            (mislabelled.as_str(), "OpenSSH"),
            (options.as_str(), "OpenSSH"),
            (two.as_str(), "one line"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn", "private"),
            (TOO_SHORT, "1024 bits"),
            (CERTIFICATE, ""),
        ] {
            let error = key_parse(bad).expect_err("it is refused").to_string();
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains("b3Blbn"), "a private key is not repeated");
        }
    }

    #[test]
    fn names_and_identifiers_are_read() {
        assert!(name_check("my laptop").is_ok() && name_check(&"x".repeat(255)).is_ok());
        for bad in ["", "  ", "a\nb", &"x".repeat(256)] {
            assert!(name_check(bad).is_err(), "{bad:?}");
        }
        assert_eq!(identifier_parse("12"), Identifier::Id(12));
        assert_eq!(identifier_parse("3B:16"), Identifier::Fingerprint("3b:16".into()));
    }
}
