//! The store header: the first object of a store, which says how to read everything else
//! (docs/store-format.md §3).
//!
//! Headers are numbered (`h/00000000`, …) because no key is ever used twice; the highest one that is whole
//! is the one in force. A store is lost without its header, so it has two of each, and an encrypted one two new ones
//! whenever a wrapping key is added or removed.

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::backend::Backend;
use crate::digest::Keys;
use crate::error::{Error, Kind, Result};
use crate::format::format_check;
use crate::keys::{WrappedKey, WrappingKey};
use crate::seal::{self, Purpose, StoreKey};
use crate::{CHUNK_BYTES, FORMAT};

const MAGIC: &[u8; 8] = b"CISTSTOR";
const PREFIX_BYTES: usize = 16;
const MAC_BYTES: usize = 32;
/// Longer than any header we write; stops a damaged length from asking for memory.
const JSON_LIMIT: usize = 1 << 20;

/// The feature bit of a store whose frames are encrypted.
pub(crate) const FEATURE_ENCRYPTED: u64 = 1;
/// Feature bits this program understands when reading a store.
pub(crate) const FEATURES_READ: u64 = FEATURE_ENCRYPTED;
/// Feature bits this program understands when writing to a store.
pub(crate) const FEATURES_WRITE: u64 = 0;

const DIGEST_KEY: &[u8] = b"digest key";

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
    /// The number in the header's key. In an encrypted store it is authenticated with the rest.
    #[serde(default)]
    pub number: u32,
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
    /// The digest key sealed with the store's key, in hex. Absent in a store in clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_digest_key: Option<String>,
    /// The store's key sealed with each wrapping key. Empty in a store in clear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrapped_keys: Vec<WrappedKey>,
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

    /// Whether the store's frames are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.features_read & FEATURE_ENCRYPTED != 0
    }

    /// The store's key, where the store is encrypted, and `wrapping` opens it. Fails with [`Kind::Incompatible`] and
    /// what to do where they do not fit.
    pub(crate) fn store_key(&self, wrapping: Option<&WrappingKey>) -> Result<Option<StoreKey>> {
        let refused = |text: String| Err(Error::new(Kind::Incompatible, text));
        let id = self.store_id;
        match (self.is_encrypted(), wrapping) {
            (false, None) => Ok(None),
            (false, Some(_)) => refused(format!(
                "a key is given, but the store {id} is not encrypted: take `key_file` or `key_command` out of the \
                 settings, or make an encrypted store in another place with `cistern init --encrypt`"
            )),
            (true, None) => refused(format!(
                "the store {id} is encrypted, and no key is given: set `key_file` or `key_command` to one of its keys"
            )),
            (true, Some(wrapping)) => {
                let key = self
                    .wrapped_keys
                    .iter()
                    .find_map(|wrapped| wrapped.open(id, wrapping));
                if key.is_some() {
                    return Ok(key);
                }
                refused(format!(
                    "the key given is not one of the store {id}: set `key_file` or `key_command` to a key that was added \
                     to it and not removed since. Where only the recovery key is left, `cistern key add --key-file NEW \
                     --recovery-key` adds a new one (`cistern recover` takes --recovery-key itself)"
                ))
            }
        }
    }

    /// The keys of the store; `key` is the store's own, where it is encrypted.
    pub(crate) fn keys(&self, key: Option<StoreKey>) -> Result<Keys> {
        let damaged = || Error::new(Kind::Damaged, "the store header's digest key cannot be read");
        let Some(key) = key else {
            let text = self.digest_key.as_ref().ok_or_else(damaged)?;
            let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
            return Ok(Keys::new(&bytes.ok_or_else(damaged)?));
        };
        let sealed = self
            .sealed_digest_key
            .as_ref()
            .and_then(|text| hex::decode(text).ok());
        let seals = key.derive(Purpose::Header, DIGEST_KEY)?;
        let opened = sealed.and_then(|sealed| seal::text_open(&seals, self.store_id.as_bytes(), &sealed));
        let bytes = opened
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(damaged)?;
        Ok(Keys::new(&bytes).sealing(key))
    }

    /// Puts the digest key into the header: sealed where the store is encrypted with `key`.
    pub(crate) fn digest_key_set(
        &mut self,
        digest_key: &[u8; 32],
        key: Option<&StoreKey>,
        salt: [u8; 16],
    ) -> Result<()> {
        let Some(key) = key else {
            self.digest_key = Some(hex::encode(digest_key));
            return Ok(());
        };
        let seals = key.derive(Purpose::Header, DIGEST_KEY)?;
        let sealed = seal::text_seal(&seals, salt, self.store_id.as_bytes(), digest_key)?;
        self.sealed_digest_key = Some(hex::encode(sealed));
        Ok(())
    }

    /// The header's bytes; `key` is the store's, where it is encrypted.
    pub(crate) fn encode(&self, key: Option<&StoreKey>) -> Result<Bytes> {
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
        if let Some(key) = key {
            let code = mac(key, &out)?;
            out.put_slice(code.as_bytes());
        }
        Ok(out.freeze())
    }

    /// Parses the header `number`. Whether an encrypted store's was written by who had its key, [`Header::check_code`]
    /// tells.
    pub(crate) fn decode(number: u32, bytes: &[u8]) -> Result<Self> {
        let damaged = |what: &str| Error::new(Kind::Damaged, format!("the store header {what}"));
        if bytes.len() < PREFIX_BYTES + MAC_BYTES || &bytes[..8] != MAGIC {
            return Err(damaged("does not begin as one"));
        }
        if let Err(other) = format_check("the store", u32_at(bytes, 8)) {
            // A whole one of another format, or one of ours in which just that number is damaged?
            let ours = [&bytes[..8], &FORMAT.to_le_bytes(), &bytes[12..]].concat();
            return match Self::decode(number, &ours) {
                Ok(_) => Err(damaged("does not match its checksum")),
                Err(_) => Err(other),
            };
        }
        let length = u32_at(bytes, 12) as usize;
        if length > JSON_LIMIT || bytes.len() < PREFIX_BYTES + length + MAC_BYTES {
            return Err(damaged("has the wrong length"));
        }
        let (covered, sums) = bytes.split_at(PREFIX_BYTES + length);
        if blake3::hash(covered).as_bytes() != &sums[..MAC_BYTES] {
            return Err(damaged("does not match its checksum"));
        }
        let header: Self = serde_json::from_slice(&covered[PREFIX_BYTES..])
            .map_err(|error| damaged("is not the document it should be").with_source(error))?;
        header.check()?;
        let codes = if header.is_encrypted() { 2 } else { 1 };
        if sums.len() != codes * MAC_BYTES || header.number != number {
            return Err(damaged("has the wrong length or number"));
        }
        Ok(header)
    }

    /// Fails unless the bytes of an encrypted store's header were written by who had its key.
    pub(crate) fn check_code(key: &StoreKey, bytes: &[u8]) -> Result<()> {
        let code = bytes.split_last_chunk::<MAC_BYTES>();
        if let Some((covered, code)) = code
            && mac(key, covered)? == *code
        {
            return Ok(());
        }
        Err(Error::new(
            Kind::Damaged,
            "the store header was changed by somebody who does not have the store's key",
        ))
    }

    /// Refuses what this program would read wrongly.
    fn check(&self) -> Result<()> {
        format_check("the store", self.format)?;
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

/// A header as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) header: Header,
    bytes: Bytes,
    /// The bytes of an encrypted store's other header, which says the same.
    copy: Option<Bytes>,
}

impl Found {
    /// The keys of the store, where `wrapping` fits, and the header is as it was written.
    pub(crate) fn unlock(&self, wrapping: Option<&WrappingKey>) -> Result<Keys> {
        let key = self.header.store_key(wrapping)?;
        if let Some(key) = &key {
            self.check_code(key)?;
        }
        self.header.keys(key)
    }

    /// Fails unless the header was written by who had the store's key. Where just its code is damaged, which nobody
    /// sees without the key, that of its copy counts.
    pub(crate) fn check_code(&self, key: &StoreKey) -> Result<()> {
        let own = Header::check_code(key, &self.bytes);
        match &self.copy {
            Some(copy) if own.is_err() => Header::check_code(key, copy),
            _ => own,
        }
    }
}

/// The numbers of all headers in a backend, the highest first.
pub(crate) async fn header_numbers(backend: &dyn Backend) -> Result<Vec<u32>> {
    let listed: Vec<_> = backend.list("h/").try_collect().await?;
    let numbers = listed
        .iter()
        .filter_map(|item| item.key.strip_prefix("h/")?.parse().ok());
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers)
}

/// One header, checked.
pub(crate) async fn header_read(backend: &dyn Backend, number: u32) -> Result<Found> {
    let bytes = backend.get(&Header::key(number)).await?;
    Header::decode(number, &bytes).map(|header| Found {
        header,
        bytes,
        copy: None,
    })
}

/// The bytes of the next older header, where it says the same.
async fn copy_read(backend: &dyn Backend, header: &Header, older: Option<&u32>) -> Option<Bytes> {
    let found = header_read(backend, *older?).await.ok()?;
    let same = Header {
        number: header.number,
        ..found.header
    };
    (same == *header).then_some(found.bytes)
}

/// The header in force: the one with the highest number that is whole.
pub(crate) async fn header_load(backend: &dyn Backend) -> Result<Option<Found>> {
    let place = |error: Error| error.context(format!("`{}`", backend.describe()));
    let mut damaged = None;
    let numbers = header_numbers(backend).await?;
    for (at, number) in numbers.iter().copied().enumerate() {
        match header_read(backend, number).await {
            Ok(mut found) => {
                if found.header.is_encrypted() {
                    found.copy = copy_read(backend, &found.header, numbers.get(at + 1)).await;
                }
                return Ok(Some(found));
            }
            // Deleted since it was listed: a key was changed meanwhile, and what replaced it is there.
            Err(error) if error.kind() == Kind::NotFound && damaged.is_none() => damaged = Some(error),
            // Of what a disk cannot read there is a copy too.
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::Io) => {
                let key = Header::key(number);
                tracing::warn!(key, %error, "a store header is damaged; the one before it is tried");
                damaged = Some(error);
            }
            Err(error) => return Err(place(error)),
        }
    }
    damaged.map_or(Ok(None), |error| Err(place(none_whole(error))))
}

/// Of the last of the headers, none of which can be used.
fn none_whole(error: Error) -> Error {
    if error.kind() == Kind::NotFound {
        return error;
    }
    let text = "every header of the store is damaged: put the objects below `h/` back from a copy of the folder or bucket. \
                Nothing else of the store is hurt by that";
    Error::new(Kind::HeadersDamaged, text).with_source(error)
}

/// The code that an encrypted store's header ends with.
fn mac(key: &StoreKey, covered: &[u8]) -> Result<blake3::Hash> {
    let code = key.derive(Purpose::Header, b"code")?;
    Ok(blake3::keyed_hash(&code, covered))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyKind;
    use crate::world::World;

    fn header() -> Header {
        Header {
            number: 0,
            store_id: Uuid::from_u128(7),
            format: FORMAT,
            chunk_bytes: CHUNK_BYTES,
            digest: "blake3-keyed".into(),
            digest_key_id: "0011223344556677".into(),
            digest_key: Some("00".repeat(32)),
            sealed_digest_key: None,
            wrapped_keys: Vec::new(),
            features_read: 0,
            features_write: 0,
            dedup_domain: DedupDomain::Team,
            created_us: 5,
        }
    }

    #[test]
    fn round_trip() {
        let header = header();
        assert_eq!(Header::decode(0, &header.encode(None).unwrap()).unwrap(), header);
    }

    #[test]
    fn refuses_unknown_read_features_and_other_formats() {
        let unknown = Header {
            features_read: 1 << 40,
            ..header()
        };
        let error = Header::decode(0, &unknown.encode(None).unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::Incompatible);
        for (format, advice) in [(0, "make a new store"), (FORMAT + 1, "upgrade cistern")] {
            let other = Header { format, ..header() };
            let error = Header::decode(0, &other.encode(None).unwrap()).unwrap_err();
            assert_eq!(error.kind(), Kind::Incompatible);
            assert!(error.to_string().contains(advice), "{error}");
        }
        let write_only = Header {
            features_write: 2,
            ..header()
        };
        let read = Header::decode(0, &write_only.encode(None).unwrap()).unwrap();
        assert_eq!(read.writable().unwrap_err().kind(), Kind::Incompatible);
    }

    fn encrypted() -> (Header, StoreKey, WrappingKey) {
        let (world, key) = (World::system(), StoreKey::new([8; 32]));
        let wrapping = WrappingKey::new(KeyKind::KeyFile, &[b'k'; 32]).unwrap();
        let mut sealed = Header {
            number: 4,
            features_read: FEATURE_ENCRYPTED,
            digest_key: None,
            ..header()
        };
        sealed.digest_key_set(&[6; 32], Some(&key), world.salt()).unwrap();
        sealed.wrapped_keys = vec![WrappedKey::new(&world, sealed.store_id, &wrapping, &key).unwrap()];
        (sealed, key, wrapping)
    }

    #[test]
    fn an_encrypted_header_shows_no_key_and_opens_with_its_key_alone() {
        let (sealed, key, wrapping) = encrypted();
        let bytes = sealed.encode(Some(&key)).unwrap();
        for secret in [[6; 32], [8; 32], [b'k'; 32]] {
            let hex = hex::encode(secret);
            assert!(!bytes.windows(32).any(|part| part == secret));
            assert!(!bytes.windows(64).any(|part| part == hex.as_bytes()));
        }
        let header = Header::decode(4, &bytes).unwrap();
        let found = Found {
            header,
            bytes,
            copy: None,
        };
        assert_eq!(
            found.unlock(Some(&wrapping)).unwrap().id(),
            Keys::new(&[6; 32]).id()
        );
        let refused = |key: Option<&WrappingKey>| found.unlock(key).unwrap_err();
        let other = WrappingKey::new(KeyKind::KeyFile, &[b'o'; 32]).unwrap();
        for (key, said) in [
            (None, "no key is given"),
            (Some(&other), "is not one of the store"),
        ] {
            let error = refused(key);
            assert_eq!(error.kind(), Kind::Incompatible);
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn a_header_that_was_changed_under_another_key_is_refused() {
        let (sealed, key, wrapping) = encrypted();
        assert!(
            Header::decode(5, &sealed.encode(Some(&key)).unwrap()).is_err(),
            "another number"
        );
        // Whoever may write to the bucket can make everything fit but the code.
        let changed = Header {
            dedup_domain: DedupDomain::Installation,
            ..sealed
        };
        let bytes = changed.encode(Some(&StoreKey::new([9; 32]))).unwrap();
        let header = Header::decode(4, &bytes).unwrap();
        let error = Found {
            header,
            bytes,
            copy: None,
        }
        .unlock(Some(&wrapping))
        .unwrap_err();
        assert!(error.to_string().contains("was changed"), "{error}");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (sealed, key, wrapping) = encrypted();
        let whole = sealed.encode(Some(&key)).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.to_vec();
            bad[at] ^= 0x10;
            let opened = Header::decode(4, &bad).and_then(|header| {
                let bytes = bad.into();
                Found {
                    header,
                    bytes,
                    copy: None,
                }
                .unlock(Some(&wrapping))
            });
            assert!(opened.is_err(), "byte {at}");
        }

        let whole = header().encode(None).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.to_vec();
            bad[at] ^= 0x10;
            // So that its copy is looked at.
            let error = Header::decode(0, &bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged, "byte {at}");
        }
    }
}
