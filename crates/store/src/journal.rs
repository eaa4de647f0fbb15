//! Journal objects: what the service needs to bring its catalogue back, kept beside the disks (docs/store-format.md
//! §9).
//!
//! The store knows their envelope, their keys and their order, and nothing of what is in them. A *generation* begins
//! with a whole dump in one or more parts, which changes follow; each object names the one before it by number and
//! code, so that a lost one is noticed. Numbers that nobody names may be missing: their write never happened.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::TryStreamExt as _;
use uuid::Uuid;

use crate::FORMAT;
use crate::backend::Backend;
use crate::digest::Keys;
use crate::error::{Error, Kind, Result};
use crate::format::format_check;
use crate::header::header_load;
use crate::seal::{self, Purpose};
use crate::store::{Options, Store, headers_missing};
use crate::world::World;

const MAGIC: &[u8; 8] = b"CISTJRNL";
const HEAD_BYTES: usize = 128;
/// The same as it is written.
const HEAD_LENGTH: u32 = 128;
const CODE_BYTES: usize = 32;
const CODEC_ZSTD: u8 = 1;
const CIPHER_NONE: u8 = 0;
const CIPHER_AES: u8 = 1;
const ZSTD_LEVEL: i32 = 3;
const PREFIX: &str = "j/";
/// The largest document; stops a damaged length from asking for memory.
pub const JOURNAL_DOCUMENT_LIMIT: usize = 64 << 20;

/// Where an object stands in the journal. The order is that of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct JournalPlace {
    /// Rises with each whole dump. Never negative.
    pub generation: u32,
    /// Rises with each object of a generation, from 0.
    pub sequence: u64,
}

impl JournalPlace {
    /// The key of the object there.
    pub fn key(self) -> String {
        format!("{PREFIX}{:08x}/{:016x}", self.generation, self.sequence)
    }
}

/// What an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum JournalPart {
    /// A part of a dump that others follow.
    Dump = 1,
    /// The last part of a dump.
    DumpEnd = 2,
    /// What changed since the object before it.
    Changes = 3,
}

impl JournalPart {
    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Dump),
            2 => Some(Self::DumpEnd),
            3 => Some(Self::Changes),
            _ => None,
        }
    }
}

/// Names an object by its place in its generation and its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalLink {
    /// Its number.
    pub sequence: u64,
    /// Its last 32 bytes.
    pub code: [u8; 32],
}

/// What an object says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalHead {
    /// Which database wrote it: drawn when that database was made.
    pub lineage: Uuid,
    /// Where it stands.
    pub place: JournalPlace,
    /// What it holds.
    pub part: JournalPart,
    /// The object before it, none for the first of a generation.
    pub previous: Option<JournalLink>,
    /// When what it holds was read (microseconds since 1970, UTC).
    pub at_us: i64,
}

/// A listed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalListed {
    /// Where it stands.
    pub place: JournalPlace,
    /// Its size.
    pub bytes: u64,
}

/// An object that was read.
#[derive(Debug, Clone)]
pub struct JournalObject {
    /// What it says of itself.
    pub head: JournalHead,
    /// What it holds.
    pub document: Vec<u8>,
    /// By which the next object names it.
    pub code: [u8; 32],
}

/// An object to be written.
#[derive(Debug, Clone)]
pub struct JournalSealed {
    /// Its key in the backend.
    place: JournalPlace,
    bytes: Bytes,
    /// By which the next object names it.
    pub code: [u8; 32],
}

impl JournalSealed {
    /// Where it is to stand.
    pub(crate) fn place(&self) -> JournalPlace {
        self.place
    }

    /// Its bytes, for a working file that it waits in.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same object from a working file.
    pub fn from_bytes(place: JournalPlace, bytes: Bytes) -> Result<Self> {
        let at = bytes.len().checked_sub(CODE_BYTES);
        let code = at.and_then(|at| bytes[at..].try_into().ok());
        let code = code.ok_or_else(|| Error::new(Kind::Invalid, "a journal object is cut short"))?;
        Ok(Self { place, bytes, code })
    }
}

/// The journal of a store: usable without a database.
#[derive(Debug, Clone)]
pub struct Journal {
    backend: Arc<dyn Backend>,
    store_id: Uuid,
    keys: Keys,
    world: World,
}

impl Store {
    /// This store's journal.
    pub fn journal(&self) -> Journal {
        Journal {
            backend: Arc::clone(&self.inner.backend),
            store_id: self.inner.header.store_id,
            keys: self.inner.keys.clone(),
            world: self.inner.options.world.clone(),
        }
    }
}

impl Journal {
    /// The journal of the store in `backend`, whose database may be gone. Of the options only `key` and `world` count.
    pub async fn open(backend: Arc<dyn Backend>, options: &Options) -> Result<Self> {
        let Some(found) = header_load(&*backend).await? else {
            if let Some(error) = headers_missing(&*backend).await? {
                return Err(error);
            }
            let text = format!("`{}` holds no store", backend.describe());
            return Err(Error::new(Kind::NotFound, text));
        };
        let keys = found.unlock(options.key.as_ref())?;
        Ok(Self {
            backend,
            store_id: found.header.store_id,
            keys,
            world: options.world.clone(),
        })
    }

    /// The journal of a store whose header was read already, for reading.
    pub(crate) fn of(backend: Arc<dyn Backend>, store_id: Uuid, keys: Keys) -> Self {
        Self {
            backend,
            store_id,
            keys,
            world: World::system(),
        }
    }

    /// Which store it is of.
    pub fn store_id(&self) -> Uuid {
        self.store_id
    }

    /// Every object, oldest first.
    pub async fn list(&self) -> Result<Vec<JournalListed>> {
        let mut listed: Vec<JournalListed> = self
            .backend
            .list(PREFIX)
            .try_filter_map(|item| async move {
                let place = place_of(&item.key);
                Ok(place.map(|place| JournalListed {
                    place,
                    bytes: item.bytes,
                }))
            })
            .try_collect()
            .await?;
        listed.sort_unstable_by_key(|item| item.place);
        Ok(listed)
    }

    /// Whether there is an object of a later generation than this.
    pub async fn has_later(&self, generation: u32) -> Result<bool> {
        // Behind every key of that generation.
        let after = format!("{PREFIX}{generation:08x}~");
        let mut later = self.backend.list_after(PREFIX, &after);
        while let Some(item) = later.try_next().await? {
            if place_of(&item.key).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes an object of a document.
    pub fn seal(&self, head: &JournalHead, document: &[u8]) -> Result<JournalSealed> {
        let plain_bytes = u32::try_from(document.len())
            .ok()
            .filter(|_| document.len() <= JOURNAL_DOCUMENT_LIMIT)
            .ok_or_else(|| Error::new(Kind::Invalid, "a journal document is too long"))?;
        let payload = zstd::bulk::compress(document, ZSTD_LEVEL)
            .map_err(|error| Error::io("cannot compress a journal object", error))?;
        let key = self.payload_key()?;
        let cipher = if key.is_some() { CIPHER_AES } else { CIPHER_NONE };
        let mut out = BytesMut::with_capacity(HEAD_BYTES + payload.len() + seal::TEXT_BYTES + CODE_BYTES);
        out.put_slice(MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(HEAD_LENGTH);
        out.put_slice(self.store_id.as_bytes());
        out.put_slice(head.lineage.as_bytes());
        out.put_u32_le(head.place.generation);
        out.put_slice(&[
            head.part as u8,
            CODEC_ZSTD,
            cipher,
            u8::from(head.previous.is_some()),
        ]);
        out.put_u64_le(head.place.sequence);
        let previous = head.previous.unwrap_or(JournalLink {
            sequence: 0,
            code: [0; 32],
        });
        out.put_u64_le(previous.sequence);
        out.put_slice(&previous.code);
        out.put_i64_le(head.at_us);
        out.put_u32_le(plain_bytes);
        out.put_bytes(0, HEAD_BYTES - out.len());
        let payload = match key {
            Some(key) => seal::text_seal(&key, self.world.salt(), &out, &payload)?,
            None => payload,
        };
        out.put_slice(&payload);
        let code = self.keys.journal_mac(&out);
        out.put_slice(&code);
        Ok(JournalSealed {
            place: head.place,
            bytes: out.freeze(),
            code,
        })
    }

    /// Writes an object durably. [`Kind::Exists`] where its key was used, as far as the backend can tell.
    pub async fn put(&self, object: &JournalSealed) -> Result<()> {
        self.backend
            .put_new(&object.place.key(), object.bytes.clone())
            .await
    }

    /// Reads an object. [`Kind::Damaged`] where it is not what was written, and [`Kind::NotFound`] where there is none.
    pub async fn get(&self, place: JournalPlace) -> Result<JournalObject> {
        let key = place.key();
        let bytes = self.backend.get(&key).await?;
        let opened = self.open_bytes(place, &bytes);
        opened.map_err(|error| error.context(format!("journal object `{key}`")))
    }

    /// What an object says of itself, and its code. Without `read_data` only its header is read, and nothing proves it.
    pub(crate) async fn look(
        &self,
        place: JournalPlace,
        read_data: bool,
    ) -> Result<(JournalHead, Option<[u8; 32]>)> {
        if read_data {
            let object = self.get(place).await?;
            return Ok((object.head, Some(object.code)));
        }
        let key = place.key();
        let head = self.backend.get_range(&key, 0..u64::from(HEAD_LENGTH)).await?;
        let opened = envelope_check(&head).and_then(|()| self.head_open(place, &head));
        // Whether it is of another format, or damaged, the whole tells.
        if matches!(&opened, Err(error) if error.kind() == Kind::Incompatible) {
            self.get(place).await?;
        }
        let head = opened.map_err(|error| error.context(format!("journal object `{key}`")))?;
        Ok((head, None))
    }

    /// Whether there is an object.
    pub async fn has(&self, place: JournalPlace) -> Result<bool> {
        Ok(self.backend.stat(&place.key()).await?.is_some())
    }

    /// Removes an object.
    pub async fn delete(&self, place: JournalPlace) -> Result<()> {
        self.backend.delete(&place.key()).await
    }

    fn open_bytes(&self, place: JournalPlace, bytes: &[u8]) -> Result<JournalObject> {
        let damaged = |what: &str| Error::new(Kind::Damaged, what.to_owned());
        if bytes.len() < HEAD_BYTES + CODE_BYTES {
            return Err(damaged("does not begin as one"));
        }
        let (covered, code) = bytes.split_at(bytes.len() - CODE_BYTES);
        let code: [u8; 32] = field(code, 0);
        if let Err(other) = envelope_check(bytes) {
            // A whole one of another format, or one of ours in which just that number is damaged?
            let ours = [&covered[..8], &FORMAT.to_le_bytes(), &covered[12..]].concat();
            if self.keys.journal_mac(&ours) == code {
                return Err(damaged("does not match its code"));
            }
            return Err(other);
        }
        if self.keys.journal_mac(covered) != code {
            return Err(damaged("does not match its code"));
        }
        let (head, payload) = covered.split_at(HEAD_BYTES);
        let head_read = self.head_open(place, head)?;
        let plain_bytes = u32::from_le_bytes(field(head, 112)) as usize;
        let document = self.payload_open(head, payload, plain_bytes)?;
        Ok(JournalObject {
            head: head_read,
            document,
            code,
        })
    }

    /// What the header of the object in this place says.
    fn head_open(&self, place: JournalPlace, head: &[u8]) -> Result<JournalHead> {
        let damaged = |what: &str| Error::new(Kind::Damaged, what.to_owned());
        if &head[16..32] != self.store_id.as_bytes() {
            return Err(damaged("belongs to another store"));
        }
        let part = JournalPart::from_code(head[52]).ok_or_else(|| damaged("is of an unknown kind"))?;
        if head[53] != CODEC_ZSTD {
            return Err(Error::new(
                Kind::Incompatible,
                "has an unknown codec: upgrade cistern",
            ));
        }
        let opened = JournalHead {
            lineage: Uuid::from_bytes(field(head, 32)),
            place: JournalPlace {
                generation: u32::from_le_bytes(field(head, 48)),
                sequence: u64::from_le_bytes(field(head, 56)),
            },
            part,
            previous: (head[55] == 1).then(|| JournalLink {
                sequence: u64::from_le_bytes(field(head, 64)),
                code: field(head, 72),
            }),
            at_us: i64::from_le_bytes(field(head, 104)),
        };
        if opened.place != place {
            return Err(damaged("stands in another's place"));
        }
        Ok(opened)
    }

    /// What payloads are sealed with; `None` where the store is not encrypted. Each is sealed as a text of its own,
    /// with random bytes: a number may be meant twice, by a database that is an older copy.
    fn payload_key(&self) -> Result<Option<[u8; 32]>> {
        let key = self.keys.store_key();
        key.map(|key| key.derive(Purpose::Journal, &[])).transpose()
    }

    /// The document of an object with this header, which a sealed payload is bound to.
    fn payload_open(&self, head: &[u8], payload: &[u8], plain_bytes: usize) -> Result<Vec<u8>> {
        let damaged = |what: &str| Error::new(Kind::Damaged, what.to_owned());
        match (head[54], self.payload_key()?) {
            (CIPHER_NONE, None) => document_open(payload, plain_bytes),
            (CIPHER_AES, Some(key)) => {
                let payload = seal::text_open(&key, head, payload);
                let payload = payload.ok_or_else(|| damaged("was changed, or has another key"))?;
                document_open(&payload, plain_bytes)
            }
            (CIPHER_NONE, Some(_)) => Err(damaged("is not encrypted as it should be")),
            (CIPHER_AES, None) => Err(Error::new(Kind::Incompatible, "is encrypted, the store is not")),
            (cipher, _) => {
                let text = format!("has unknown cipher {cipher}: upgrade cistern");
                Err(Error::new(Kind::Incompatible, text))
            }
        }
    }
}

/// Fails unless these bytes begin as an object of the journal does.
fn envelope_check(bytes: &[u8]) -> Result<()> {
    if &bytes[..8] != MAGIC {
        return Err(Error::new(Kind::Damaged, "does not begin as one"));
    }
    format_check("it", u32::from_le_bytes(field(bytes, 8)))
}

fn document_open(payload: &[u8], plain_bytes: usize) -> Result<Vec<u8>> {
    if plain_bytes > JOURNAL_DOCUMENT_LIMIT {
        return Err(Error::new(Kind::Damaged, "has a length that cannot be"));
    }
    let document = zstd::bulk::decompress(payload, plain_bytes)
        .map_err(|error| Error::new(Kind::Damaged, "does not decompress").with_source(error))?;
    if document.len() == plain_bytes {
        return Ok(document);
    }
    Err(Error::new(
        Kind::Damaged,
        "has the wrong length when decompressed",
    ))
}

/// The place that a key names; whatever else lies there is not the journal's.
pub(crate) fn place_of(key: &str) -> Option<JournalPlace> {
    let (generation, sequence) = key.strip_prefix(PREFIX)?.split_once('/')?;
    let place = JournalPlace {
        generation: u32::from_str_radix(generation, 16).ok()?,
        sequence: u64::from_str_radix(sequence, 16).ok()?,
    };
    (place.key() == key).then_some(place)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests;
