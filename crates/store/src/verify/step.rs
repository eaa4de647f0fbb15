//! One object: read, judged, and written down, whoever asks for it: a verification, the scrub, a heal, a reader in
//! doubt.
//!
//! As soon as an object is read, one transaction marks what cannot be read of it, takes the mark from what can, and
//! notes that it was read. So one that is cut off has noted nothing that is not marked as well. Between the reading and
//! that transaction others may mark chunks, judge the object too, or write it anew (a heal, which judges it
//! afterwards). Therefore
//!
//! - only chunks that were marked before the reading began lose their mark: another one is from a reader that may know
//!   better;
//! - what is to be marked is looked at once more right before;
//! - where the object was judged since its row was read, nothing is written and it is read again ([`rows::Judged`]).
//!   What a heal brought back an older reading cannot mark: either the heal's own judgement is the older one, and is
//!   made again, or this one is.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;

use super::{Fault, How, VerifyProgress, damaging};
use crate::digest::FrameKind;
use crate::error::{Error, Result};
use crate::reader::packs::Caching;
use crate::rows::{self, Judged, Placed, chunk_state, object, object_kind, object_state};
use crate::store::Store;

/// How often an object is read where others judge it all the time. Then theirs is what stays written.
const TIMES: usize = 8;

/// What came of reading an object.
pub(super) enum Step {
    /// Nothing is wrong, and nothing was written: that it was read can be noted with others.
    Fine,
    /// All is written.
    Written(Option<Fault>),
}

impl Store {
    /// Reads one object whole, and writes down what is damaged of it; whether anything is.
    pub(crate) async fn object_verify(
        &self,
        object: &object::Model,
        progress: &VerifyProgress,
    ) -> Result<bool> {
        // The row that is given may be older than a judgement that was made since.
        let Some(object) = self.object_live(object.id).await? else {
            return Ok(false);
        };
        let id = object.id;
        let marked = self.chunks_marked(id..=id).await?;
        match self.object_step(object, marked, true, progress).await? {
            Step::Written(fault) => Ok(fault.is_some()),
            Step::Fine => {
                self.objects_note(vec![id]).await?;
                Ok(false)
            }
        }
    }

    /// Whether anything is wrong with an object; nothing is marked.
    pub(crate) async fn is_damaged(&self, object: &object::Model, progress: &VerifyProgress) -> Result<bool> {
        Ok(self.fault_find(object, true, progress).await?.is_some())
    }

    /// The row of an object that is published.
    pub(crate) async fn object_live(&self, object: i64) -> Result<Option<object::Model>> {
        let rows = rows::objects_get(&self.inner.db, &[object]).await;
        let rows = rows.map_err(|error| Error::db("cannot look an object up", error))?;
        Ok(rows.into_iter().find(|row| row.state == object_state::LIVE))
    }

    /// The marked chunks of these objects: to be asked for before they are read.
    pub(super) async fn chunks_marked(&self, objects: RangeInclusive<i64>) -> Result<Vec<Placed>> {
        let marked = rows::chunks_marked(&self.inner.db, self.inner.number, objects).await;
        marked.map_err(|error| Error::db("cannot look for damaged chunks", error))
    }

    /// Notes that objects were read that are fine.
    pub(super) async fn objects_note(&self, objects: Vec<i64>) -> Result<()> {
        let now_us = self.inner.options.world.now_us();
        let noted = rows::objects_verified(&self.inner.db, objects, now_us).await;
        noted.map_err(|error| Error::db("cannot note what was read", error))
    }

    /// Reads an object and writes down what that says. `marked` are its marked chunks.
    pub(super) async fn object_step(
        &self,
        mut object: object::Model,
        mut marked: Vec<Placed>,
        reads_data: bool,
        progress: &VerifyProgress,
    ) -> Result<Step> {
        let mut fault = None;
        for _ in 0..TIMES {
            fault = self.fault_find(&object, reads_data, progress).await?;
            let is_written = match &fault {
                None if !reads_data || (marked.is_empty() && !object.damaged) => return Ok(Step::Fine),
                None => self.judged_write(&object, (false, &[], &marked), true).await?,
                Some(fault) => self.fault_write(&object, fault, reads_data).await?,
            };
            if is_written {
                break;
            }
            let Some(row) = self.object_live(object.id).await? else {
                return Ok(Step::Fine);
            };
            object = row;
            marked = self.chunks_marked(object.id..=object.id).await?;
        }
        Ok(Step::Written(fault))
    }

    /// Writes down what is wrong with an object; false where that is not so any more.
    async fn fault_write(&self, object: &object::Model, fault: &Fault, reads_data: bool) -> Result<bool> {
        let chunks = rows::chunks_of(&self.inner.db, self.inner.number, object.id).await;
        let chunks = chunks.map_err(|error| Error::db("cannot look chunks up", error))?;
        let (damaged, whole) = if fault.gone {
            if self.inner.backend.stat(&fault.key).await? != fault.there {
                return Ok(false);
            }
            (chunks, Vec::new())
        } else {
            let tried = self.frames_try(chunks).await?;
            if !tried.0.is_empty() {
                // Since the fault was found the disk may have gone.
                self.there_check().await?;
            }
            tried
        };
        let is_written = self
            .judged_write(object, (true, &damaged, &whole), reads_data)
            .await?;
        if is_written {
            tracing::error!(object = fault.key, reason = fault.reason, "damage was found");
        }
        Ok(is_written)
    }

    /// Those of these chunks that cannot be read, and the marked ones that can.
    async fn frames_try(&self, chunks: Vec<Placed>) -> Result<(Vec<Placed>, Vec<Placed>)> {
        let (mut damaged, mut whole) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let code = u8::try_from(chunk.kind).ok();
            let kind = code.and_then(FrameKind::from_code).unwrap_or(FrameKind::Data);
            let read = self.frame_load(kind, chunk.digest, chunk.location, Caching::Pass);
            match read.await {
                Ok(_) if chunk.state == chunk_state::DAMAGED => whole.push(chunk),
                Ok(_) => {}
                Err(error) if damaging(&error) => damaged.push(chunk),
                Err(error) => return Err(error),
            }
        }
        Ok((damaged, whole))
    }

    /// One transaction for all of it; false where another has judged the object since its row was read.
    async fn judged_write(
        &self,
        object: &object::Model,
        (is_faulty, damaged, whole): (bool, &[Placed], &[Placed]),
        reads_data: bool,
    ) -> Result<bool> {
        let context = |error| Error::db("cannot note what was read", error);
        let judged = Judged {
            object,
            is_faulty,
            damaged,
            whole,
            read_us: reads_data.then(|| self.inner.options.world.now_us()),
        };
        let tx = rows::begin(&self.inner.db).await.map_err(context)?;
        let is_written = rows::object_judge(&tx, &judged).await.map_err(context)?;
        tx.commit().await.map_err(context)?;
        Ok(is_written)
    }

    /// What is wrong with an object that is still published, if anything.
    pub(super) async fn fault_find(
        &self,
        object: &object::Model,
        reads_data: bool,
        progress: &VerifyProgress,
    ) -> Result<Option<Fault>> {
        let fault = match object.kind {
            object_kind::BLOB => self.blob_verify(object, reads_data, progress).await?,
            _ => self.pack_verify(object, reads_data, progress).await?,
        };
        let Some(fault) = fault else { return Ok(None) };
        self.there_check().await?;
        // Gc may have deleted it since it was listed.
        let is_live = self.object_live(object.id).await?.is_some();
        Ok(is_live.then_some(fault))
    }

    /// One object of a verification: `marked` are its marked chunks.
    pub(super) async fn object_look(
        &self,
        object: object::Model,
        marked: Vec<Placed>,
        how: How,
        progress: &VerifyProgress,
    ) -> Result<Step> {
        let step = if how.marks {
            self.object_step(object, marked, how.reads_data, progress).await?
        } else {
            Step::Written(self.fault_find(&object, how.reads_data, progress).await?)
        };
        progress.packs.fetch_add(1, Ordering::Relaxed);
        Ok(step)
    }
}
