//! What is kept at hand of what was read: packs of a bucket, and chunks in memory; and what the bucket was asked.

use serde::{Deserialize, Serialize};
use store::{CacheOptions, Requests};
use utoipa::ToSchema;

use crate::app::App;
use crate::config::Objects;

/// What the cache holds and did since the server started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheFigures {
    /// Bytes that it takes.
    pub bytes: u64,
    /// Reads that it served.
    pub hits: u64,
    /// Reads for which the bucket was asked.
    pub misses: u64,
}

/// What the bucket was asked since the server started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestFigures {
    /// Objects or parts of objects that were read.
    pub get: u64,
    /// Objects, or parts of large ones, that were written.
    pub put: u64,
    /// Objects that were looked at.
    pub head: u64,
    /// Pages of listings.
    pub list: u64,
    /// Objects that were deleted.
    pub delete: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// `get` for each GiB that was read; absent below one MiB.
    pub get_per_gib: Option<u64>,
    /// `put` and `head` for each GiB that was written: each object is looked at when it has been written.
    pub put_per_gib: Option<u64>,
}

impl From<Requests> for RequestFigures {
    fn from(requests: Requests) -> Self {
        Self {
            get: requests.get,
            put: requests.put,
            head: requests.head,
            list: requests.list,
            delete: requests.delete,
            read_bytes: requests.read_bytes,
            written_bytes: requests.written_bytes,
            get_per_gib: per_gib(requests.get, requests.read_bytes),
            put_per_gib: per_gib(requests.put + requests.head, requests.written_bytes),
        }
    }
}

fn per_gib(requests: u64, bytes: u64) -> Option<u64> {
    (bytes >= 1 << 20)
        .then(|| u64::try_from((u128::from(requests) << 30) / u128::from(bytes)).unwrap_or(u64::MAX))
}

/// Reads a bucket by way of the cache from now on. One that cannot be opened is done without. Only for the server: the
/// folder takes one process.
pub fn cache_open(app: &App) {
    let Objects::S3(_) = app.config.objects() else {
        return;
    };
    let options = CacheOptions {
        folder: app.data.join("cache"),
        limit_bytes: app.config.cache.mib.saturating_mul(1 << 20),
    };
    if options.limit_bytes == 0 {
        return;
    }
    if let Err(error) = app.store.cache_use(&options) {
        tracing::warn!(%error, "reading goes on without the cache of packs");
    }
}

/// What the cache did; `None` where there is none.
pub fn cache_figures(app: &App) -> Option<CacheFigures> {
    app.store.cache_stats().map(|stats| CacheFigures {
        bytes: stats.bytes,
        hits: stats.hits,
        misses: stats.misses,
    })
}

/// Tells the metrics.
pub fn tell(app: &App) {
    let decoded = app.store.memory_stats();
    #[expect(clippy::cast_precision_loss, reason = "a gauge needs no single bytes")]
    metrics::gauge!("cistern_decoded_bytes").set(decoded.bytes as f64);
    metrics::counter!("cistern_decoded_reads_total", "found" => "yes").absolute(decoded.hits);
    metrics::counter!("cistern_decoded_reads_total", "found" => "no").absolute(decoded.misses);
    if let Some(cache) = app.store.cache_stats() {
        #[expect(clippy::cast_precision_loss, reason = "a gauge needs no single bytes")]
        metrics::gauge!("cistern_cache_bytes").set(cache.bytes as f64);
        metrics::counter!("cistern_cache_reads_total", "found" => "yes").absolute(cache.hits);
        metrics::counter!("cistern_cache_reads_total", "found" => "no").absolute(cache.misses);
    }
    let Some(requests) = app.store.requests() else {
        return;
    };
    for (operation, count) in [
        ("get", requests.get),
        ("put", requests.put),
        ("head", requests.head),
        ("list", requests.list),
        ("delete", requests.delete),
    ] {
        metrics::counter!("cistern_objects_requests_total", "operation" => operation).absolute(count);
    }
    for (direction, bytes) in [("read", requests.read_bytes), ("written", requests.written_bytes)] {
        metrics::counter!("cistern_objects_bytes_total", "direction" => direction).absolute(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_for_each_gib() {
        let figures = RequestFigures::from(Requests {
            get: 100,
            put: 30,
            head: 10,
            read_bytes: 512 << 20,
            written_bytes: 1000,
            ..Requests::default()
        });
        assert_eq!((figures.get_per_gib, figures.put_per_gib), (Some(200), None));
    }
}
