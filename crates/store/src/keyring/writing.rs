//! Writing headers: under numbers that are claimed first, so that none is ever used twice, and that are no claim any
//! more where it is certain that nothing was written.

use std::ops::Range;

use crate::backend::Backend;
use crate::error::{Error, Kind, Result};
use crate::header::{Header, header_numbers};
use crate::rows;
use crate::seal::StoreKey;
use crate::store::Store;

/// Numbers that were claimed for headers.
pub(super) struct Claim {
    pub(super) numbers: Range<u32>,
    /// The highest number that a header may have had before.
    before: u32,
}

/// No header could be written.
pub(super) struct Unwritten {
    pub(super) error: Error,
    /// Whether none is there for sure. A write whose answer was lost may have come to its end, or come to it yet.
    pub(super) is_certain: bool,
}

impl Unwritten {
    fn perhaps(error: Error) -> Self {
        let is_certain = false;
        Self { error, is_certain }
    }
}

pub(super) async fn header_write(
    backend: &dyn Backend,
    header: &Header,
    key: Option<&StoreKey>,
) -> Result<()> {
    let (name, bytes) = (Header::key(header.number), header.encode(key)?);
    backend.put_new(&name, bytes.clone()).await?;
    // The older ones are deleted when these are there: read back what everything depends on.
    if backend.get(&name).await? == bytes {
        return Ok(());
    }
    let text = format!(
        "`{}` did not store `{name}` as it was written",
        backend.describe()
    );
    Err(Error::new(Kind::Io, text))
}

impl Store {
    /// Numbers for so many headers, which nobody has used or will use.
    pub(super) async fn header_claim(&self, copies: u32) -> Result<Claim> {
        let context = |error| Error::db("cannot claim a header's number", error);
        let above = header_numbers(&*self.inner.backend)
            .await?
            .first()
            .copied()
            .unwrap_or_default();
        let tx = rows::begin(&self.inner.db).await.map_err(context)?;
        let (above, count) = (above.cast_signed(), copies.cast_signed());
        let claimed = rows::header_claim(&tx, self.inner.number, above, count).await;
        let (first, before) = claimed.map_err(context)?;
        tx.commit().await.map_err(context)?;
        let (first, before) = (first.cast_unsigned(), before.cast_unsigned());
        Ok(Claim {
            numbers: first..first + copies,
            before,
        })
    }

    /// Writes `header` under each number of the claim, the highest first; where one can be written, gives why another
    /// could not. `witness` is the key of an object that showed that the store is there: where it is not there any
    /// more, as under a disk that went away meanwhile, what was written lies elsewhere and is removed.
    pub(super) async fn header_add(
        &self,
        mut header: Header,
        claim: &Claim,
        witness: &str,
    ) -> std::result::Result<Option<Error>, Unwritten> {
        let backend = &*self.inner.backend;
        let (mut newest, mut failed) = (None, Vec::new());
        for number in claim.numbers.clone().rev() {
            header.number = number;
            match header_write(backend, &header, self.key()).await {
                Ok(()) => newest = newest.max(Some(number)),
                Err(error) => failed.push(error),
            }
        }
        if backend.stat(witness).await.map_err(Unwritten::perhaps)?.is_none() {
            for number in claim.numbers.clone() {
                let deleted = backend.delete(&Header::key(number)).await;
                deleted.map_err(Unwritten::perhaps)?;
            }
            return Err(Unwritten::perhaps(self.away()));
        }
        if let Some(number) = newest {
            self.header_note(&Header { number, ..header });
            return Ok(failed.pop());
        }
        let is_certain = self.header_withdraw(claim, &failed).await;
        // A claim has one number at least.
        let error = failed.pop().unwrap_or_else(|| self.away());
        Err(Unwritten { error, is_certain })
    }

    /// Takes the claim back where none of its headers is there, nor comes yet: others need not take it for a change
    /// that they have not seen. Gives whether that is so. The numbers are not used again.
    async fn header_withdraw(&self, claim: &Claim, failed: &[Error]) -> bool {
        if failed.iter().any(Error::retryable) {
            return false;
        }
        for number in claim.numbers.clone() {
            let there = self.inner.backend.stat(&Header::key(number)).await;
            if !matches!(there, Ok(None)) {
                return false;
            }
        }
        let (last, before) = (claim.numbers.end - 1, claim.before);
        let change = (last.cast_signed(), before.cast_signed());
        if let Err(error) = self.header_last_set(change).await {
            tracing::warn!(%error, "the claim of a header that was not written stays");
        }
        true
    }

    async fn header_last_set(&self, change: (i32, i32)) -> Result<()> {
        let context = |error| Error::db("cannot take back the claim of a header's number", error);
        let tx = rows::begin(&self.inner.db).await.map_err(context)?;
        rows::header_last_set(&tx, self.inner.number, change)
            .await
            .map_err(context)?;
        tx.commit().await.map_err(context)
    }
}
