//! Secrets that must be read back (an address with credentials, later the keys to upstreams): sealed in the database,
//! on every installation, by a key that is kept outside it. Whoever gets hold of the database alone reads none of them.
//!
//! The key is a file, `secrets.key` in the data folder or wherever `secrets_key_file` says, made at the first start.
//! Servers that share a database share the file; the database has its fingerprint, and refuses another.

pub mod migration;
pub mod rows;
pub mod service;
#[cfg(test)]
mod tests;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::{Context, Error, Result};
use super::random;

/// What a sealed text begins with, so that it can be told from one in clear.
const MARK: &str = "sealed:1:";

/// The column of a row that a secret belongs to: sealed for one, it opens for no other.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// The row's number.
    pub id: i64,
}

/// Seals and opens secrets. Never printed.
#[derive(Clone)]
pub struct Secrets {
    key: [u8; 32],
}

impl Secrets {
    /// With this key.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// The text that stands in the database for `text`.
    pub fn seal(&self, place: Place, text: &str) -> Result<String> {
        let sealed = store::seal::text_seal(&self.key, random::bytes(), &context(place), text.as_bytes())
            .context("could not seal a secret")?;
        Ok(format!("{MARK}{}", STANDARD.encode(sealed)))
    }

    /// The text that was sealed for this place.
    pub fn open(&self, place: Place, sealed: &str) -> Result<String> {
        let opened = sealed
            .strip_prefix(MARK)
            .and_then(|text| STANDARD.decode(text).ok())
            .and_then(|bytes| store::seal::text_open(&self.key, &context(place), &bytes))
            .and_then(|bytes| String::from_utf8(bytes).ok());
        opened.ok_or_else(|| Error::bug(format!("a secret in `{}` cannot be read", place.table)))
    }

    /// Names the key without telling it: 16 hex digits.
    pub fn fingerprint(&self) -> Result<String> {
        let name = store::seal::key_derive(&self.key, &[], b"cistern secrets key fingerprint")
            .context("could not name the secrets' key")?;
        Ok(hex::encode(&name[..8]))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

/// Whether a text is sealed.
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(MARK)
}

fn context(place: Place) -> Vec<u8> {
    format!("{}.{}.{}", place.table, place.column, place.id).into_bytes()
}
