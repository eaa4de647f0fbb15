//! The store header: the first object of a store, which says how to read everything else
//! (docs/store-format.md §3).
//!
//! Headers are numbered (`h/00000000`, …) because no key is ever used twice; the highest one that is whole
//! is the one in force. Today only number 0 is written; wrapping keys will add more.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::{CHUNK_BYTES, FORMAT};

const MAGIC: &[u8; 8] = b"CISTSTOR";
const PREFIX_BYTES: usize = 16;
const MAC_BYTES: usize = 32;
/// Longer than any header we write; stops a damaged length from asking for memory.
const JSON_LIMIT: usize = 1 << 20;

/// Feature bits this program understands when reading a store.
pub(crate) const FEATURES_READ: u64 = 0;
/// Feature bits this program understands when writing to a store.
pub(crate) const FEATURES_WRITE: u64 = 0;

/// How chunks of different teams share storage. Fixed when the store is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DedupDomain {
    /// Equal chunks are stored once in the whole installation.
    #[default]
    Installation,
    /// Equal chunks are stored once a team: nobody can learn what others hold.
    Team,
}

/// The header's document. Unknown fields are ignored: what must not be ignored has a feature bit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The store's identity, the same in every pack and in the database.
    pub store_id: Uuid,
    /// Format of the store's objects.
    pub format: u32,
    /// Bytes of a data chunk.
    pub chunk_bytes: u32,
    /// The digest of chunks and nodes: always `blake3-keyed`.
    pub digest: String,
    /// Names the digest key.
    pub digest_key_id: String,
    /// The digest key in hex. Absent in an encrypted store, where it is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_key: Option<String>,
    /// Features that a program must know to read the store.
    pub features_read: u64,
    /// Features that a program must know to write to the store.
    pub features_write: u64,
    /// The dedup domain.
    pub dedup_domain: DedupDomain,
    /// When the store was made, microseconds since 1970 (UTC).
    pub created_us: i64,
}

impl Header {
    /// The key of header number `number`.
    pub(crate) fn key(number: u32) -> String {
        format!("h/{number:08}")
    }

    pub(crate) fn digest_key(&self) -> Result<[u8; 32]> {
        let Some(text) = &self.digest_key else {
            return Err(Error::new(
                Kind::Incompatible,
                "the store is encrypted: give its key",
            ));
        };
        let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| {
            Error::new(
                Kind::Damaged,
                "the store header's digest key is not 64 hex digits",
            )
        })
    }

    pub(crate) fn encode(&self) -> Result<Bytes> {
        let json = serde_json::to_vec(self)
            .map_err(|error| Error::new(Kind::Io, "cannot write the store header").with_source(error))?;
        let length = u32::try_from(json.len()).map_err(|_| Error::new(Kind::Invalid, "header too long"))?;
        let mut out = BytesMut::with_capacity(PREFIX_BYTES + json.len() + MAC_BYTES);
        out.put_slice(MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(length);
        out.put_slice(&json);
        let sum = blake3::hash(&out);
        out.put_slice(sum.as_bytes());
        Ok(out.freeze())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = |what: &str| Error::new(Kind::Damaged, format!("the store header {what}"));
        if bytes.len() < PREFIX_BYTES + MAC_BYTES || &bytes[..8] != MAGIC {
            return Err(damaged("does not begin as one"));
        }
        let format = u32_at(bytes, 8);
        if format > FORMAT {
            return Err(newer(format));
        }
        let length = u32_at(bytes, 12) as usize;
        if length > JSON_LIMIT || bytes.len() != PREFIX_BYTES + length + MAC_BYTES {
            return Err(damaged("has the wrong length"));
        }
        let (covered, sum) = bytes.split_at(PREFIX_BYTES + length);
        if blake3::hash(covered).as_bytes() != sum {
            return Err(damaged("does not match its checksum"));
        }
        let header: Self = serde_json::from_slice(&covered[PREFIX_BYTES..])
            .map_err(|error| damaged("is not the document it should be").with_source(error))?;
        header.check()?;
        Ok(header)
    }

    /// Refuses what this program would read wrongly.
    fn check(&self) -> Result<()> {
        if self.format > FORMAT {
            return Err(newer(self.format));
        }
        let unknown = self.features_read & !FEATURES_READ;
        if unknown != 0 {
            let text =
                format!("the store uses features this version cannot read ({unknown:#x}): upgrade cistern");
            return Err(Error::new(Kind::Incompatible, text));
        }
        if self.chunk_bytes != CHUNK_BYTES || self.digest != "blake3-keyed" {
            let text = format!(
                "chunks of {} bytes by `{}` are not supported",
                self.chunk_bytes, self.digest
            );
            return Err(Error::new(Kind::Incompatible, text));
        }
        Ok(())
    }

    /// Whether this program may write to the store.
    pub(crate) fn writable(&self) -> Result<()> {
        let unknown = self.features_write & !FEATURES_WRITE;
        if unknown == 0 {
            return Ok(());
        }
        let text =
            format!("the store uses features this version cannot write ({unknown:#x}): upgrade cistern");
        Err(Error::new(Kind::Incompatible, text))
    }
}

fn newer(format: u32) -> Error {
    let text = format!("the store has format {format}, this version knows up to {FORMAT}: upgrade cistern");
    Error::new(Kind::Incompatible, text)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            store_id: Uuid::from_u128(7),
            format: FORMAT,
            chunk_bytes: CHUNK_BYTES,
            digest: "blake3-keyed".into(),
            digest_key_id: "0011223344556677".into(),
            digest_key: Some("00".repeat(32)),
            features_read: 0,
            features_write: 0,
            dedup_domain: DedupDomain::Team,
            created_us: 5,
        }
    }

    #[test]
    fn round_trip() {
        let header = header();
        assert_eq!(Header::decode(&header.encode().unwrap()).unwrap(), header);
    }

    #[test]
    fn refuses_unknown_read_features_and_newer_formats() {
        let unknown = Header {
            features_read: 1 << 40,
            ..header()
        };
        let error = Header::decode(&unknown.encode().unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::Incompatible);
        let newer = Header {
            format: FORMAT + 1,
            ..header()
        };
        assert_eq!(
            Header::decode(&newer.encode().unwrap()).unwrap_err().kind(),
            Kind::Incompatible
        );
        let write_only = Header {
            features_write: 2,
            ..header()
        };
        let read = Header::decode(&write_only.encode().unwrap()).unwrap();
        assert_eq!(read.writable().unwrap_err().kind(), Kind::Incompatible);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = header().encode().unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.to_vec();
            bad[at] ^= 0x10;
            assert!(Header::decode(&bad).is_err(), "byte {at}");
        }
    }
}
