//! `cistern store`: on a data folder with `--data`, otherwise through a server.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};
use store::VerifyProgress;

use super::mend::{is_mended, store_verify};
use super::model::{Report, StoreStats};
use super::service;
use crate::app::{App, backend_open_at};
use crate::cli::client::Remote;
use crate::cli::output::counted as count;
use crate::cli::progress::Progress;
use crate::cli::{Context, Failure, LocalFlags, Outcome, block_on, key_flags_named, output};
use crate::platform::data_lock;
use crate::platform::error::chain_of;
use crate::platform::keys::service::key_load;

/// How often it is looked how far a verification is.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// `cistern store …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how much is stored, and what deduplication and compression save
    Stats(StatsArgs),
    /// Look for damage; exits with 1 and a line for each damaged range where there is any
    Verify(VerifyArgs),
    /// Read the index of chunks from the packs again, on the server's machine while it is stopped
    RebuildIndex(RebuildArgs),
    /// Copy the store to another folder or bucket, or what that lacks of it
    Copy(CopyArgs),
    /// Bring what is damaged or missing of the store back from a copy of it
    Heal(HealArgs),
}

/// Flags of `stats`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cistern store stats --data /var/lib/cistern\n  cistern store stats --json"
)]
pub struct StatsArgs {
    #[command(flatten)]
    local: LocalFlags,
    #[command(flatten)]
    remote: Remote,
}

/// Flags of `verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cistern store verify                            is everything there?\n  cistern store \
                  verify --read-data --data DIR   is every byte of it right?"
)]
pub struct VerifyArgs {
    /// Read and hash every stored byte
    #[arg(long)]
    read_data: bool,
    #[command(flatten)]
    local: LocalFlags,
    #[command(flatten)]
    remote: Remote,
}

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

/// Flags of `rebuild-index`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cistern store rebuild-index --data /var/lib/cistern\n\nFor an index of chunks that is \
                  damaged, in a database that is otherwise intact; `cistern recover` is for one that is lost."
)]
pub struct RebuildArgs {
    #[command(flatten)]
    local: LocalFlags,
}

/// Runs a command.
pub fn run(command: Command, context: &Context) -> Outcome {
    block_on(async {
        match command {
            Command::Stats(args) => stats(args, context).await,
            Command::Verify(args) => verify(args, context).await,
            Command::RebuildIndex(args) => rebuild(args, context).await,
            Command::Copy(args) => copy(args, context).await,
            Command::Heal(args) => heal(args, context).await,
        }
    })
}

async fn stats(args: StatsArgs, context: &Context) -> Outcome {
    let stats: StoreStats = if args.local.has_data() {
        let app = App::open_existing(args.local.config(context)?).await?;
        service::figures(&app).await?
    } else {
        let answer = args.remote.client(context)?.get("/v2/store/stats").await?;
        read(&answer["stats"])?
    };
    context.output.document(&stats, || stats_text(&stats));
    Ok(())
}

async fn copy(args: CopyArgs, context: &Context) -> Outcome {
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

async fn heal(args: HealArgs, context: &Context) -> Outcome {
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
    Err(Failure::Failed(format!(
        "{} could not be healed: {}. `cistern store verify --read-data` names the images: import them again, or heal from another copy",
        count(healed.left, "object"),
        healed.named.join("; ")
    )))
}

async fn rebuild(args: RebuildArgs, context: &Context) -> Outcome {
    let config = args.local.config(context)?;
    let _lock = data_lock::data_lock(&config.data)?;
    let progress = Progress::new();
    progress.step("reading the index of every pack", None);
    let rebuilt = service::index_rebuild(&config).await;
    progress.clear();
    let rebuilt = rebuilt?;
    let document = json!({ "rebuilt": {
        "packs": rebuilt.packs, "stored_bytes": rebuilt.stored_bytes, "chunks": rebuilt.chunks,
        "salvaged": rebuilt.salvaged, "unreadable": rebuilt.unreadable,
    } });
    context.output.document(&document, || rebuilt_text(&rebuilt));
    if rebuilt.unreadable.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(
        "some packs hold nothing that can be read: what only they held is lost. `cistern store verify` names the images; put the \
         packs back from a copy of the store and run this again, or import those images again"
            .into(),
    ))
}

fn rebuilt_text(rebuilt: &store::Rebuilt) -> String {
    let mut lines = vec![format!(
        "{} chunks in {} ({}) are in the index.",
        rebuilt.chunks,
        count(rebuilt.packs, "pack"),
        output::bytes(rebuilt.stored_bytes)
    )];
    lines.extend(rebuilt.salvaged.iter().map(|what| format!("damaged pack {what}")));
    lines.extend(
        rebuilt
            .unreadable
            .iter()
            .map(|what| format!("unreadable pack {what}")),
    );
    lines.join("\n")
}

async fn verify(args: VerifyArgs, context: &Context) -> Outcome {
    let progress = Progress::new();
    let step = if args.read_data {
        "reading the store"
    } else {
        "looking through the store"
    };
    progress.step(step, None);
    let found = if args.local.has_data() {
        verify_local(&args, context, &progress).await
    } else {
        verify_remote(&args, context, &progress).await
    };
    progress.clear();
    let report = found?;
    context
        .output
        .document(&json!({ "verify": report }), || report_text(&report));
    if report.is_clean() {
        return Ok(());
    }
    let count = report.damage.len() as u64 + report.more;
    let what = if count == 1 { "range" } else { "ranges" };
    let next = if report.damage.iter().all(|damage| is_mended(&damage.id)) {
        "a server writes headers and journal anew by itself: start it, wait for a minute and look again"
    } else if report.damage.iter().all(|damage| damage.kind == "store") {
        "no image needs what is damaged; `cistern gc` removes it"
    } else {
        "import the images again, which stores what is damaged anew, or bring it back from a copy of the store: `cistern \
         store heal COPY`"
    };
    Err(Failure::Failed(format!("{count} damaged {what}; {next}")))
}

async fn verify_local(args: &VerifyArgs, context: &Context, progress: &Progress) -> Outcome<Report> {
    let config = args.local.config(context)?;
    let counters = VerifyProgress::default();
    let mut work = std::pin::pin!(async {
        if service::is_for_reading(&config) {
            return service::verify_for_reading(&config, args.read_data, &counters).await;
        }
        let app = App::open_existing(config).await?;
        store_verify(&app, args.read_data, &counters).await
    });
    loop {
        tokio::select! {
            found = &mut work => {
                return Ok(Report::new(args.read_data, found?, &counters));
            }
            () = tokio::time::sleep(LOOK_EVERY) => progress.set(counters.bytes.load(Relaxed)),
        }
    }
}

async fn verify_remote(args: &VerifyArgs, context: &Context, progress: &Progress) -> Outcome<Report> {
    let client = args.remote.client(context)?;
    let body = json!({ "read_data": args.read_data });
    let mut answer = client.post("/v2/store/verify", &body).await?;
    loop {
        let run = &answer["verification"];
        if let Some(bytes) = run["progress"]["bytes"].as_u64() {
            progress.set(bytes);
        }
        match run["status"].as_str() {
            Some("done") => return read(&run["report"]),
            Some("queued" | "running") => {}
            _ => {
                let reason = run["error"].as_str().unwrap_or("the verification was not done");
                return Err(Failure::Failed(reason.to_owned()));
            }
        }
        let path = format!("/v2/store/verify/{}", run["id"]);
        tokio::time::sleep(LOOK_EVERY).await;
        answer = client.get(&path).await?;
    }
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Outcome<T> {
    serde_json::from_value(value.clone())
        .map_err(|e| Failure::Failed(format!("the server's answer is not understood: {e}")))
}

fn stats_text(stats: &StoreStats) -> String {
    let bytes = output::bytes;
    // One decimal, in whole numbers. Without disks, or while the first is being written, there is nothing to compare.
    let tenths = u128::from(stats.logical_bytes) * 10 / u128::from(stats.stored_bytes.max(1));
    let saved = if stats.logical_bytes > stats.stored_bytes && tenths > 10 {
        format!("  ({}.{} times less)", tenths / 10, tenths % 10)
    } else {
        String::new()
    };
    format!(
        "Disks      {:>12}  in {}\nData       {:>12}  without zeros, as if nothing were shared\nStored     {:>12}{saved}\n\
         Chunks     {:>12}  in {}\nGarbage    {:>12}  found by gc so far, freed by its next runs; `cistern gc --dry-run` looks for all of it\n\
         Restorable {:>12}  at most, in {} that gc --purge gives up\nWriting    {:>12}  at work now",
        bytes(stats.virtual_bytes),
        count(stats.roots, "disk"),
        bytes(stats.logical_bytes),
        bytes(stats.stored_bytes),
        stats.chunks,
        count(stats.packs, "pack"),
        bytes(stats.garbage_bytes),
        bytes(stats.restorable_bytes),
        count(stats.restorable, "deleted image"),
        count(stats.open_sessions, "import"),
    ) + &read_text(stats)
        + &bucket_text(stats)
}

/// Since when everything was read.
fn read_text(stats: &StoreStats) -> String {
    stats.read_since.as_ref().map_or_else(String::new, |since| {
        format!("\nRead       all of it since {since}, by the scrub or as it was written")
    })
}

/// What the bucket was asked since the server started, and what it need not be asked.
fn bucket_text(stats: &StoreStats) -> String {
    let mut text = String::new();
    if let Some(cache) = &stats.cache {
        let reads = (cache.hits + cache.misses).max(1);
        let _ = write!(
            text,
            "\nCache      {:>12}  had {} % of what was read",
            output::bytes(cache.bytes),
            cache.hits * 100 / reads
        );
    }
    if let Some(requests) = &stats.requests {
        let all = requests.get + requests.put + requests.head + requests.list + requests.delete;
        let _ = write!(
            text,
            "\nRequests   {all:>12}  to the bucket since the server started"
        );
        for (count, what) in [(requests.get_per_gib, "read"), (requests.put_per_gib, "written")] {
            if let Some(count) = count {
                let _ = write!(text, "; {count} a GiB {what}");
            }
        }
    }
    text
}

fn report_text(report: &Report) -> String {
    let mut lines: Vec<String> = report
        .damage
        .iter()
        .map(|d| {
            format!(
                "{} {}: bytes {}-{}: {}",
                d.kind,
                d.id,
                d.from,
                d.to.saturating_sub(1),
                d.reason
            )
        })
        .collect();
    if report.more > 0 {
        lines.push(format!("and {} more", report.more));
    }
    if report.is_clean() {
        let how = if report.read_data {
            "every byte was read"
        } else {
            "nothing is missing; --read-data reads it all"
        };
        let (disks, packs) = (count(report.roots, "disk"), count(report.packs, "pack"));
        lines.push(format!(
            "No damage in {disks} and {packs} ({}): {how}.",
            output::bytes(report.bytes)
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::model::Damage;
    use super::*;

    #[test]
    fn each_damaged_range_is_a_line() {
        let damage = Damage {
            kind: "image".into(),
            id: "7".into(),
            from: 65_536,
            to: 131_072,
            reason: "the object is too short".into(),
        };
        let report = Report {
            damage: vec![damage.clone(), damage],
            more: 3,
            ..Report::default()
        };
        let text = report_text(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "image 7: bytes 65536-131071: the object is too short");
        assert_eq!((lines.len(), lines[2]), (3, "and 3 more"));
    }

    #[test]
    fn a_clean_store_says_what_was_looked_at() {
        let report = Report {
            roots: 1,
            packs: 2,
            ..Report::default()
        };
        let text = report_text(&report);
        assert!(text.starts_with("No damage in 1 disk and 2 packs"), "{text}");
    }

    #[test]
    fn what_was_saved_is_told() {
        let stats = StoreStats {
            roots: 2,
            virtual_bytes: 4 << 30,
            logical_bytes: 3 << 30,
            stored_bytes: 2 << 30,
            packs: 9,
            chunks: 100,
            chunk_bytes: 1,
            garbage_bytes: 1,
            restorable: 1,
            restorable_bytes: 1,
            open_sessions: 0,
            read_since: Some("2026-01-02T03:04:05Z".into()),
            cache: None,
            requests: None,
        };
        let text = stats_text(&stats);
        assert!(
            text.contains("1.5 times less")
                && text.contains("2 disks")
                && text.contains("all of it since 2026-01-02T03:04:05Z"),
            "{text}"
        );
        // What a deleted image has left behind.
        let text = stats_text(&StoreStats {
            roots: 0,
            logical_bytes: 0,
            ..stats
        });
        assert!(!text.contains("times less"), "{text}");
    }
}
