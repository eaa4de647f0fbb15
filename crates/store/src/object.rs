//! Whole objects: bytes that are kept as they are under a digest that outsiders know them by (an OCI blob).
//!
//! They live in the same store as disks, under the same sessions, roots and gc: the row that says where one lies is a
//! chunk row of kind *whole*, whose digest is made of the name (`sha256:…`) with a key of its own. So what holds
//! for chunks holds here: written under a fresh key, published once its bytes have been hashed, pinned when hit,
//! condemned when nothing names it.
//!
//! In an encrypted store they are sealed in segments (docs/store-format.md §10): what is stored is longer than what
//! was written, and only the segments of a range are read. Sizes are those of what was written unless the name says
//! *stored*.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use sea_orm::ConnectionTrait;
use sha2::{Digest as _, Sha256, Sha512};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::backend::Put;
use crate::digest::{Digest, FrameKind};
use crate::error::{Error, Kind, Result, bytes_shown};
use crate::pack::Entry;
use crate::rows::{self, WHOLE_LEVEL, object_kind};
use crate::seal::{self, ObjectKey, SEALED_SEGMENT_BYTES, SEGMENT_BYTES};
use crate::session::{Kept, Session, SessionInner};
use crate::store::{Store, key_of};
use crate::world::World;

/// What is smaller is written with one call.
const SMALL_BYTES: usize = 8 << 20;
/// Bytes of a piece of a stream.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces of a stream that are there or on their way.
const PIECES: usize = 2;

/// How the bytes of a whole object are hashed, in OCI's words (image-spec, descriptor.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `sha256`
    Sha256,
    /// `sha512`
    Sha512,
}

/// The digest that outsiders know a whole object by: `sha256:` or `sha512:` and lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectName {
    algorithm: Algorithm,
    digest: Vec<u8>,
}

impl ObjectName {
    /// How its bytes are hashed.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = match self.algorithm {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        };
        write!(f, "{algorithm}:{}", hex::encode(&self.digest))
    }
}

impl FromStr for ObjectName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(
                Kind::Invalid,
                "a digest is `sha256:` or `sha512:` and lower-case hex digits",
            )
        };
        let (algorithm, digits) = text.split_once(':').ok_or_else(wrong)?;
        let (algorithm, length) = match algorithm {
            "sha256" => (Algorithm::Sha256, 64),
            "sha512" => (Algorithm::Sha512, 128),
            _ => return Err(wrong()),
        };
        if digits.len() != length || digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(wrong());
        }
        let digest = hex::decode(digits).map_err(|_| wrong())?;
        Ok(Self { algorithm, digest })
    }
}

/// A whole object that the store has: all that is needed to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// What its name is in the index.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// The dedup domain that the digest is looked up in; 0 for the whole installation.
    pub domain: i64,
}

impl From<ObjectRef> for Kept {
    fn from(of: ObjectRef) -> Self {
        Self {
            domain: of.domain,
            digest: of.digest,
            level: WHOLE_LEVEL,
            virtual_bytes: of.bytes,
            allocated_bytes: of.bytes,
        }
    }
}

/// The index entry of a whole object.
pub(crate) fn whole_entry(digest: Digest, bytes: u64) -> Entry {
    Entry {
        digest,
        offset: 0,
        // For figures only, and no larger than the column.
        length: u32::try_from(bytes)
            .unwrap_or(u32::MAX)
            .min(i32::MAX.cast_unsigned()),
        plain_bytes: 0,
        kind: FrameKind::Whole,
        level: 0,
    }
}

/// The hash of bytes that come one after the other.
#[derive(Debug, Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> ObjectName {
        let (algorithm, digest) = match self {
            Self::Sha256(hasher) => (Algorithm::Sha256, hasher.finalize().to_vec()),
            Self::Sha512(hasher) => (Algorithm::Sha512, hasher.finalize().to_vec()),
        };
        ObjectName { algorithm, digest }
    }
}

/// A whole object on its way in. Dropping it gives it up.
pub struct ObjectIngest {
    session: Arc<SessionInner>,
    hasher: Hasher,
    bytes: u64,
    /// What was not written yet.
    buffer: BytesMut,
    /// Once it is too large for one call.
    large: Option<Large>,
}

/// An object that is written in pieces.
struct Large {
    row: i64,
    key: String,
    put: Box<dyn Put>,
    sealing: Option<Sealing>,
}

impl Large {
    async fn begin(session: &Arc<SessionInner>) -> Result<Self> {
        let store = &session.store.inner;
        let id = store.options.world.uuid();
        let sealing = Sealing::new(&session.store, id)?;
        let row = session.announce(object_kind::BLOB, id, 0, 1).await?;
        let key = key_of(object_kind::BLOB, id);
        let put = store.backend.put_begin(&key).await?;
        Ok(Self {
            row,
            key,
            put,
            sealing,
        })
    }
}

/// Seals an object of an encrypted store while it is written.
struct Sealing {
    key: Arc<ObjectKey>,
    segments: u64,
}

impl Sealing {
    fn new(store: &Store, id: Uuid) -> Result<Option<Self>> {
        let key = store.inner.keys.whole_key(id)?;
        Ok(key.map(|key| Self {
            key: Arc::new(key),
            segments: 0,
        }))
    }

    /// Takes from the buffer what can be sealed: everything at the end; before that whole segments, but never the last
    /// byte, because the last segment is sealed as such.
    async fn part(&mut self, world: &World, buffer: &mut BytesMut, is_last: bool) -> Result<Bytes> {
        let ready = if is_last {
            buffer.len()
        } else {
            buffer.len().saturating_sub(1) / SEGMENT_BYTES * SEGMENT_BYTES
        };
        let plain = buffer.split_to(ready).freeze();
        let (key, first) = (Arc::clone(&self.key), self.segments);
        self.segments += (ready / SEGMENT_BYTES) as u64;
        let sealed = world.compute(move || key.part_seal(first, is_last, &plain));
        sealed.await.map(Bytes::from)
    }
}

impl fmt::Debug for ObjectIngest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectIngest({} bytes)", self.bytes)
    }
}

impl Session {
    /// The object of this name, if the store has it: it stays until the session ends, and can be committed.
    pub async fn object_find(&self, name: &ObjectName) -> Result<Option<ObjectRef>> {
        self.inner.object_find(name).await
    }

    /// Begins to take a whole object.
    pub fn object_begin(&self, algorithm: Algorithm) -> ObjectIngest {
        ObjectIngest {
            session: Arc::clone(&self.inner),
            hasher: Hasher::new(algorithm),
            bytes: 0,
            buffer: BytesMut::new(),
            large: None,
        }
    }

    /// Publishes whole objects under `kind` and `owner` each and ends the session, in the caller's transaction, as
    /// [`Session::commit_all_in_tx`] does with disks.
    pub async fn commit_objects_in_tx(
        &self,
        tx: &impl ConnectionTrait,
        objects: &[(&str, &str, ObjectRef)],
    ) -> Result<()> {
        let mut kept = Vec::with_capacity(objects.len());
        for (kind, owner, of) in objects {
            if !self.inner.has_object(of.digest) || of.domain != self.inner.domain {
                let text = "the object was not taken in or found by this session";
                return Err(Error::new(Kind::Invalid, text));
            }
            kept.push((*kind, *owner, Kept::from(*of)));
        }
        self.commit_kept_in_tx(tx, &kept).await
    }
}

impl SessionInner {
    async fn object_find(&self, name: &ObjectName) -> Result<Option<ObjectRef>> {
        let digest = self.store.name_digest(name);
        if self.lookup_and_pin(&[digest]).await?.is_empty() {
            return Ok(None);
        }
        let found = self.store.locate(self.domain, &[digest]).await?;
        let Some(at) = found.get(&digest) else {
            return Ok(None);
        };
        let bytes = self.store.object_bytes(at.object).await?;
        self.object_keep(digest);
        Ok(Some(ObjectRef {
            digest,
            bytes,
            domain: self.domain,
        }))
    }
}

impl ObjectIngest {
    /// Adds bytes at the end.
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        self.bytes += data.len() as u64;
        self.hash(&data).await?;
        self.buffer.extend_from_slice(&data);
        if self.buffer.len() >= SMALL_BYTES {
            self.flush(false).await?;
        }
        Ok(())
    }

    async fn hash(&mut self, data: &Bytes) -> Result<()> {
        let (mut hasher, data) = (self.hasher.clone(), data.clone());
        let world = &self.session.store.inner.options.world;
        let done = world.compute(move || {
            hasher.update(&data);
            Ok(hasher)
        });
        self.hasher = done.await?;
        Ok(())
    }

    /// Writes what waits; the first time the object is announced and begun.
    async fn flush(&mut self, is_last: bool) -> Result<()> {
        let large = match &mut self.large {
            Some(large) => large,
            empty => empty.insert(Large::begin(&self.session).await?),
        };
        let world = &self.session.store.inner.options.world;
        let data = match &mut large.sealing {
            Some(sealing) => sealing.part(world, &mut self.buffer, is_last).await?,
            None => self.buffer.split().freeze(),
        };
        large.put.write(data).await
    }

    /// Compares the digest, and only then makes the object durable and publishes it. Fails with [`Kind::Invalid`] where
    /// the bytes are not those of `expected`, and then nothing is left of them.
    pub async fn finish(mut self, expected: &ObjectName) -> Result<ObjectRef> {
        let found = self.hasher.clone().finish();
        if found != *expected {
            self.discard().await?;
            let text = format!("the {} bytes have the digest {found}, not {expected}", self.bytes);
            return Err(Error::new(Kind::Invalid, text));
        }
        if let Some(known) = self.session.object_find(expected).await? {
            self.discard().await?;
            return Ok(known);
        }
        let (row, key) = self.put().await?;
        let store = &self.session.store;
        let stored_bytes = store.stored_bytes(self.bytes);
        if store.inner.backend.stat(&key).await? != Some(stored_bytes) {
            let text = format!(
                "`{}` stored `{key}` with another size than was written",
                store.describe()
            );
            return Err(Error::new(Kind::Io, text));
        }
        let digest = store.name_digest(expected);
        let entry = whole_entry(digest, stored_bytes);
        self.session
            .publish(row, stored_bytes, Arc::new(vec![entry]))
            .await?;
        self.session.object_keep(digest);
        Ok(ObjectRef {
            digest,
            bytes: self.bytes,
            domain: self.session.domain,
        })
    }

    /// Gives up what was written. It was never finished, so nothing of it can appear later, and its row can go.
    async fn discard(&mut self) -> Result<()> {
        let Some(large) = self.large.take() else {
            return Ok(());
        };
        large.put.abort().await?;
        let forgotten = rows::object_delete(&self.session.store.inner.db, large.row).await;
        forgotten.map_err(|error| Error::db("cannot forget an object", error))
    }

    /// Writes the rest; gives the row and the key.
    async fn put(&mut self) -> Result<(i64, String)> {
        if self.large.is_none() {
            let store = &self.session.store;
            let world = &store.inner.options.world;
            let id: Uuid = world.uuid();
            let data = match Sealing::new(store, id)? {
                Some(mut sealing) => sealing.part(world, &mut self.buffer, true).await?,
                None => self.buffer.split().freeze(),
            };
            let bytes = data.len() as u64;
            let row = self.session.announce(object_kind::BLOB, id, bytes, 1).await?;
            let key = key_of(object_kind::BLOB, id);
            self.session.put(store.inner.backend.put_new(&key, data)).await?;
            return Ok((row, key));
        }
        if !self.buffer.is_empty() {
            self.flush(true).await?;
        }
        match self.large.take() {
            Some(Large { row, key, put, .. }) => {
                self.session.put(put.finish()).await?;
                Ok((row, key))
            }
            None => Err(Error::new(Kind::Io, "the object was lost")),
        }
    }
}

impl Store {
    /// The whole object of `kind` and `owner`, if it is there.
    pub async fn object_get(&self, kind: &str, owner: &str) -> Result<Option<ObjectRef>> {
        let row = rows::root_get(&self.inner.db, self.inner.number, kind, owner).await;
        let row = row.map_err(|error| Error::db("cannot read a root", error))?;
        Ok(row.and_then(|row| row.object()))
    }

    /// Its size, as it was written.
    pub(crate) async fn object_bytes(&self, object: i64) -> Result<u64> {
        let rows = rows::objects_get(&self.inner.db, &[object]).await;
        let rows = rows.map_err(|error| Error::db("cannot look an object up", error))?;
        let row = rows.first().ok_or_else(|| {
            let text = format!("object number {object} is not in the database any more");
            Error::new(Kind::NotFound, text)
        })?;
        self.plain_bytes(row.bytes.cast_unsigned())
    }

    /// Bytes that a whole object takes in the backend.
    pub(crate) fn stored_bytes(&self, bytes: u64) -> u64 {
        if self.is_encrypted() {
            return seal::segments_sealed_bytes(bytes);
        }
        bytes
    }

    /// The size of a whole object that takes so many bytes in the backend.
    pub(crate) fn plain_bytes(&self, stored_bytes: u64) -> Result<u64> {
        if !self.is_encrypted() {
            return Ok(stored_bytes);
        }
        seal::segments_plain_bytes(stored_bytes).ok_or_else(|| {
            let text = format!("no encrypted object has {stored_bytes} bytes");
            Error::new(Kind::Damaged, text)
        })
    }

    /// A range of the whole object `id`, whose size is `bytes`, all of it in memory; opened where the store is
    /// encrypted.
    pub(crate) async fn whole_range(&self, id: Uuid, bytes: u64, range: Range<u64>) -> Result<Bytes> {
        let name = key_of(object_kind::BLOB, id);
        let backend = &self.inner.backend;
        let Some(key) = self.inner.keys.whole_key(id)? else {
            return backend.get_range(&name, range).await;
        };
        let (segment, sealed_segment) = (SEGMENT_BYTES as u64, SEALED_SEGMENT_BYTES as u64);
        let count = seal::segments_count(bytes);
        let first = (range.start / segment).min(count - 1);
        let end = range.end.div_ceil(segment).clamp(first + 1, count);
        let stored = first * sealed_segment..(end * sealed_segment).min(seal::segments_sealed_bytes(bytes));
        let sealed = backend.get_range(&name, stored).await?;
        let world = &self.inner.options.world;
        let plain = world.compute(move || key.part_open(first, count, &sealed)).await;
        let plain = Bytes::from(plain.map_err(|error| error.context(name))?);
        let within = |at: u64| usize::try_from(at - first * segment).unwrap_or(usize::MAX);
        let (from, to) = (within(range.start), within(range.end));
        if from > to || to > plain.len() {
            return Err(Error::new(Kind::Damaged, "the object is too short"));
        }
        Ok(plain.slice(from..to))
    }

    pub(crate) fn name_digest(&self, name: &ObjectName) -> Digest {
        self.inner
            .keys
            .digest(FrameKind::Whole, name.to_string().as_bytes())
    }

    /// Bytes of a whole object, in order. What damaged them on the backend is not noticed here unless the store is
    /// encrypted (a verification hashes the whole, and so do those who know the digest); that some are missing is.
    pub fn object_stream(&self, of: ObjectRef, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
        if range.start > range.end || range.end > of.bytes {
            let text = format!("{} are outside of {} bytes", bytes_shown(&range), of.bytes);
            return stream::iter([Err(Error::new(Kind::Invalid, text))]).boxed();
        }
        let store = self.clone();
        let starts = (range.start..range.end).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX));
        stream::iter(starts)
            .map(move |start| {
                let (store, piece) = (store.clone(), start..range.end.min(start + PIECE_BYTES));
                // A task of its own: whoever does not read must not hold a connection.
                let load = tokio::spawn(async move { store.object_read(of, piece).await });
                async move {
                    let done = AbortOnDropHandle::new(load).await;
                    done.map_err(|error| {
                        Error::new(Kind::Unavailable, "reading was stopped").with_source(error)
                    })?
                }
            })
            .buffered(PIECES)
            .boxed()
    }

    /// A range of a whole object, all of it in memory.
    pub async fn object_read(&self, of: ObjectRef, range: Range<u64>) -> Result<Bytes> {
        let mut gone = None;
        for _ in 0..2 {
            let found = self.locate(of.domain, &[of.digest]).await?;
            let Some(at) = found.get(&of.digest) else {
                return Err(gone.unwrap_or_else(|| Error::new(Kind::Damaged, "the object is in no index")));
            };
            let read = async {
                let id = self.stored(at.object).await?.id;
                self.whole_range(id, of.bytes, range.clone()).await
            };
            match read.await {
                Err(error) if error.kind() == Kind::NotFound => {
                    let text = "the object that holds the data is gone";
                    gone = Some(
                        Error::new(Kind::Damaged, text)
                            .with_source(error)
                            .at(range.clone()),
                    );
                }
                read => return read.map_err(|error| error.at(range.clone())),
            }
        }
        let error = gone.unwrap_or_else(|| Error::new(Kind::Damaged, "nothing was read"));
        Err(self.or_away(error).await)
    }
}
