//! Tests at start what the store relies on, with objects of its own under `probe/`.

use bytes::Bytes;
use futures::TryStreamExt as _;

use super::Backend;
use crate::error::{Error, Kind, Result};
use crate::world::World;

const PROBE_BYTES: u32 = 100_000;

/// What a backend turned out to be able to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// A second write to a taken key is refused. Where not, uniqueness of keys carries the store alone.
    pub exclusive_create: bool,
}

/// Writes, reads, lists and deletes an object. An error says what does not work.
pub(crate) async fn probe(backend: &dyn Backend, world: &World) -> Result<Probe> {
    let key = format!("probe/{}", world.uuid());
    let data = (0..PROBE_BYTES)
        .map(|at| at.to_le_bytes()[at as usize % 3])
        .collect::<Bytes>();
    backend
        .put_new(&key, data.clone())
        .await
        .map_err(|error| failed(backend, "write an object to", error))?;
    let result = inspect(backend, &key, &data).await;
    // Also after a failure: the probe leaves nothing behind where it can help it.
    let deleted = backend
        .delete(&key)
        .await
        .map_err(|error| failed(backend, "delete an object from", error));
    let probe = result?;
    deleted?;
    if backend.stat(&key).await?.is_some() {
        return Err(broken(
            backend,
            "an object was still there after it had been deleted",
        ));
    }
    Ok(probe)
}

async fn inspect(backend: &dyn Backend, key: &str, data: &Bytes) -> Result<Probe> {
    let read = backend
        .get(key)
        .await
        .map_err(|error| failed(backend, "read an object from", error))?;
    if read != *data {
        return Err(broken(
            backend,
            "an object read back differs from what was written",
        ));
    }
    if backend.get_range(key, 777..55_555).await? != data.slice(777..55_555) {
        return Err(broken(backend, "a range read gave other bytes"));
    }
    if backend.stat(key).await? != Some(data.len() as u64) {
        return Err(broken(backend, "the size of an object just written is wrong"));
    }
    let listed: Vec<_> = backend.list("probe/").try_collect().await?;
    if !listed
        .iter()
        .any(|item| item.key == key && item.bytes == data.len() as u64)
    {
        return Err(broken(
            backend,
            "an object just written is missing from the listing",
        ));
    }
    let second = backend.put_new(key, Bytes::from_static(b"second")).await;
    let exclusive_create = match second {
        Ok(()) => false,
        Err(error) if error.kind() == Kind::Exists => true,
        Err(error) => return Err(failed(backend, "write twice to", error)),
    };
    if exclusive_create && backend.get(key).await? != *data {
        return Err(broken(backend, "a refused write changed the object"));
    }
    Ok(Probe { exclusive_create })
}

fn failed(backend: &dyn Backend, what: &str, error: Error) -> Error {
    error.context(format!("cannot {what} `{}`", backend.describe()))
}

fn broken(backend: &dyn Backend, what: &str) -> Error {
    let text = format!("`{}` cannot hold a store: {what}", backend.describe());
    Error::new(Kind::Incompatible, text)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use async_trait::async_trait;
    use futures::StreamExt as _;
    use futures::stream::BoxStream;

    use super::*;
    use crate::backend::{Folder, Listed, Put};

    /// What a place gets wrong.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Lie {
        None,
        /// A second write to a key succeeds and wins.
        Overwrites,
        /// It is refused, and yet wins.
        RefusesAndOverwrites,
        OtherBytes,
        OtherRange,
        OtherSize,
        NotListed,
        ListedShort,
        NotDeleted,
    }

    #[derive(Debug)]
    struct Lying(Folder, Lie);

    #[async_trait]
    impl Backend for Lying {
        async fn put_new(&self, key: &str, data: Bytes) -> Result<()> {
            let done = self.0.put_new(key, data.clone()).await;
            let wins = matches!(self.1, Lie::Overwrites | Lie::RefusesAndOverwrites);
            if done.is_err() && wins {
                self.0.delete(key).await?;
                self.0.put_new(key, data).await?;
            }
            if self.1 == Lie::Overwrites { Ok(()) } else { done }
        }

        async fn put_begin(&self, key: &str) -> Result<Box<dyn Put>> {
            self.0.put_begin(key).await
        }

        async fn put_replace(&self, key: &str) -> Result<Box<dyn Put>> {
            self.0.put_replace(key).await
        }

        async fn get(&self, key: &str) -> Result<Bytes> {
            let data = self.0.get(key).await?;
            Ok(if self.1 == Lie::OtherBytes {
                data.slice(1..)
            } else {
                data
            })
        }

        async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
            // A place that ignores ranges gives the beginning.
            let range = if self.1 == Lie::OtherRange {
                0..range.end - range.start
            } else {
                range
            };
            self.0.get_range(key, range).await
        }

        async fn stat(&self, key: &str) -> Result<Option<u64>> {
            let size = self.0.stat(key).await?;
            Ok(if self.1 == Lie::OtherSize {
                size.map(|size| size + 1)
            } else {
                size
            })
        }

        fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed>> {
            let lie = self.1;
            let kept = move |one: &Result<Listed>| std::future::ready(lie != Lie::NotListed || one.is_err());
            let listed = self.0.list(prefix).filter(kept);
            listed
                .map_ok(move |mut one| {
                    one.bytes -= u64::from(lie == Lie::ListedShort);
                    one
                })
                .boxed()
        }

        async fn delete(&self, key: &str) -> Result<()> {
            if self.1 == Lie::NotDeleted {
                return Ok(());
            }
            self.0.delete(key).await
        }

        fn describe(&self) -> String {
            "a liar".into()
        }
    }

    #[tokio::test]
    async fn a_place_that_does_not_keep_its_promises_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::system();
        let with = |lie| Lying(Folder::open(dir.path()).unwrap(), lie);
        let found = probe(&with(Lie::None), &world).await.unwrap();
        assert!(found.exclusive_create);
        assert_eq!(
            std::fs::read_dir(dir.path().join("probe")).unwrap().count(),
            0,
            "nothing stays"
        );
        // Keys are drawn so that this is no danger, as with S3 servers that ignore If-None-Match.
        let found = probe(&with(Lie::Overwrites), &world).await.unwrap();
        assert!(!found.exclusive_create);
        for (lie, words) in [
            (Lie::RefusesAndOverwrites, "a refused write changed"),
            (Lie::OtherBytes, "differs from what was written"),
            (Lie::OtherRange, "a range read gave other bytes"),
            (Lie::OtherSize, "the size"),
            (Lie::NotListed, "missing from the listing"),
            (Lie::ListedShort, "missing from the listing"),
            (Lie::NotDeleted, "after it had been deleted"),
        ] {
            let error = probe(&with(lie), &world).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Incompatible, "{lie:?}");
            assert!(error.to_string().contains(words), "{lie:?}: {error}");
        }
    }
}
