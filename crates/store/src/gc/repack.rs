//! Writes packs anew that are mostly garbage, or of which something was found damaged: what is needed of several goes
//! into one, and the old ones hold nothing then, or what is damaged and was not stored anew. That is kept as long as a
//! disk needs it: it is what names the disk as damaged, and it may be whole again one day (a bad cable, the pack put
//! back from a copy).
//!
//! Frames are decoded and hashed, copied as they are (in an encrypted store they are sealed anew, with the new pack's
//! key), and decoded and hashed again before the new pack is written: what is damaged stays where it is, and is marked.
//! One transaction moves the rows of those that still lie in the old pack. A reader that had looked up the old place
//! asks the index again when the old pack is gone.

use std::sync::Arc;

use bytes::Bytes;

use super::{Options, Pace, Report, Run};
use crate::digest::{Digest, FrameKind};
use crate::error::{Error, Kind, Result};
use crate::ingest::pack_put::pack_write;
use crate::pack::{self, Builder, Entry};
use crate::rows::{self, Location, Placed, Sparse, chunk_state};
use crate::session::{Session, lease_lost};
use crate::store::pack_key;
use crate::verify::damaging;

/// Packs that are looked for at once.
const PAGE: u32 = 1000;

/// A pack being filled from others, with where its frames came from.
struct Target {
    builder: Builder,
    from: Vec<(Digest, i64)>,
    packs: u64,
}

/// Two targets of one domain: nodes are kept apart from data.
struct Repack<'a> {
    run: &'a Run,
    session: Session,
    domain: i64,
    targets: [Option<Target>; 2],
}

impl Run {
    pub(super) async fn repack(&self, options: &Options, report: &mut Report) -> Result<()> {
        let (number, db) = (self.store.inner.number, &self.store.inner.db);
        let mut pace = Pace::new(&self.store);
        let mut after = 0;
        loop {
            let packs = rows::packs_sparse(db, number, (after, options.repack_below), PAGE).await;
            let mut packs = packs.map_err(|error| Error::db("cannot look for packs to write anew", error))?;
            let Some(last) = packs.last() else { return Ok(()) };
            after = last.object;
            packs.sort_by_key(|pack| (pack.domain, pack.object));
            for packs in packs.chunk_by(|one, other| one.domain == other.domain) {
                let domain = packs[0].domain;
                let session = self.store.session_open_in("gc", domain).await?;
                let mut repack = Repack {
                    run: self,
                    session,
                    domain,
                    targets: [None, None],
                };
                let done = repack.packs(packs, options, report, &mut pace).await;
                let ended = repack.session.abort().await;
                done.and(ended)?;
            }
        }
    }
}

impl Repack<'_> {
    async fn packs(
        &mut self,
        packs: &[Sparse],
        options: &Options,
        report: &mut Report,
        pace: &mut Pace,
    ) -> Result<()> {
        for pack in packs {
            options.check()?;
            match self.pack(pack, report).await {
                Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => skipped(pack, error)?,
                done => done?,
            }
            pace.rest().await;
        }
        for slot in 0..self.targets.len() {
            self.flush(slot, report).await?;
        }
        Ok(())
    }

    /// Copies what is needed of a pack.
    async fn pack(&mut self, from: &Sparse, report: &mut Report) -> Result<()> {
        let store = Arc::clone(&self.run.store.inner);
        let (entries, data) = self.frames(from).await?;
        let key = store.keys.pack_key(from.key)?;
        let digests: Vec<Digest> = entries.iter().map(|entry| entry.digest).collect();
        let hits = rows::chunks_get(&store.db, store.number, self.domain, &digests).await;
        let hits = hits.map_err(|error| Error::db("cannot look chunks up", error))?;
        let is_needed = |entry: &Entry| {
            hits.get(&entry.digest).is_some_and(|hit| {
                hit.location.object == from.object
                    && hit.location.offset == entry.offset
                    && hit.state != chunk_state::DAMAGED
            })
        };
        let needed: Vec<Entry> = entries.into_iter().filter(is_needed).collect();
        let needed = self.whole(from, needed, &data).await?;
        let mut is_counted = false;
        for entry in &needed {
            let slot = usize::from(entry.kind == FrameKind::Node);
            if let Some(target) = &self.targets[slot]
                && target.builder.is_full()
            {
                self.flush(slot, report).await?;
            }
            let target = match &mut self.targets[slot] {
                Some(target) => target,
                empty => {
                    let memory = store.memory.pack()?;
                    let id = store.options.world.uuid();
                    let builder = Builder::new(&store.keys, id, store.header.store_id, self.domain, memory)?;
                    empty.insert(Target {
                        builder,
                        from: Vec::new(),
                        packs: 0,
                    })
                }
            };
            target.builder.copy(key.as_ref(), *entry, &data)?;
            target.from.push((entry.digest, from.object));
            if !std::mem::replace(&mut is_counted, true) {
                target.packs += 1;
            }
        }
        Ok(())
    }

    /// The frames of a pack, and its bytes. Where it cannot be read as a whole, or its index is damaged, these are the
    /// frames that the database knows, with what can be read of them.
    async fn frames(&self, from: &Sparse) -> Result<(Vec<Entry>, Bytes)> {
        let store = &self.run.store.inner;
        let data = match store.backend.get(&pack_key(from.key)).await {
            Err(error) if matches!(error.kind(), Kind::Io | Kind::Damaged) => None,
            data => Some(data?).filter(|data| data.len() as u64 == from.bytes.cast_unsigned()),
        };
        if let Some(data) = &data {
            match pack::index(&store.keys, from.key, data) {
                Err(error) if error.kind() == Kind::Damaged => {}
                entries => return Ok((entries?, data.clone())),
            }
        }
        let mut rows = rows::chunks_of(&store.db, store.number, from.object)
            .await
            .map_err(|error| Error::db("cannot look chunks up", error))?;
        rows.sort_unstable_by_key(|row| row.location.offset);
        let data = match data {
            Some(data) => data,
            None => self.pieces(from, &mut rows).await?,
        };
        let entries = rows.iter().filter_map(|row| entry_of(row, &data)).collect();
        Ok((entries, data))
    }

    /// As much of a pack as can be read, frame by frame. What cannot is left out of `rows`, and so where it is: whether
    /// it is damage that it cannot be read now, a verification says.
    async fn pieces(&self, from: &Sparse, rows: &mut Vec<Placed>) -> Result<Bytes> {
        let backend = &self.run.store.inner.backend;
        let bytes = usize::try_from(from.bytes).unwrap_or_default();
        let mut data = vec![0; bytes.min(pack::LIMIT_BYTES)];
        let mut read = Vec::with_capacity(rows.len());
        for row in rows.drain(..) {
            let (start, length) = (row.location.offset as usize, row.location.length as usize);
            let Some(place) = data.get_mut(start..start + length) else {
                continue;
            };
            let range = start as u64..(start + length) as u64;
            match backend.get_range(&pack_key(from.key), range).await {
                Err(error) if damaging(&error) => {}
                frame => {
                    let frame = frame?;
                    if frame.len() == place.len() {
                        place.copy_from_slice(&frame);
                        read.push(row);
                    }
                }
            }
        }
        *rows = read;
        Ok(data.into())
    }

    /// Those of these entries whose frames are whole. The others stay where they are, marked as damaged: one flipped
    /// bit must not end every run of gc.
    async fn whole(&self, from: &Sparse, entries: Vec<Entry>, data: &Bytes) -> Result<Vec<Entry>> {
        let store = &self.run.store.inner;
        let (keys, id, data) = (store.keys.clone(), from.key, data.clone());
        let check = move || pack::entries_check(&keys, id, entries, &data);
        let (whole, damaged) = store.options.world.compute(check).await?;
        for entry in damaged {
            let at = Location {
                object: from.object,
                offset: entry.offset,
                length: entry.length,
            };
            tracing::warn!(pack = pack_key(from.key), digest = %entry.digest, "gc found a damaged chunk, and leaves it where it is");
            let marked = rows::chunk_damage(&store.db, store.number, self.domain, entry.digest, at).await;
            marked.map_err(|error| Error::db("cannot mark a damaged chunk", error))?;
        }
        Ok(whole)
    }

    /// Writes a pack and moves the rows of its chunks to it.
    async fn flush(&mut self, slot: usize, report: &mut Report) -> Result<()> {
        let Some(Target { builder, from, packs }) = self.targets[slot].take() else {
            return Ok(());
        };
        let store = &self.run.store.inner;
        let keys = store.keys.clone();
        let sealed = store
            .options
            .world
            .compute(move || {
                let sealed = builder.seal(&keys)?;
                pack::verify(&keys, sealed.id, &sealed.bytes)?;
                Ok(sealed)
            })
            .await?;
        let bytes = sealed.bytes.len() as u64;
        let session = &self.session.inner;
        let written = pack_write(session, sealed.id, sealed.bytes, sealed.entries.len()).await;
        if matches!(&written, Err(error) if error.kind() == Kind::NoSpace) {
            report.no_room_bytes = bytes;
        }
        let object = written?;
        let moved: Vec<_> = sealed
            .entries
            .iter()
            .zip(from)
            .map(|(entry, (digest, from))| (digest, from, entry.offset, entry.length))
            .collect();
        let context = |error| Error::db("cannot move chunks to another pack", error);
        let tx = self.run.alone().await?;
        session.hold(&tx).await?;
        let now_us = store.options.world.now_us();
        if !rows::object_publish(&tx, object, bytes, now_us)
            .await
            .map_err(context)?
        {
            return Err(lease_lost());
        }
        rows::chunks_move(&tx, (store.number, self.domain), object, &moved)
            .await
            .map_err(context)?;
        rows::gc_moved(&tx, store.number, self.run.epoch, false)
            .await
            .map_err(context)?;
        tx.commit().await.map_err(context)?;
        report.repacked += packs;
        report.repacked_bytes += bytes;
        Ok(())
    }
}

/// What the footer would say of a frame. One that is not whole is found out when it is decoded.
fn entry_of(row: &Placed, pack: &[u8]) -> Option<Entry> {
    let kind = u8::try_from(row.kind).ok().and_then(FrameKind::from_code)?;
    let (offset, length) = (row.location.offset, row.location.length);
    Some(pack::entry_at((row.digest, kind), offset, length, pack))
}

/// A pack that cannot be read stays as it is: to say whom that hurts is verification's part.
fn skipped(pack: &Sparse, error: Error) -> Result<()> {
    if !matches!(error.kind(), Kind::Damaged | Kind::NotFound) {
        return Err(error);
    }
    tracing::warn!(pack = pack_key(pack.key), %error, "gc leaves a damaged pack as it is");
    Ok(())
}
