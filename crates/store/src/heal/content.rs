//! Takes what disks lack from wherever the copy has it: gc may have written the pack anew that held it, so that the
//! copy has it under another key, and of a pack that was missing at a recovery no row knows.
//!
//! The copy's packs are gone through one after the other by their footers; what is held is what is wanted. Nothing in a
//! copy is believed: each frame is decoded and compared with the digest that a disk asks for, in its own dedup domain.
//! It is then written as an import writes it: into a new pack under a session, the row of the pack first, and published
//! in one transaction, in which a damaged row is taken over, which heals every disk that has the chunk. So gc, which
//! may run, sees nothing that it does not know.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::future::try_join_all;
use uuid::Uuid;

use super::wanted::{Names, Wanted};
use super::{HealProgress, Healed, usable};
use crate::backend::Listed;
use crate::digest::{Digest, FrameKind};
use crate::error::{Kind, Result};
use crate::gc::id_of;
use crate::ingest::pack_put::{Pending, pack_put};
use crate::memory::PackBytes;
use crate::object::ObjectName;
use crate::pack::{self, Builder, Entry};
use crate::rebuild::{Found, PIECE_BYTES};
use crate::rows::ObjectFound;
use crate::seal::ObjectKey;
use crate::session::Session;
use crate::store::Store;

/// Packs of the copy whose footers are read at the same time.
const PACKS_AT_ONCE: usize = 8;
/// Dedup domains of which packs are being filled at the same time: two packs in memory each.
const DOMAINS_AT_ONCE: usize = 4;

impl Store {
    /// Stores anew what disks lack and the copy has. Where nodes came back, what they name may be wanted too: it is
    /// looked again until nothing more is found. Gives what stays lost.
    pub(super) async fn content_heal(
        &self,
        copy: &Self,
        progress: &HealProgress,
        healed: &mut Healed,
    ) -> Result<Wanted> {
        let (mut tried, mut taken) = (Names::new(), Names::new());
        loop {
            let wanted = self.wanted(&progress.own).await?;
            let came_back = taken.iter().filter(|name| !wanted.has(name)).count();
            healed.chunks += came_back as u64;
            if wanted.names().all(|name| tried.contains(name)) {
                healed.lost = wanted.names().count() as u64;
                return Ok(wanted);
            }
            taken = self.frames_take(copy, &wanted.frames, progress, healed).await?;
            taken.extend(self.objects_take(copy, &wanted.objects, healed).await?);
            tried.extend(wanted.names().copied());
        }
    }

    /// Gives what was found and stored.
    async fn frames_take(
        &self,
        copy: &Self,
        wanted: &Names,
        progress: &HealProgress,
        healed: &mut Healed,
    ) -> Result<Names> {
        let mut taking = Taking {
            store: self,
            copy,
            wanted,
            taken: Names::new(),
            open: Vec::new(),
            healed,
        };
        let done = taking.packs(progress).await;
        let ended = taking.end(done.is_ok()).await;
        done.and(ended)?;
        Ok(taking.taken)
    }

    /// Whole objects, which gc never writes anew: those alone lie under another key here that no row knew.
    async fn objects_take(
        &self,
        copy: &Self,
        wanted: &HashMap<(i64, Digest), u64>,
        healed: &mut Healed,
    ) -> Result<Names> {
        let mut taken = Names::new();
        if wanted.is_empty() {
            return Ok(taken);
        }
        let mut listed = copy.inner.backend.list("b/");
        while let Some(item) = listed.try_next().await? {
            let Some(id) = id_of(&item.key) else { continue };
            let is_as_long = |bytes: &u64| self.stored_bytes(*bytes) == item.bytes;
            if !wanted.values().any(is_as_long) {
                continue;
            }
            let Ok(names) = usable(copy.whole_names(id, &item).await)? else {
                continue;
            };
            for name in names {
                let digest = self.name_digest(&name);
                for of in wanted.keys().filter(|of| of.1 == digest) {
                    if !taken.contains(of) && self.object_store(copy, (id, &item), of.0, &name).await? {
                        healed.chunk_bytes += item.bytes;
                        taken.insert(*of);
                    }
                }
            }
        }
        Ok(taken)
    }

    /// Stores a whole object of the copy as whoever brings it does; false where it is not (any more) what its name
    /// says.
    async fn object_store(
        &self,
        copy: &Self,
        (id, item): (Uuid, &Listed),
        domain: i64,
        name: &ObjectName,
    ) -> Result<bool> {
        let session = self.heal_session(domain).await?;
        let stored = async {
            let mut ingest = session.object_begin(name.algorithm());
            let (bytes, mut at) = (copy.plain_bytes(item.bytes)?, 0);
            while at < bytes {
                let end = bytes.min(at + PIECE_BYTES);
                ingest.write(copy.whole_range(id, bytes, at..end).await?).await?;
                at = end;
            }
            ingest.finish(name).await
        };
        let stored = match stored.await {
            Err(error) if error.kind() == Kind::Invalid => Ok(Err(error)),
            stored => usable(stored),
        };
        session.abort().await?;
        if let Err(error) = &stored? {
            tracing::warn!(object = item.key, %error, "a whole object did not come back");
            return Ok(false);
        }
        Ok(true)
    }
}

/// What a pack of a copy says of itself.
async fn look(copy: &Store, id: Uuid, item: Listed) -> Result<(Listed, Result<Found>)> {
    let found = usable(copy.pack_find((id, item.clone())).await)?;
    Ok((item, found))
}

/// Takes frames of the copy into new packs.
struct Taking<'a> {
    store: &'a Store,
    copy: &'a Store,
    wanted: &'a Names,
    /// What is in a pack by now that is written, or being filled.
    taken: Names,
    /// Of the domains that were met last, the newest at the end.
    open: Vec<Target>,
    healed: &'a mut Healed,
}

/// The packs of one domain that are being filled: nodes are kept apart from data.
struct Target {
    domain: i64,
    session: Session,
    builders: [Option<Builder>; 2],
}

impl Taking<'_> {
    /// Goes through the copy's packs until everything is there.
    async fn packs(&mut self, progress: &HealProgress) -> Result<()> {
        let copy = self.copy;
        let mut listed = copy.inner.backend.list("p/").try_chunks(PACKS_AT_ONCE);
        while self.taken.len() < self.wanted.len()
            && let Some(page) = listed.try_next().await.map_err(|error| error.1)?
        {
            let looks = page
                .into_iter()
                .filter_map(|item| Some(look(copy, id_of(&item.key)?, item)));
            for (item, found) in try_join_all(looks).await? {
                progress.copy_bytes.fetch_add(item.bytes, Relaxed);
                self.found(&item, found).await?;
            }
        }
        Ok(())
    }

    async fn found(&mut self, item: &Listed, found: Result<Found>) -> Result<()> {
        match found {
            // Of one whose index is damaged every frame says itself what it is; whose it is has to be proven.
            Ok(Found::Whole(found) | Found::Salvaged(found, _)) => self.pack(item, found).await,
            Ok(Found::Unplaced(_, reason) | Found::Unreadable(reason)) => {
                tracing::warn!(reason, "a pack of the copy is of no use");
                Ok(())
            }
            Err(error) => {
                tracing::warn!(object = item.key, %error, "a pack of the copy is of no use");
                Ok(())
            }
        }
    }

    /// Takes what is wanted of one pack.
    async fn pack(&mut self, item: &Listed, found: ObjectFound) -> Result<()> {
        for (domain, mut entries) in found.entries {
            entries.retain(|entry| self.is_sought(domain, entry));
            if entries.is_empty() {
                continue;
            }
            let data = match usable(self.copy.inner.backend.get(&item.key).await)? {
                Ok(data) => data,
                Err(error) => {
                    tracing::warn!(object = item.key, %error, "a pack of the copy cannot be read");
                    return Ok(());
                }
            };
            let entries = self.whole(item, found.id, entries, &data).await?;
            let key = self.copy.inner.keys.pack_key(found.id)?;
            for entry in entries {
                if self.is_sought(domain, &entry) {
                    self.frame(domain, key.as_ref(), entry, &data).await?;
                }
            }
        }
        Ok(())
    }

    fn is_sought(&self, domain: i64, entry: &Entry) -> bool {
        let name = (domain, entry.digest);
        self.wanted.contains(&name) && !self.taken.contains(&name)
    }

    /// Those of these entries whose frames decode to their digests, as the frames themselves describe them.
    async fn whole(
        &self,
        item: &Listed,
        id: Uuid,
        mut entries: Vec<Entry>,
        data: &Bytes,
    ) -> Result<Vec<Entry>> {
        let (keys, read) = (self.store.inner.keys.clone(), data.clone());
        // One that decodes to what it should and is longer than any that is ever written would not fit into a pack.
        entries.retain(|entry| entry.length as usize <= pack::FRAME_LIMIT_BYTES);
        let check = move || pack::entries_check(&keys, id, entries, &read);
        let (whole, damaged) = self.store.inner.options.world.compute(check).await?;
        if !damaged.is_empty() {
            tracing::warn!(
                object = item.key,
                chunks = damaged.len(),
                "what is needed is damaged in the copy"
            );
        }
        let described =
            |entry: Entry| pack::entry_at((entry.digest, entry.kind), entry.offset, entry.length, data);
        Ok(whole.into_iter().map(described).collect())
    }

    /// Adds a frame to the pack of its domain that is being filled.
    async fn frame(
        &mut self,
        domain: i64,
        key: Option<&ObjectKey>,
        entry: Entry,
        data: &Bytes,
    ) -> Result<()> {
        let mut target = self.target(domain).await?;
        let added = target.add(self.store, key, entry, data).await;
        self.open.push(target);
        self.healed.chunk_bytes += added?;
        self.taken.insert((domain, entry.digest));
        Ok(())
    }

    /// Takes out what is open of a domain, or opens it.
    async fn target(&mut self, domain: i64) -> Result<Target> {
        if let Some(at) = self.open.iter().position(|target| target.domain == domain) {
            return Ok(self.open.remove(at));
        }
        if self.open.len() >= DOMAINS_AT_ONCE {
            let oldest = self.open.remove(0);
            self.healed.chunk_bytes += oldest.end(true).await?;
        }
        Ok(Target {
            domain,
            session: self.store.heal_session(domain).await?,
            builders: [None, None],
        })
    }

    /// Ends what is open; with `is_kept`, what is in packs is written first.
    async fn end(&mut self, is_kept: bool) -> Result<()> {
        let mut ended = Ok(());
        for target in self.open.drain(..) {
            match target.end(is_kept && ended.is_ok()).await {
                Ok(bytes) => self.healed.chunk_bytes += bytes,
                Err(error) => ended = ended.and(Err(error)),
            }
        }
        ended
    }
}

impl Target {
    /// Adds a frame of a pack whose key is `key`; gives the bytes of the pack that was full, and so written before.
    async fn add(
        &mut self,
        store: &Store,
        key: Option<&ObjectKey>,
        entry: Entry,
        data: &Bytes,
    ) -> Result<u64> {
        let slot = usize::from(entry.kind == FrameKind::Node);
        let is_full = self.builders[slot].as_ref().is_some_and(Builder::is_full);
        let written = if is_full { self.flush(slot).await? } else { 0 };
        let builder = match &mut self.builders[slot] {
            Some(builder) => builder,
            empty => {
                let inner = &store.inner;
                let memory = match entry.kind {
                    FrameKind::Node => PackBytes::of_nodes()?,
                    _ => inner.memory.pack()?,
                };
                let (id, store_id) = (inner.options.world.uuid(), inner.header.store_id);
                empty.insert(Builder::new(&inner.keys, id, store_id, self.domain, memory)?)
            }
        };
        builder.copy(key, entry, data)?;
        Ok(written)
    }

    /// Seals, checks, writes and publishes a pack; gives its bytes.
    async fn flush(&mut self, slot: usize) -> Result<u64> {
        let Some(builder) = self.builders[slot].take() else {
            return Ok(0);
        };
        pack_put(Arc::clone(&self.session.inner), builder, Pending::default()).await
    }

    /// Ends the session; with `is_kept`, what is in packs is written first.
    async fn end(mut self, is_kept: bool) -> Result<u64> {
        let mut written = Ok(0);
        for slot in 0..self.builders.len() {
            if is_kept && let Ok(bytes) = written {
                written = self.flush(slot).await.map(|more| bytes + more);
            }
        }
        let ended = self.session.abort().await;
        written.and_then(|bytes| ended.map(|()| bytes))
    }
}
