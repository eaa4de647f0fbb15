//! Brings what is damaged or missing of a store back from a copy of it.
//!
//! A copy is nearly always older than the store, so nothing is taken from it as it is: the database says which objects there are to be
//! and what they hold, each that is found damaged is looked for in the copy, verified there, and written in the place of the
//! damaged one. Objects never change and no key is used twice, so what is whole there is what was damaged here. Headers and journal are not
//! touched: those a server writes anew by itself. It can run beside a server, and be cut off and repeated.

use std::sync::atomic::Ordering::Relaxed;

use crate::backend::Listed;
use crate::copy::object_write;
use crate::error::{Error, Kind, Result};
use crate::rows::{self, object};
use crate::store::Store;
use crate::verify::{VerifyProgress, damaging};

/// Objects that are listed at once.
const PAGE: u64 = 256;
/// What is told by name.
const NAMED: usize = 100;

/// What was healed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healed {
    /// Objects that were damaged or missing and are whole again.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that are damaged and stay so.
    pub left: u64,
    /// Those of them that the copy does not have.
    pub absent: u64,
    /// The first of those that stay damaged, each with the reason.
    pub named: Vec<String>,
}

impl Store {
    /// Reads every published object, as [`Store::verify`] does, and replaces those that are damaged or missing by what `copy` has
    /// of them. `copy` is opened with the same database as this, on the copy's backend.
    pub async fn heal_from(&self, copy: &Self, progress: &VerifyProgress) -> Result<Healed> {
        let mut healed = Healed::default();
        let mut after = 0;
        loop {
            let page = rows::objects_page(&self.inner.db, self.inner.number, after, PAGE).await;
            let page = page.map_err(|error| Error::db("cannot list the packs", error))?;
            let Some(last) = page.last() else { break };
            after = last.id;
            for object in &page {
                self.object_heal(copy, object, progress, &mut healed).await?;
                progress.packs.fetch_add(1, Relaxed);
            }
        }
        self.damage_update().await?;
        Ok(healed)
    }

    async fn object_heal(
        &self,
        copy: &Self,
        object: &object::Model,
        progress: &VerifyProgress,
        healed: &mut Healed,
    ) -> Result<()> {
        if !self.object_verify(object, progress).await? {
            return Ok(());
        }
        let key = object.object_key();
        let unread = VerifyProgress::default();
        let is_damaged = match copy.inner.backend.stat(&key).await? {
            None => {
                healed.absent += 1;
                Some("the copy does not have it")
            }
            Some(_) => copy
                .is_damaged(object, &unread)
                .await?
                .then_some("it is damaged in the copy too"),
        };
        if let Some(reason) = is_damaged {
            healed.leave(&key, reason);
            return Ok(());
        }
        let (from, to) = (&*copy.inner.backend, &*self.inner.backend);
        let item = Listed {
            bytes: object.bytes.cast_unsigned(),
            key,
        };
        match object_write(from, to, &item, true).await {
            Err(error) if error.kind() == Kind::NoSpace => return Err(error),
            Err(error) if damaging(&error) => {
                healed.leave(&item.key, &format!("it could not be written ({error})"));
                return Ok(());
            }
            written => written?,
        };
        // Which also takes the marks from what is in it.
        if self.object_verify(object, &unread).await? {
            healed.leave(&item.key, "it was written and cannot be read");
            return Ok(());
        }
        tracing::info!(object = item.key, "what was damaged came back from a copy");
        healed.objects += 1;
        healed.bytes += item.bytes;
        Ok(())
    }
}

impl Healed {
    fn leave(&mut self, key: &str, reason: &str) {
        self.left += 1;
        if self.named.len() < NAMED {
            self.named.push(format!("{key}: {reason}"));
        }
    }
}
