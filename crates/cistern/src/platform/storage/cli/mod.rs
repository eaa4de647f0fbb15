//! `cistern store`: on a data folder with `--data`, otherwise through a server.

mod copies;
mod verify;

use std::fmt::Write as _;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::model::StoreStats;
use super::service;
use crate::app::{App, objects_shown};
use crate::cli::client::Remote;
use crate::cli::output::counted as count;
use crate::cli::progress::Progress;

use crate::cli::{Context, Failure, LocalFlags, Outcome, block_on, missing_text, output};
use crate::platform::data_lock::data_lock;

/// How often it is looked how far a verification is.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// `cistern store …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how much is stored, and what deduplication and compression save
    Stats(StatsArgs),
    /// Look for damage; exits with 1 and a line for each damaged range where there is any
    Verify(verify::VerifyArgs),
    /// Read the index of chunks from the packs again, on the server's machine while it is stopped
    RebuildIndex(RebuildArgs),
    /// Copy the store to another folder or bucket, or what that lacks of it
    Copy(copies::CopyArgs),
    /// Bring what is damaged or missing of the store back from a copy of it
    Heal(copies::HealArgs),
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
            Command::Verify(args) => verify::verify(args, context).await,
            Command::RebuildIndex(args) => rebuild(args, context).await,
            Command::Copy(args) => copies::copy(args, context).await,
            Command::Heal(args) => copies::heal(args, context).await,
        }
    })
}

async fn stats(args: StatsArgs, context: &Context) -> Outcome {
    let stats: StoreStats = if args.local.is_local()? {
        let app = App::open_existing(args.local.config(context)?).await?;
        service::figures(&app).await?
    } else {
        let answer = args.remote.client(context)?.get("/v2/store/stats").await?;
        read(&answer["stats"])?
    };
    context.output.document(&stats, || stats_text(&stats));
    Ok(())
}

async fn rebuild(args: RebuildArgs, context: &Context) -> Outcome {
    let config = args.local.config(context)?;
    let _lock = data_lock(&config.data, &objects_shown(&config), config.sqlite().as_deref())?;
    let progress = Progress::new();
    progress.step("reading the index of every pack", None);
    let rebuilt = service::index_rebuild(&config).await;
    progress.clear();
    let rebuilt = rebuilt?;
    let document = json!({ "rebuilt": {
        "packs": rebuilt.packs, "stored_bytes": rebuilt.stored_bytes, "chunks": rebuilt.chunks,
        "salvaged": rebuilt.salvaged, "unreadable": rebuilt.unreadable, "damaged_roots": rebuilt.damaged_roots,
    } });
    context.output.document(&document, || rebuilt_text(&rebuilt));
    if let Some(missing) = missing_text(rebuilt.damaged_roots) {
        return Err(Failure::Failed(missing));
    }
    if rebuilt.unreadable.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(
        "some packs hold nothing that can be read: what only they held is lost. `cistern store verify` names the images; bring them \
         back from a copy of the store with `cistern store heal COPY`, or import those images again"
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
         Restorable {:>12}  at most, in {} that gc --purge gives up\nWriting    {:>12}  at work, or cut off within the last minute",
        bytes(stats.virtual_bytes),
        count(stats.roots, "disk"),
        bytes(stats.logical_bytes),
        bytes(stats.stored_bytes),
        stats.chunks,
        count(stats.packs, "pack"),
        bytes(stats.garbage_bytes),
        bytes(stats.restorable_bytes),
        count(stats.restorable, "deleted image"),
        count(stats.open_sessions.saturating_sub(stats.writers.silent), "import"),
    ) + &silent_text(stats)
        + &read_text(stats)
        + &bucket_text(stats)
}

/// Who writes no more, and what that keeps from gc.
fn silent_text(stats: &StoreStats) -> String {
    let silent = stats.writers.silent_text();
    silent.map_or_else(String::new, |silent| format!("\nSilent     {silent}"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::storage::model::Writers;

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
            open_sessions: 3,
            writers: Writers {
                at_work: 1,
                silent: 2,
                silent_since: Some("2026-01-02T03:04:05Z".into()),
                silent_until: Some("2026-01-02T03:06:05Z".into()),
            },
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
        assert!(
            text.contains("1 import  at work, or cut off within the last minute")
                && text.contains("Silent     2 sessions of a server"),
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
