//! `cistern store copy` and `cistern store heal`: a store into another place, and what is damaged back from there.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::json;
use store::VerifyProgress;

use super::LOOK_EVERY;
use crate::app::{App, backend_open_at};
use crate::cli::output::counted as count;
use crate::cli::progress::Progress;
use crate::cli::{Context, Failure, LocalFlags, Outcome, key_flags_named, output};
use crate::platform::error::chain_of;
use crate::platform::keys::service::key_load;
use crate::platform::storage::service;

/// Flags of `copy`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cistern store copy /var/lib/cistern/store 's3://bucket/cistern?endpoint=https://s3.example.com'\n  cistern \
                  store copy --read-back s3://bucket/cistern /backup/store\n\nThe keys to a bucket come from \
                  CISTERN_OBJECTS_ACCESS_KEY and CISTERN_OBJECTS_SECRET_KEY. A copy that was cut off, or made while a server wrote, is \
                  completed by the same command. A copy of an encrypted store needs one of its keys (--key-file or --key-command), to check \
                  what it copies; the copy opens with the same keys. To move a service: copy, stop the server, copy again, start it with \
                  --objects DST. To bring what is damaged in a store back from its copy: cistern store heal."
)]
pub struct CopyArgs {
    /// The folder or bucket that holds the store
    src: String,
    /// The folder or bucket that it is copied to
    dst: String,
    /// Read everything at DST and compare, also what was there already (which is trusted unread otherwise), and replace what is
    /// damaged there. Reads all of SRC and all of DST: as long as a copy of everything takes
    #[arg(long)]
    read_back: bool,
    #[command(flatten)]
    local: LocalFlags,
}

/// Flags of `heal`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cistern store heal /backup/store --data /var/lib/cistern\n  cistern store heal 's3://bucket/cistern?endpoint=https://s3.example.com' \
                  --data /var/lib/cistern\n\nReads every stored byte, as `store verify --read-data` does. What is damaged or missing, and nothing \
                  else, is taken from the copy, after it was verified there: the copy may be older than the store. A server may run meanwhile."
)]
pub struct HealArgs {
    /// The folder or bucket that holds the copy
    copy: String,
    #[command(flatten)]
    local: LocalFlags,
}

pub(super) async fn copy(args: CopyArgs, context: &Context) -> Outcome {
    let config = args.local.config(context)?;
    // A folder is made where there is none, which is right for one side only.
    folder_require(&args.src)?;
    let from = backend_open_at(&config, &args.src)?;
    let options = store::CopyOptions {
        read_back: args.read_back,
        key: key_load(&config).await?,
    };
    store::copy_check(&*from, &options)
        .await
        .map_err(|error| Failure::Failed(chain_of(&error)))?;
    // This makes a folder.
    let to = backend_open_at(&config, &args.dst)?;
    let (progress, counters) = (Progress::new(), store::CopyProgress::default());
    progress.step("copying", None);
    let copied = {
        let mut work = std::pin::pin!(store::copy(&*from, &*to, &options, &counters));
        loop {
            tokio::select! {
                done = &mut work => break done,
                () = tokio::time::sleep(LOOK_EVERY) => progress.set(counters.bytes.load(Relaxed)),
            }
        }
    };
    progress.clear();
    let copied = copied.map_err(|error| Failure::Failed(key_flags_named(&chain_of(&error))))?;
    let told = json!({ "copy": {
        "objects": copied.objects, "bytes": copied.bytes, "present": copied.present, "replaced": copied.replaced,
        "gone": copied.gone, "damaged": copied.damaged,
    } });
    context.output.document(&told, || {
        let mut text = format!(
            "Copied {} in {}; {} were there already.",
            output::bytes(copied.bytes),
            count(copied.objects, "object"),
            copied.present
        );
        if copied.replaced > 0 {
            let _ = write!(
                text,
                " {} of them replaced what was damaged there.",
                copied.replaced
            );
        }
        if copied.gone > 0 {
            let _ = write!(
                text,
                " {} went away meanwhile, as gc ran: copy once more.",
                count(copied.gone, "object")
            );
        }
        text
    });
    if copied.damaged.is_empty() {
        return Ok(());
    }
    let keys = copied.damaged.join("; ");
    Err(Failure::Failed(format!(
        "damaged at the source, or in doubt: {keys}. `cistern store verify --read-data` there names the images"
    )))
}

/// Of a place to read from; a bucket is asked when it is read.
fn folder_require(place: &str) -> Outcome {
    if place.contains("://") || std::path::Path::new(place).is_dir() {
        return Ok(());
    }
    Err(Failure::Failed(format!("there is no folder {place}")))
}

/// What helps where a copy lacks an object.
const ABSENT: &str = ". What the copy does not have was written after it was made: by an import, or by a gc that wrote an older pack \
                      anew. An image that is older than the copy is whole in the copy all the same: `cistern store copy COPY COPY2`, \
                      `cistern recover --data NEW --objects COPY2`, `cistern serve --data NEW --objects COPY2`, export the image there, \
                      and import it here, which heals it";

pub(super) async fn heal(args: HealArgs, context: &Context) -> Outcome {
    folder_require(&args.copy)?;
    let app = App::open_existing(args.local.config(context)?).await?;
    let (progress, counters) = (Progress::new(), VerifyProgress::default());
    progress.step("reading the store", None);
    let healed = {
        let mut work = std::pin::pin!(service::heal_from(&app, &args.copy, &counters));
        loop {
            tokio::select! {
                done = &mut work => break done,
                () = tokio::time::sleep(LOOK_EVERY) => progress.set(counters.bytes.load(Relaxed)),
            }
        }
    };
    progress.clear();
    let healed = healed?;
    let told = json!({ "heal": {
        "objects": healed.objects, "bytes": healed.bytes, "left": healed.left, "damaged": healed.named,
    } });
    context
        .output
        .document(&told, || match healed.objects + healed.left {
            0 => "Nothing is damaged.".to_owned(),
            _ => format!(
                "{} ({}) came back from the copy.",
                count(healed.objects, "object"),
                output::bytes(healed.bytes)
            ),
        });
    if healed.left == 0 {
        return Ok(());
    }
    let mut text = format!(
        "{} could not be healed: {}. `cistern store verify --read-data` names the images: import them again, or heal from another copy",
        count(healed.left, "object"),
        healed.named.join("; ")
    );
    if healed.absent > 0 {
        text.push_str(ABSENT);
    }
    Err(Failure::Failed(text))
}
