//! Finding and opening what is to be downloaded, and saying so when it is damaged.

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use serde_json::json;

use super::export::{Export, Format, etag};
use super::range::Wanted;
use crate::app::App;
use crate::images::model::Status;
use crate::images::{checksum, service as images};
use crate::platform::accounts::Caller;
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event, Outcome};

/// What an image's tree hangs on in the store.
const ROOT_KIND: &str = "image";

/// A file that can be sent.
pub struct Download {
    /// The image.
    pub image_id: i64,
    /// What it is sent as.
    pub format: Format,
    /// A name that is safe in every file system and header.
    pub file_name: String,
    /// The entity tag, with its quotes.
    pub etag: String,
    /// The SHA-256 of the whole file, where it is known yet.
    pub sha256: Option<[u8; 32]>,
    export: Export,
}

/// Opens an image for download.
pub async fn download_open(app: &App, caller: &Caller, id: &str, format: Format) -> Result<Download> {
    caller.require("image:read")?;
    let row = images::image_get(app, caller, id).await?;
    match row.status.as_str() {
        s if s == Status::Available.as_str() => {}
        s if s == Status::Deleted.as_str() => return Err(Error::NotFound),
        _ => {
            return Err(Error::invalid(
                "The image is still being imported; wait until its status is `available`.",
            ));
        }
    }
    let root = app.store.root_get(ROOT_KIND, &row.id.to_string()).await?;
    let root = root.ok_or(Error::NotFound)?;
    let etag = etag(&root.tree, format);
    let sha256 = checksum::checksum_get(app, row.id, &etag).await?;
    let export = Export::open(app.store.disk_open(root.tree), format).await?;
    Ok(Download {
        image_id: row.id,
        format,
        file_name: file_name(&row.name, row.id, format),
        etag,
        sha256,
        export,
    })
}

impl Download {
    /// The file's bytes.
    pub fn length(&self) -> u64 {
        self.export.length()
    }

    /// What is to be sent, as a stream that ends with an error where the stored data is damaged. The range is the
    /// file's.
    pub fn bytes(
        &self,
        app: &App,
        caller: &Caller,
        wanted: std::ops::Range<u64>,
    ) -> BoxStream<'static, std::io::Result<Bytes>> {
        let (app, caller, image) = (app.clone(), caller.clone(), self.image_id);
        let stream = self.export.bytes(wanted).or_else(move |error| {
            let (app, caller) = (app.clone(), caller.clone());
            async move { Err(broken(&app, &caller, image, error).await) }
        });
        Box::pin(stream)
    }
}

/// Tells the log and the events why a download was cut.
async fn broken(app: &App, caller: &Caller, image: i64, error: store::Error) -> std::io::Error {
    let range = error.range();
    let reason = Error::from(error).chain();
    tracing::error!(
        image,
        ?range,
        reason,
        "a download was cut: the disk cannot be read"
    );
    let detail = json!({
        "reason": "the disk cannot be read",
        "from_byte": range.as_ref().map(|r| r.start),
        "to_byte": range.as_ref().map(|r| r.end),
    });
    let event = Event::done("image.download", "image", image)
        .ended(Outcome::Failed)
        .with(detail);
    if let Err(error) = record(app, caller, event).await {
        tracing::error!(error = error.chain(), "could not record an event");
    }
    std::io::Error::other(reason)
}

/// Records that a download began; asked for the first byte only, or a resumed one would count many times.
pub async fn download_begun(app: &App, caller: &Caller, download: &Download, wanted: &Wanted) -> Result<()> {
    match wanted {
        Wanted::All => {}
        Wanted::Part(range) if range.start == 0 => {}
        Wanted::Part(_) | Wanted::Nothing => return Ok(()),
    }
    let event = Event::done("image.download", "image", download.image_id);
    // On a full disk what is there can still be read.
    if let Err(error) = record(app, caller, event.with(json!({ "format": download.format }))).await {
        tracing::error!(error = error.chain(), "could not record a download");
    }
    Ok(())
}

async fn record(app: &App, caller: &Caller, event: Event) -> Result<()> {
    let tx = app.db.write().await?;
    events::record_in_tx(&*tx, app.clock.now(), &caller.who, event).await?;
    tx.commit().await
}

/// The image's name with everything but letters, digits and `.-_` replaced; never hidden, never empty, never long.
fn file_name(name: &str, id: i64, format: Format) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    let stem: String = name.chars().map(safe).take(100).collect();
    let stem = stem.trim_matches(['.', '_']);
    let extension = format.as_str();
    if stem.is_empty() {
        return format!("image-{id}.{extension}");
    }
    let stem = stem.strip_suffix(&format!(".{extension}")).unwrap_or(stem);
    format!("{stem}.{extension}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_safe_everywhere() {
        let of = |name| file_name(name, 7, Format::Raw);
        assert_eq!(of("Debian 12"), "Debian_12.raw");
        assert_eq!(of("../../etc/passwd"), "etc_passwd.raw");
        assert_eq!(of("a\"; rm -rf /\r\nx: y"), "a___rm_-rf____x__y.raw");
        assert_eq!(of(".hidden"), "hidden.raw");
        assert_eq!(of("日本"), "image-7.raw");
        assert_eq!(of("disk.raw"), "disk.raw");
        assert_eq!(of(&"x".repeat(300)).len(), 104);
    }
}
