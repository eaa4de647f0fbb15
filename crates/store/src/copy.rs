//! Copies a whole store from one backend to another: a folder into a bucket, and back.
//!
//! Objects never change and no key is used twice, so what is there with the right size need not be copied again, and a
//! copy that was cut off goes on. Headers come last: a half-copied place is no store yet. Every pack is decoded and hashed on
//! its way, so that damage is told here and not taken along unseen. The database knows nothing of the place: a service
//! goes on with the copy when it is told to.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use crate::backend::{Backend, Listed};
use crate::digest::Keys;
use crate::error::{Error, Kind, Result};
use crate::gc::id_of;
use crate::header::header_load;
use crate::keys::WrappingKey;
use crate::pack;
use crate::world::World;

/// What lies where, in the order in which it is copied.
const PREFIXES: [&str; 4] = ["p/", "b/", "j/", "h/"];
/// Objects on their way at the same time.
const AT_ONCE: usize = 4;
/// An object that is larger goes in pieces of this size.
const PIECE_BYTES: u64 = 8 << 20;
/// What is told by name.
const NAMED: usize = 100;

/// Counters of a copy, for those who watch it.
#[derive(Debug, Default)]
pub struct CopyProgress {
    /// Objects looked at.
    pub objects: AtomicU64,
    /// Bytes written.
    pub bytes: AtomicU64,
}

/// What a copy did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// Objects written.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were there already.
    pub present: u64,
    /// Packs that are damaged at the source, and were copied as they are: keys of the first of them, with the reason.
    pub damaged: Vec<String>,
}

enum Done {
    Present,
    Gone,
    Written(u64, Option<String>),
}

/// How a copy is to be.
#[derive(Debug, Default)]
pub struct CopyOptions {
    /// Everything that was written is read again and compared.
    pub read_back: bool,
    /// A key of the store, where that is encrypted: its packs could not be checked otherwise.
    pub key: Option<WrappingKey>,
}

/// Copies what `to` lacks of the store in `from`.
pub async fn copy(
    from: &dyn Backend,
    to: &dyn Backend,
    options: &CopyOptions,
    progress: &CopyProgress,
) -> Result<Copied> {
    let Some(found) = header_load(from).await? else {
        let text = format!("`{}` holds no store", from.describe());
        return Err(Error::new(Kind::NotFound, text));
    };
    if let Some(other) = header_load(to).await?
        && other.header.store_id != found.header.store_id
    {
        let text = format!(
            "`{}` already holds another store, {}",
            to.describe(),
            other.header.store_id
        );
        return Err(Error::new(Kind::Exists, text));
    }
    let on = Copier {
        from,
        to,
        keys: found.unlock(options.key.as_ref())?,
        read_back: options.read_back,
        world: World::system(),
    };
    let mut copied = Copied::default();
    for prefix in PREFIXES {
        let listed = from.list(prefix);
        let done = listed.map(|item| async { on.object(item?).await });
        let mut done = done.buffer_unordered(AT_ONCE);
        while let Some(done) = done.try_next().await? {
            progress.objects.fetch_add(1, Relaxed);
            match done {
                Done::Present => copied.present += 1,
                Done::Gone => {}
                Done::Written(bytes, damage) => {
                    progress.bytes.fetch_add(bytes, Relaxed);
                    copied.objects += 1;
                    copied.bytes += bytes;
                    copied
                        .damaged
                        .extend(damage.filter(|_| copied.damaged.len() < NAMED));
                }
            }
        }
    }
    headers_prune(from, to).await?;
    Ok(copied)
}

/// Removes headers that an earlier copy brought and that are gone at the source since: they may be opened by a key that was
/// taken away.
async fn headers_prune(from: &dyn Backend, to: &dyn Backend) -> Result<()> {
    let kept: Vec<Listed> = from.list("h/").try_collect().await?;
    let there: Vec<Listed> = to.list("h/").try_collect().await?;
    for old in there
        .iter()
        .filter(|old| kept.iter().all(|kept| kept.key != old.key))
    {
        to.delete(&old.key).await?;
    }
    Ok(())
}

struct Copier<'a> {
    from: &'a dyn Backend,
    to: &'a dyn Backend,
    keys: Keys,
    read_back: bool,
    world: World,
}

impl Copier<'_> {
    async fn object(&self, item: Listed) -> Result<Done> {
        match self.to.stat(&item.key).await? {
            Some(bytes) if bytes == item.bytes => return Ok(Done::Present),
            // A write that was cut off, of a backend that shows such a thing.
            Some(_) => self.to.delete(&item.key).await?,
            None => {}
        }
        match self.write(&item).await {
            // Gc may have deleted it since it was listed.
            Err(error) if error.kind() == Kind::NotFound && self.from.stat(&item.key).await?.is_none() => {
                Ok(Done::Gone)
            }
            done => done.map(|damage| Done::Written(item.bytes, damage)),
        }
    }

    /// Gives what is wrong with it, where it is a pack.
    async fn write(&self, item: &Listed) -> Result<Option<String>> {
        if item.bytes > pack::LIMIT_BYTES as u64 {
            self.write_large(item).await?;
            return Ok(None);
        }
        let data = self.from.get(&item.key).await?;
        let damage = match id_of(&item.key).filter(|_| item.key.starts_with("p/")) {
            Some(id) => self
                .damage(id, data.clone())
                .await?
                .map(|reason| format!("{}: {reason}", item.key)),
            None => None,
        };
        self.to.put_new(&item.key, data.clone()).await?;
        if self.read_back && self.to.get(&item.key).await? != data {
            return Err(changed(&item.key));
        }
        Ok(damage)
    }

    async fn damage(&self, id: Uuid, data: Bytes) -> Result<Option<Error>> {
        let keys = self.keys.clone();
        self.world
            .compute(move || Ok(pack::verify(&keys, id, &data).err()))
            .await
    }

    async fn write_large(&self, item: &Listed) -> Result<()> {
        let mut put = self.to.put_begin(&item.key).await?;
        let mut written = blake3::Hasher::new();
        for start in (0..item.bytes).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX)) {
            let data = self
                .from
                .get_range(&item.key, start..item.bytes.min(start + PIECE_BYTES))
                .await?;
            written.update(&data);
            put.write(data).await?;
        }
        put.finish().await?;
        if self.to.stat(&item.key).await? != Some(item.bytes) {
            return Err(changed(&item.key));
        }
        if !self.read_back {
            return Ok(());
        }
        let mut read = blake3::Hasher::new();
        for start in (0..item.bytes).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX)) {
            read.update(
                &self
                    .to
                    .get_range(&item.key, start..item.bytes.min(start + PIECE_BYTES))
                    .await?,
            );
        }
        if read.finalize() == written.finalize() {
            Ok(())
        } else {
            Err(changed(&item.key))
        }
    }
}

fn changed(key: &str) -> Error {
    Error::new(Kind::Io, format!("`{key}` is not what was written"))
}
