//! `cistern gc`: on a data folder with `--data`, otherwise through a server.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::{Value, json};
use store::gc::Progress as Counters;
use tokio_util::sync::CancellationToken;

use super::jobs::gc_run;
use super::model::{Report, Wish};
use crate::app::App;
use crate::cli::client::Remote;
use crate::cli::progress::Progress;
use crate::cli::{Context, Failure, LocalFlags, Outcome, block_on, output};

/// How often it is looked how far a run is.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Flags of `gc`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cistern gc                        free what has been garbage for an hour\n  cistern gc \
                  --dry-run --purge     what would the strongest run free?\n  cistern gc --now --purge --data DIR"
)]
pub struct Args {
    /// Do not wait: what is garbage now goes now
    #[arg(long)]
    now: bool,
    /// Also give up deleted images that could still be restored
    #[arg(long)]
    purge: bool,
    /// Only say what would be freed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    local: LocalFlags,
    #[command(flatten)]
    remote: Remote,
}

/// Runs the command.
pub fn run(args: Args, context: &Context) -> Outcome {
    let wish = Wish {
        now: args.now,
        purge: args.purge,
        dry_run: args.dry_run,
    };
    let report = block_on(async {
        let progress = Progress::new();
        progress.step("looking for what nothing needs", None);
        let report = if args.local.has_data() {
            local(args, wish, context, &progress).await
        } else {
            remote(args, wish, context, &progress).await
        };
        progress.clear();
        report
    })?;
    context
        .output
        .document(&json!({ "gc": report }), || text(&report, wish));
    Ok(())
}

async fn local(args: Args, wish: Wish, context: &Context, progress: &Progress) -> Outcome<Report> {
    let app = App::open_existing(args.local.config(context)?).await?;
    let (counters, stop) = (Counters::default(), CancellationToken::new());
    let mut work = std::pin::pin!(gc_run(&app, wish, &stop, &counters));
    loop {
        tokio::select! {
            done = &mut work => return Ok(done?),
            () = tokio::time::sleep(LOOK_EVERY) => show(progress, counters.freed_bytes.load(Relaxed)),
            _ = tokio::signal::ctrl_c() => {
                progress.note("stopping; what is done already stays done");
                stop.cancel();
            }
        }
    }
}

async fn remote(args: Args, wish: Wish, context: &Context, progress: &Progress) -> Outcome<Report> {
    let client = args.remote.client(context)?;
    let mut answer = client.post("/v2/store/gc", &json!(wish)).await?;
    loop {
        let run = &answer["gc"];
        show(progress, run["progress"]["freed_bytes"].as_u64().unwrap_or(0));
        match run["status"].as_str() {
            Some("done") => {
                return serde_json::from_value(run["report"].clone())
                    .map_err(|e| Failure::Failed(format!("the server's answer is not understood: {e}")));
            }
            Some("queued" | "running") => {}
            _ => return Err(Failure::Failed(reason(run))),
        }
        let path = format!("/v2/store/gc/{}", run["id"]);
        tokio::time::sleep(LOOK_EVERY).await;
        answer = client.get(&path).await?;
    }
}

fn reason(run: &Value) -> String {
    match (run["error"].as_str(), run["status"].as_str()) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some("cancelled")) => "the run was cancelled; what it had freed stays freed".into(),
        _ => "the run was not done".into(),
    }
}

fn show(progress: &Progress, freed_bytes: u64) {
    if freed_bytes > 0 {
        progress.step("freed", None);
        progress.set(freed_bytes);
    }
}

fn text(report: &Report, wish: Wish) -> String {
    let bytes = output::bytes;
    if report.dry_run {
        return match report.condemned {
            0 => "Nothing would be freed.".into(),
            _ => format!(
                "About {} would be freed, in {} chunks that nothing needs.",
                bytes(report.condemned_bytes),
                report.condemned
            ),
        };
    }
    let mut lines = Vec::new();
    if report.purged > 0 {
        lines.push(format!(
            "Gave up {} deleted images that could still be restored.",
            report.purged
        ));
    }
    lines.push(match report.objects {
        0 => "Nothing was freed.".into(),
        1 => format!("Freed {} in 1 object.", bytes(report.freed_bytes)),
        count => format!("Freed {} in {count} objects.", bytes(report.freed_bytes)),
    });
    if report.repacked > 0 {
        lines.push(format!(
            "Wrote {} of {} packs that were mostly garbage anew.",
            bytes(report.repacked_bytes),
            report.repacked
        ));
    }
    if report.condemned > 0 && !wish.now {
        lines.push(format!(
            "Found {} more in {} chunks; a later run frees them, `cistern gc --now` at once.",
            bytes(report.condemned_bytes),
            report.condemned
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_and_what_comes_is_told() {
        let report = Report {
            condemned: 7,
            condemned_bytes: 7 << 20,
            objects: 2,
            freed_bytes: 3 << 20,
            purged: 1,
            ..Report::default()
        };
        let told = text(&report, Wish::default());
        for part in ["Gave up 1", "in 2 objects", "7 chunks", "--now"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let now = Wish {
            now: true,
            ..Wish::default()
        };
        assert!(!text(&report, now).contains("later run"));
        let dry = Report {
            dry_run: true,
            ..report
        };
        assert!(text(&dry, now).starts_with("About 7"), "{}", text(&dry, now));
        assert_eq!(text(&Report::default(), now), "Nothing was freed.");
    }
}
