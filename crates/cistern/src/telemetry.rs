//! Logs and metrics. Logs go to stderr, as text for people or one JSON object a line; request and job ids are fields
//! of the spans around each line. Nothing here writes a token, a password, a query string or a body.

use std::io::IsTerminal;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// Upper bounds of the request duration's buckets, in seconds.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Starts logging; a second call changes nothing. `config` has checked the level.
pub fn init(log: &Log, no_color: bool) {
    let filter: Targets = log
        .level
        .parse()
        .unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    // The drivers' own lines would repeat ours, and SQL may hold what users typed.
    let filter = ["sqlx", "sea_orm", "hyper", "h2", "rustls"]
        .into_iter()
        .fold(filter, |f, target| f.with_target(target, tracing::Level::WARN));
    let base = tracing_subscriber::registry().with(filter);
    let result = match log.format {
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false);
            base.with(layer.with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Text => {
            let layer =
                tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal() && !no_color);
            base.with(layer.with_writer(std::io::stderr)).try_init()
        }
    };
    if result.is_err() {
        tracing::debug!("logging had been started before");
    }
}

/// Starts counting; a second call changes nothing.
pub fn metrics_init() {
    if METRICS.get().is_some() {
        return;
    }
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)
        .and_then(PrometheusBuilder::install_recorder);
    match builder {
        Ok(handle) => {
            describe();
            let _ = METRICS.set(handle);
        }
        Err(error) => tracing::warn!(%error, "metrics are off"),
    }
}

/// What has been counted so far, in the text format of Prometheus.
pub fn metrics_render() -> String {
    METRICS.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Folds what histograms have gathered; to be called every few seconds, or they grow.
pub fn metrics_upkeep() {
    if let Some(handle) = METRICS.get() {
        handle.run_upkeep();
    }
}

fn describe() {
    describe_http();
    describe_room();
    describe_store();
}

fn describe_http() {
    metrics::describe_counter!(
        "http_requests_total",
        "Requests, by listener, method, route and status."
    );
    metrics::describe_histogram!(
        "http_request_duration_seconds",
        metrics::Unit::Seconds,
        "Time from a request's head to its answer's, by listener and route."
    );
    metrics::describe_gauge!("http_connections", "Open connections, by listener.");
    metrics::describe_gauge!(
        "http_connections_limit",
        "Connections that a listener takes: `http.max_connections`, or what the limit of open files leaves room for."
    );
    metrics::describe_counter!(
        "http_accept_failures_total",
        "How often a connection could not be accepted, mostly because too many files were open, by listener."
    );
}

/// Disks, and what is kept at hand of what was read.
fn describe_room() {
    metrics::describe_gauge!(
        "cistern_disk_free_bytes",
        metrics::Unit::Bytes,
        "Free room of the disks of working files (`data`), objects, and SQLite's file (`database`, where it has its own)."
    );
    metrics::describe_gauge!(
        "cistern_disk_total_bytes",
        metrics::Unit::Bytes,
        "Size of the same."
    );
    metrics::describe_gauge!(
        "cistern_disk_low",
        "1 while a disk has too little left for anything new."
    );
    metrics::describe_gauge!(
        "cistern_cache_bytes",
        metrics::Unit::Bytes,
        "What the cache of packs takes."
    );
    metrics::describe_counter!(
        "cistern_cache_reads_total",
        "Reads by way of the cache of packs, by whether it had what was wanted."
    );
    metrics::describe_gauge!(
        "cistern_decoded_bytes",
        metrics::Unit::Bytes,
        "What chunks that are kept decoded take in memory."
    );
    metrics::describe_counter!(
        "cistern_decoded_reads_total",
        "Chunks that small reads wanted, by whether they were in memory, decoded."
    );
    metrics::describe_counter!(
        "cistern_objects_requests_total",
        "Requests to the bucket, by operation, with those that were sent again."
    );
    metrics::describe_counter!(
        "cistern_objects_bytes_total",
        metrics::Unit::Bytes,
        "Bytes that went from the bucket and to it."
    );
}

fn describe_store() {
    metrics::describe_gauge!(
        "cistern_store_damaged",
        "Disks and other things that are known to be damaged: alert where it is not 0."
    );
    metrics::describe_gauge!(
        "cistern_read_only",
        "1 while nothing may be changed, because the database is older than the store or another than the store's: /readyz says which."
    );
    metrics::describe_gauge!(
        "cistern_scrub_oldest_timestamp_seconds",
        metrics::Unit::Seconds,
        "When what was read longest ago was read, in seconds since 1970."
    );
    metrics::describe_gauge!(
        "cistern_gc_ended_timestamp_seconds",
        metrics::Unit::Seconds,
        "When the last garbage collection ended, in seconds since 1970."
    );
}
