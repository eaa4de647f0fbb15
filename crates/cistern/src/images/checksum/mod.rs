//! The SHA-256 of images as people would download them, one for each format.
//!
//! Hashing costs a third of an import, so it is not part of one: a job of low priority reads the disk once when the
//! image is available and feeds the hashes of raw and qcow2. Of the other formats, which few ask for, the first whole
//! download finds it. The row names the entity tag of the bytes it is about, so a digest
//! is never shown for others.

mod jobs;
pub mod migration;
mod rows;
#[cfg(test)]
mod tests;

use sea_orm::ConnectionTrait;
use serde_json::json;
use sha2::{Digest as _, Sha256};

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

/// The checksum of a file that is being sent, of which no job makes one.
pub struct Running {
    image_id: i64,
    format: Format,
    etag: String,
    hash: Sha256,
    length: u64,
}

impl Running {
    /// Nothing is sent yet of the file with this entity tag.
    pub fn new(image_id: i64, format: Format, etag: String) -> Self {
        Self {
            image_id,
            format,
            etag,
            hash: Sha256::new(),
            length: 0,
        }
    }

    /// Takes what is sent next.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// How much that was.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Keeps it: all of the file was sent. Where that fails the next download does it again.
    pub async fn keep(self, app: &App) {
        let sum = Sum {
            format: self.format,
            etag: self.etag,
            sha256: hex::encode(self.hash.finalize()),
            length: self.length,
        };
        let kept = async {
            // Given up since: nobody will ask.
            if app
                .store
                .root_get("image", &self.image_id.to_string())
                .await?
                .is_none()
            {
                return Ok(());
            }
            let tx = app.db.write().await?;
            checksum_set_in_tx(&*tx, app.clock.now(), self.image_id, &sum).await?;
            tx.commit().await
        };
        if let Err(error) = kept.await {
            tracing::warn!(
                error = error.chain(),
                image = self.image_id,
                "could not keep a checksum"
            );
        }
    }
}

fn digest(hex_text: &str) -> Option<[u8; 32]> {
    hex::decode(hex_text).ok()?.try_into().ok()
}
