//! From a full pack to published chunks: intent row, object, check, rows.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use uuid::Uuid;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::pack::{self, Builder};
use crate::rows::object_kind;
use crate::session::SessionInner;
use crate::store::pack_key;

/// Digests that this ingest has sent to a pack which is not published yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending(Arc<Mutex<HashSet<Digest>>>);

impl Pending {
    pub(crate) fn set(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seals, verifies, writes and publishes one pack. Gives its size.
pub(crate) async fn pack_put(session: Arc<SessionInner>, builder: Builder, pending: Pending) -> Result<u64> {
    let keys = session.store.inner.keys.clone();
    let world = &session.store.inner.options.world;
    let sealed = world
        .compute(move || {
            let sealed = builder.seal(&keys)?;
            pack::verify(&keys, sealed.id, &sealed.bytes)?;
            Ok(sealed)
        })
        .await?;
    let bytes = sealed.bytes.len() as u64;
    let entries = Arc::new(sealed.entries);
    let object = pack_write(&session, sealed.id, sealed.bytes, entries.len()).await?;
    session.publish(object, bytes, Arc::clone(&entries)).await?;
    let mut pending = pending.set();
    for entry in &*entries {
        pending.remove(&entry.digest);
    }
    Ok(bytes)
}

/// Announces a pack and writes it; gives its number. It is there then, and nothing refers to it.
pub(crate) async fn pack_write(session: &SessionInner, id: Uuid, pack: Bytes, frames: usize) -> Result<i64> {
    let bytes = pack.len() as u64;
    let object = session.announce(object_kind::PACK, id, bytes, frames).await?;
    let key = pack_key(id);
    let backend = &session.store.inner.backend;
    session.put(backend.put_new(&key, pack)).await?;
    match backend.stat(&key).await? {
        Some(found) if found == bytes => Ok(object),
        // Whoever took this session for dead may have cleaned up after it.
        None => match session.cause(gone(&key)).await {
            error if error.kind() == Kind::LeaseLost => Err(error),
            error => Err(Error::new(Kind::Io, error.to_string())),
        },
        Some(_) => {
            let place = backend.describe();
            let text = format!("`{place}` stored `{key}` with another size than was written");
            Err(Error::new(Kind::Io, text))
        }
    }
}

fn gone(key: &str) -> Error {
    Error::new(
        Kind::NotFound,
        format!("`{key}` is not there after it was written"),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use futures::TryStreamExt as _;
    use sea_orm::{ConnectOptions, Database};
    use sea_orm_migration::{MigrationTrait, MigratorTrait};
    use uuid::Uuid;

    use super::*;
    use crate::digest::FrameKind;
    use crate::pack::{Encoded, frame_encode};
    use crate::{CHUNK_BYTES, Folder, Options, Store};

    pub(crate) struct Migrator;

    #[async_trait::async_trait]
    impl MigratorTrait for Migrator {
        fn migrations() -> Vec<Box<dyn MigrationTrait>> {
            crate::migrations()
        }
    }

    pub(crate) async fn store(dir: &std::path::Path) -> Store {
        let url = format!("sqlite://{}?mode=rwc", dir.join("db.sqlite").display());
        let mut options = ConnectOptions::new(url);
        options.sqlx_logging(false);
        let db = Database::connect(options).await.unwrap();
        Migrator::up(&db, None).await.unwrap();
        let backend = Arc::new(Folder::open(&dir.join("objects")).unwrap());
        Store::open_or_init(backend, &db, Options::default())
            .await
            .unwrap()
    }

    /// A frame and its payload.
    type Frame = (Encoded, Vec<u8>);

    /// A chunk that compresses, and one that does not, each with the digest of what it should hold.
    fn frames(store: &Store) -> Vec<Frame> {
        let words = b"words "
            .iter()
            .copied()
            .cycle()
            .take(CHUNK_BYTES as usize)
            .collect();
        let mut noise = vec![0; CHUNK_BYTES as usize];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let encode = |plain: Vec<u8>| {
            let digest = store.inner.keys.digest(FrameKind::Data, &plain);
            frame(digest, plain)
        };
        [words, noise].map(encode).into()
    }

    fn frame(digest: Digest, mut bytes: Vec<u8>) -> Frame {
        let encoded = frame_encode(digest, FrameKind::Data, 0, &mut bytes).unwrap();
        (encoded, bytes)
    }

    async fn put(store: &Store, spoil: impl Fn(&Store, &mut Vec<Frame>)) -> Result<u64> {
        let session = store.session_open("test").await.unwrap();
        let mut frames = frames(store);
        spoil(store, &mut frames);
        let memory = store.inner.memory.pack().unwrap();
        let mut builder = Builder::new(&store.inner.keys, Uuid::new_v4(), store.id(), 0, memory).unwrap();
        for (frame, bytes) in &frames {
            builder.push(frame, bytes).unwrap();
        }
        let done = pack_put(Arc::clone(&session.inner), builder, Pending::default()).await;
        session.abort().await.unwrap();
        done
    }

    async fn objects(store: &Store) -> usize {
        let listed: Vec<_> = store.inner.backend.list("p/").try_collect().await.unwrap();
        listed.len()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_does_not_decode_to_its_digest_is_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        for bad in [
            // The compressor gave other bytes, in the middle and at the end.
            |_: &Store, frames: &mut Vec<Frame>| frames[0].1[12] ^= 1,
            // Bytes stored as they are were changed on their way.
            |_: &Store, frames: &mut Vec<Frame>| frames[1].1[60_000] ^= 1,
            // A frame of something else.
            |store: &Store, frames: &mut Vec<Frame>| {
                let digest = store.inner.keys.digest(FrameKind::Data, b"this");
                frames[0] = frame(digest, b"that".to_vec());
            },
        ] {
            assert_eq!(put(&store, bad).await.unwrap_err().kind(), Kind::Damaged);
            assert_eq!(
                (objects(&store).await, store.stats().await.unwrap().packs),
                (0, 0)
            );
        }
        assert!(put(&store, |_, _| ()).await.unwrap() > 65536);
        assert_eq!(objects(&store).await, 1, "what is right is written");
    }
}
