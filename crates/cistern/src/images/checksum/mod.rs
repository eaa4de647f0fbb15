//! The SHA-256 of images as people would download them, one for each format.
//!
//! Hashing costs a third of an import, so it is not part of one: a job of low priority reads the disk once when the
//! image is available and feeds both files' hashes. The row names the entity tag of the bytes it is about, so a digest
//! is never shown for others.

mod jobs;
pub mod migration;
mod rows;
#[cfg(test)]
mod tests;

use sea_orm::ConnectionTrait;
use serde_json::json;

use super::download::Format;
use crate::app::App;
use crate::platform::clock::Time;
use crate::platform::error::Result;
use crate::platform::jobs::{NewJob, job_enqueue_in_tx};

pub use jobs::{CHECKSUM, kind};

/// Attempts before an image stays without checksums.
const ATTEMPTS: i32 = 5;
/// After everything that somebody waits for.
const PRIORITY: i32 = -10;

/// Enqueues the job that hashes an image, in the transaction that makes it available. Wake the queue after the commit.
pub async fn checksum_enqueue_in_tx(
    conn: &impl ConnectionTrait,
    now: Time,
    team_id: i64,
    image_id: i64,
) -> Result<i64> {
    let job = NewJob {
        kind: CHECKSUM,
        payload: json!({ "image_id": image_id }),
        team_id: Some(team_id),
        action_id: None,
        node: None,
        priority: PRIORITY,
    };
    job_enqueue_in_tx(conn, now, job, ATTEMPTS).await
}

/// The SHA-256 of the file with this entity tag, where it is known.
pub async fn checksum_get(app: &App, image_id: i64, etag: &str) -> Result<Option<[u8; 32]>> {
    let row = rows::checksum_get(app.db.conn(), image_id, etag).await?;
    Ok(row.and_then(|row| digest(&row.sha256)))
}

/// What is known of these images: for each, the SHA-256 in hex by format, as `checksums` of an image shows it.
pub async fn checksum_list(
    app: &App,
    image_ids: &[i64],
) -> Result<std::collections::HashMap<i64, std::collections::BTreeMap<String, String>>> {
    let mut out: std::collections::HashMap<_, std::collections::BTreeMap<_, _>> =
        std::collections::HashMap::new();
    for row in rows::checksum_list(app.db.conn(), image_ids).await? {
        out.entry(row.image_id)
            .or_default()
            .insert(row.format, row.sha256);
    }
    Ok(out)
}

/// The disk's own SHA-256, where it is known: a raw download is the disk.
pub fn disk_sha256(checksums: &std::collections::BTreeMap<String, String>) -> Option<String> {
    checksums.get(Format::Raw.as_str()).cloned()
}

/// Keeps a checksum, in the transaction that ends its job.
async fn checksum_set_in_tx(conn: &impl ConnectionTrait, now: Time, image_id: i64, sum: &Sum) -> Result<()> {
    Ok(rows::checksum_set(conn, now, image_id, sum).await?)
}

/// Forgets an image's checksums, in the transaction that gives up its disk.
pub async fn checksum_forget_in_tx(conn: &impl ConnectionTrait, image_id: i64) -> Result<()> {
    Ok(rows::checksum_forget(conn, image_id).await?)
}

/// A finished checksum.
struct Sum {
    format: Format,
    etag: String,
    sha256: String,
    length: u64,
}

fn digest(hex_text: &str) -> Option<[u8; 32]> {
    hex::decode(hex_text).ok()?.try_into().ok()
}
