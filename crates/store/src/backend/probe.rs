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
