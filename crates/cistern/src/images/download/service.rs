//! Finding and opening what is to be downloaded, and saying so when it is damaged.

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tracing::Instrument as _;

use super::export::{Export, Format, etag};
use super::limits::Told;
use super::range::Wanted;
use crate::app::App;
use crate::images::model::Status;
use crate::images::{checksum, service as images};
use crate::platform::accounts::Caller;
use crate::platform::error::{Base, Error, Result};
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
    let export = Export::open(app.store.disk_open(root.tree), &root.tree, format).await?;
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
    /// The file's bytes, where they are known before it is made; of a file of which they are not, no part can be had.
    pub fn length(&self) -> Option<u64> {
        self.export.length()
    }

    /// What is to be sent, as a stream that ends with an error where the stored data is damaged. The range is the
    /// file's; none is all of it. Refuses who has as many downloads open as they may. Its first piece is there
    /// already, or the error is given here, while it can still be answered with a sentence.
    pub async fn bytes(
        &self,
        app: &App,
        caller: &Caller,
        wanted: Option<std::ops::Range<u64>>,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>> {
        let open = app.downloads.open(caller, app.config.http.max_downloads)?;
        let (hashing, app) = (app.clone(), app.clone());
        let (caller, image) = (caller.clone(), self.image_id);
        let disk = self.export.disk_bytes();
        let is_whole = wanted.is_none();
        let mut rest = self.export.bytes(wanted)?;
        let first = match rest.try_next().await {
            Ok(first) => first,
            Err(error) => return Err(Cut::new(&app, (image, disk), error).tell(&app, &caller).await),
        };
        let stream = stream::iter(first.map(Ok)).chain(rest).or_else(move |error| {
            let cut = Cut::new(&app, (image, disk), error);
            let reason = cut.error.chain();
            let (app, caller) = (app.clone(), caller.clone());
            let tell = async move { cut.tell(&app, &caller).await };
            // A task, because who does not read leaves this unpolled, whatever it holds.
            let told = tokio::spawn(tell.in_current_span());
            told.map(|_| Err(std::io::Error::other(reason)))
        });
        let stream = stream.inspect_ok(move |_| _ = &open).boxed();
        // Of raw and qcow2 a job finds the digest; of the others the first who has all of it does.
        let is_new = is_whole && self.sha256.is_none();
        if is_new && !matches!(self.format, Format::Raw | Format::Qcow2) {
            return Ok(self.hashed(hashing, stream));
        }
        Ok(stream)
    }

    /// Hashes what is sent, and keeps the digest before the last of it goes out: who has it all can ask for it.
    fn hashed(&self, app: App, sent: Sent) -> Sent {
        let sum = checksum::Running::new(self.image_id, self.format, self.etag.clone());
        let length = self.length();
        let hashed = stream::try_unfold((sent, Some(sum)), move |(mut sent, sum)| {
            let app = app.clone();
            async move {
                let next = sent.try_next().await?;
                let Some(mut sum) = sum else {
                    return Ok(next.map(|bytes| (bytes, (sent, None))));
                };
                if let Some(bytes) = &next {
                    sum.update(bytes);
                }
                let is_last = next.is_none() || Some(sum.length()) == length;
                let sum = if is_last {
                    // A task, because who does not read leaves this unpolled, whatever it holds.
                    let kept = tokio::spawn(async move { sum.keep(&app).await }.in_current_span());
                    kept.await.map_err(std::io::Error::other)?;
                    None
                } else {
                    Some(sum)
                };
                Ok(next.map(|bytes| (bytes, (sent, sum))))
            }
        });
        hashed.boxed()
    }
}

/// What a client gets.
type Sent = BoxStream<'static, std::io::Result<Bytes>>;

/// What is known of data that an older database cannot find.
const NOT_KNOWN: &str = "this database does not know where the data are now; nothing is known to be damaged";

/// Why a download was cut.
struct Cut {
    image: i64,
    /// The disk's bytes that it is about.
    range: Option<std::ops::Range<u64>>,
    /// For those who look at the events.
    reason: &'static str,
    /// For the log, and for whom nothing was sent yet.
    error: Error,
}

impl Cut {
    /// Of an image with a disk of so many bytes.
    fn new(app: &App, (image, disk): (i64, u64), error: store::Error) -> Self {
        let range = error.range();
        let (reason, error) = match app.db.refusal() {
            // An older database names places that gc has left since: what lies elsewhere now is no damage.
            Some(refusal) if error.kind() == store::Kind::Damaged => (
                NOT_KNOWN,
                // Asking again does not help.
                Error::Precondition(format!(
                    "A part of the image is not where this database has it: {refusal}."
                )),
            ),
            _ if error.retryable() => (
                "the store did not answer; nothing is known to be damaged",
                error.into(),
            ),
            _ => ("the disk cannot be read", error.into()),
        };
        let error = match (error, &range) {
            (Error::Damaged(_), Some(range)) => Error::Damaged(damaged(image, range, disk)),
            (other, _) => other,
        };
        Self {
            image,
            range,
            reason,
            error,
        }
    }

    /// Tells the log and the events, and gives the error.
    async fn tell(self, app: &App, caller: &Caller) -> Error {
        let Self { image, range, .. } = &self;
        tracing::error!(
            image,
            range = range.as_ref().map(shown),
            reason = self.error.chain(),
            "a download was cut: {}",
            self.reason
        );
        let detail = json!({
            "reason": self.reason,
            "from_byte": range.as_ref().map(|r| r.start),
            "to_byte": range.as_ref().map(|r| r.end),
        });
        // Without a database there are no events, and the client waits for the answer.
        if !matches!(self.error, Error::Away(Base::Database)) {
            tell(app, caller, Told::Cut, *image, detail).await;
        }
        self.error
    }
}

/// Its first and its last byte.
fn shown(range: &std::ops::Range<u64>) -> String {
    format!("{}-{}", range.start, range.end.saturating_sub(1))
}

/// Which of the disk is damaged, and what helps.
fn damaged(image: i64, range: &std::ops::Range<u64>, disk: u64) -> String {
    let rest = if *range == (0..disk) {
        "that is all of it."
    } else {
        "`cistern store verify --read-data` names every damaged range, and the others can be downloaded (`Range`, or `cistern image \
         export --range`)."
    };
    format!(
        "Image {image} is damaged: bytes {} of its disk, both included, cannot be read. Importing the same content again \
         heals it; {rest}",
        shown(range)
    )
}

/// Records that a download began; asked for the first byte only, or a resumed one would count many times. Within
/// bounds: what is more is counted, and told by the next event of the same caller and image.
pub async fn download_begun(app: &App, caller: &Caller, download: &Download, wanted: &Wanted) {
    match wanted {
        Wanted::All => {}
        Wanted::Part(range) if range.start == 0 => {}
        Wanted::Part(_) | Wanted::Nothing => return,
    }
    let detail = json!({ "format": download.format });
    tell(app, caller, Told::Begun, download.image_id, detail).await;
}

/// Writes an event of a download, unless there are too many of late.
async fn tell(app: &App, caller: &Caller, told: Told, image: i64, mut detail: Value) {
    let Some(left_out) = app.downloads.admit(app.clock.now(), caller, told, image) else {
        metrics::counter!("downloads_left_out_total").increment(1);
        return;
    };
    if left_out > 0 {
        detail["left_out"] = left_out.into();
    }
    let outcome = match told {
        Told::Begun => Outcome::Ok,
        Told::Cut => Outcome::Failed,
    };
    let event = Event::done("image.download", "image", image)
        .ended(outcome)
        .with(detail);
    // On a full disk what is there can still be read.
    if let Err(error) = record(app, caller, event).await {
        tracing::error!(error = error.chain(), "could not record a download");
    }
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
    fn where_all_is_lost_no_rest_is_promised() {
        assert!(
            damaged(7, &(0..9), 10).contains("bytes 0-8 of its disk")
                && damaged(7, &(0..9), 10).contains("--range")
        );
        assert!(!damaged(7, &(0..10), 10).contains("--range"));
    }

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
