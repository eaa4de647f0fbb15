//! `cistern gc`: on a data folder with `--data`, otherwise through a server.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::{Value, json};
use store::gc::Progress as Counters;
use tokio_util::sync::CancellationToken;

use super::jobs::gc_run;
use super::model::{GivenUp, Report, Wish};
use crate::app::App;
use crate::cli::client::Remote;
use crate::cli::output::counted as count;
use crate::cli::progress::Progress;
use crate::cli::table::table;
use crate::cli::{Context, Failure, LocalFlags, Outcome, block_on, output};

/// How often it is looked how far a run is.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Flags of `gc`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cistern gc                        free what has been garbage for an hour\n  cistern gc \
                  --dry-run --purge     which deleted images would --purge give up, and what would that free?\n  cistern gc \
                  --now --purge --data DIR\n\n--purge ends the time to restore of every deleted image of every team. To give \
                  up only one of them:\n  cistern image delete ID --purge"
)]
pub struct Args {
    /// Do not wait: what is garbage now goes now
    #[arg(long)]
    now: bool,
    /// Also give up every deleted image that could still be restored; with --dry-run only list them
    #[arg(long)]
    purge: bool,
    /// Only say what would be given up and freed
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
    let is_local = args.local.is_local()?;
    let report = block_on(async {
        let progress = Progress::new();
        progress.step("looking for what nothing needs", None);
        let report = if is_local {
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

/// Why a run was not done, and what it had given up before that.
fn reason(run: &Value) -> String {
    let reason = match (run["error"].as_str(), run["status"].as_str()) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some("cancelled")) => "the run was cancelled; what it had freed stays freed".into(),
        _ => "the run was not done".into(),
    };
    match serde_json::from_value::<Report>(run["report"].clone()) {
        Ok(report) if report.purged > 0 && !report.dry_run => {
            format!("{}\n{reason}", given_up_text(&report))
        }
        _ => reason,
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
    let mut lines = Vec::new();
    if report.purged > 0 {
        lines.push(given_up_text(report));
    }
    if report.dry_run {
        lines.extend(dry_text(report, wish));
        lines.extend(damaged_text(report));
        lines.extend(writers_text(report));
        return lines.join("\n");
    }
    lines.push(match report.objects {
        0 => "Nothing was freed.".into(),
        1 => format!("Freed {} in 1 object.", bytes(report.freed_bytes)),
        count => format!("Freed {} in {count} objects.", bytes(report.freed_bytes)),
    });
    if report.repacked > 0 {
        lines.push(format!(
            "Wrote {} of {} anew that {} mostly garbage or in part damaged.",
            bytes(report.repacked_bytes),
            count(report.repacked, "pack"),
            if report.repacked == 1 { "was" } else { "were" }
        ));
    }
    if report.repacked > 0 {
        lines.push(match report.freed_bytes.checked_sub(report.repacked_bytes) {
            Some(less) => format!("Together the store takes {} less.", bytes(less)),
            None if wish.now => format!("Together the store takes {} more.", bytes(report.repacked_bytes - report.freed_bytes)),
            None => "The packs that this replaces are deleted by the next run, but for those that hold something damaged.".into(),
        });
    }
    lines.extend(no_room_text(report));
    if report.condemned > 0 && !wish.now {
        lines.push(format!(
            "Found {} more in {} chunks; a later run frees them, `cistern gc --now` at once.",
            bytes(report.condemned_bytes),
            report.condemned
        ));
    }
    lines.extend(damaged_text(report));
    lines.extend(writers_text(report));
    if report.garbage_bytes > 0 {
        lines.push(format!(
            "Garbage left in packs, in all: {}, as `cistern store stats` shows it.",
            bytes(report.garbage_bytes)
        ));
    }
    lines.join("\n")
}

/// What the same command would do without `--dry-run`, and what becomes free later.
fn dry_text(report: &Report, wish: Wish) -> Vec<String> {
    let bytes = output::bytes;
    let flags = [(wish.now, " --now"), (wish.purge, " --purge")];
    let flags: String = flags
        .iter()
        .filter(|(is_set, _)| *is_set)
        .map(|(_, flag)| *flag)
        .collect();
    let packs = format!(
        "write {} of {} anew",
        bytes(report.repacked_bytes),
        count(report.repacked, "pack")
    );
    let freed = format!(
        "free {} in {}",
        bytes(report.freed_bytes),
        count(report.objects, "object")
    );
    let does = match (report.objects, report.repacked) {
        (0, 0) => "free nothing".to_owned(),
        (_, 0) => freed,
        (0, _) => format!("{packs}; the run after it deletes what these replace"),
        _ => format!("{freed}, and {packs}"),
    };
    let mut lines = vec![format!("`cistern gc{flags}` would now {does}.")];
    let less = report.freed_bytes.saturating_sub(report.repacked_bytes);
    if !wish.now && report.later_bytes > less {
        lines.push(format!(
            "In the end the store would take {} less: at once with --now, otherwise `gc.grace_minutes` after a run has found what nothing \
             needs.",
            bytes(report.later_bytes)
        ));
    }
    if report.condemned > 0 {
        lines.push(format!(
            "Nothing needs {} in {}. What lies in packs that are mostly needed stays until less than `gc.repack_below_percent` of them \
             is.",
            bytes(report.condemned_bytes),
            count(report.condemned, "chunk")
        ));
    }
    lines
}

/// What stays for the sake of something damaged, and what helps.
fn damaged_text(report: &Report) -> Option<String> {
    (report.damaged_objects > 0).then(|| {
        format!(
            "{} in {} stay, because something damaged is in them that images need: `cistern store heal COPY` brings it back from a copy of the \
             store, or importing those images again stores it anew (`cistern store verify` names them). The run after that frees them.",
            output::bytes(report.damaged_bytes),
            count(report.damaged_objects, "object")
        )
    })
}

/// Who held a run back.
fn writers_text(report: &Report) -> Vec<String> {
    let at_work = (report.writers.at_work > 0).then(|| {
        format!(
            "{} at work, or cut off within the last minute: what was written since the first began is left to a run after their end.",
            count(report.writers.at_work, "import")
        )
    });
    let silent = report.writers.silent_text().map(|text| format!("{text}."));
    at_work.into_iter().chain(silent).collect()
}

/// What a run could not do for want of room, and what helps.
fn no_room_text(report: &Report) -> Option<String> {
    (report.no_room_bytes > 0).then(|| {
        format!(
            "There was no room to write packs anew that are mostly garbage, which frees what lies in them: at least {} more have to be \
             free. Add space, or give up images (`cistern image delete ID --purge`): packs that nothing needs any more are deleted \
             without that room. Then run `cistern gc --now` again.",
            output::bytes(report.no_room_bytes)
        )
    })
}

/// Which deleted images can be restored no more, or could not after a run that is no dry one.
fn given_up_text(report: &Report) -> String {
    let what = count(report.purged, "deleted image");
    let head = if report.dry_run {
        format!(
            "Would give up {what} that can still be restored (`cistern image delete ID --purge` gives up one):"
        )
    } else {
        format!("Gave up {what} that could still be restored:")
    };
    let more = report.purged.saturating_sub(report.given_up.len() as u64);
    let more = if more > 0 {
        format!("\nand {more} more")
    } else {
        String::new()
    };
    format!("{head}\n{}{more}", given_up_table(&report.given_up))
}

fn given_up_table(given_up: &[GivenUp]) -> String {
    let rows = given_up.iter().map(|one| {
        [
            one.id.to_string(),
            one.name.clone(),
            one.team.clone(),
            one.deleted_at.clone().unwrap_or_default(),
            one.restorable_until.clone().unwrap_or_default(),
            output::bytes(one.virtual_bytes),
            output::bytes(one.logical_bytes),
        ]
    });
    let header = [
        "ID>",
        "NAME",
        "TEAM",
        "DELETED",
        "RESTORABLE UNTIL",
        "DISK>",
        "DATA>",
    ];
    table(header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::storage::model::Writers;

    fn given_up() -> GivenUp {
        GivenUp {
            kind: "image".into(),
            id: 7,
            name: "web".into(),
            team: "Shop".into(),
            team_id: 1,
            deleted_at: Some("2026-01-02T03:04:05Z".into()),
            restorable_until: Some("2026-01-03T03:04:05Z".into()),
            virtual_bytes: 8 << 20,
            logical_bytes: 5 << 20,
        }
    }

    #[test]
    fn what_was_done_and_what_comes_is_told() {
        let report = Report {
            condemned: 7,
            condemned_bytes: 7 << 20,
            objects: 2,
            freed_bytes: 3 << 20,
            purged: 1,
            given_up: vec![given_up()],
            garbage_bytes: 9 << 20,
            damaged_objects: 2,
            damaged_bytes: 5 << 20,
            ..Report::default()
        };
        let told = text(&report, Wish::default());
        for part in [
            "5.0 MiB in 2 objects stay",
            "store heal COPY",
            "Gave up 1",
            "in 2 objects",
            "7 chunks",
            "--now",
            "left in packs, in all: 9.0 MiB",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let repacked = Report {
            repacked: 1,
            repacked_bytes: 1 << 20,
            ..report.clone()
        };
        let told = text(&repacked, Wish::default());
        assert!(told.contains("takes 2.0 MiB less"), "{told}");
        assert!(told.contains("of 1 pack anew that was mostly"), "{told}");
        let narrow = Report {
            no_room_bytes: 3 << 20,
            ..Report::default()
        };
        let told = text(&narrow, Wish::default());
        for part in ["Nothing was freed.", "no room", "3.0 MiB", "--purge"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let now = Wish {
            now: true,
            ..Wish::default()
        };
        assert!(!text(&report, now).contains("later run"));
        assert_eq!(text(&Report::default(), now), "Nothing was freed.");
        // What was replaced went in the same run.
        let even = Report {
            repacked: 1,
            repacked_bytes: 4 << 20,
            ..report
        };
        let told = text(&even, now);
        assert!(
            told.contains("takes 1.0 MiB more") && !told.contains("next run"),
            "{told}"
        );
    }

    #[test]
    fn a_dry_run_tells_what_the_same_command_would_do_and_what_comes_later() {
        let dry = Report {
            dry_run: true,
            condemned: 7,
            condemned_bytes: 7 << 20,
            later_bytes: 6 << 20,
            ..Report::default()
        };
        let told = text(&dry, Wish::default());
        assert!(
            told.starts_with("`cistern gc` would now free nothing.\n"),
            "{told}"
        );
        for part in ["would take 6.0 MiB less", "--now", "7.0 MiB in 7 chunks"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let freeing = Report {
            objects: 2,
            freed_bytes: 9 << 20,
            repacked: 1,
            repacked_bytes: 3 << 20,
            purged: 1,
            given_up: vec![given_up()],
            ..dry.clone()
        };
        let wish = Wish {
            now: true,
            purge: true,
            dry_run: true,
        };
        let told = text(&freeing, wish);
        for part in [
            "Would give up 1 deleted image ",
            "image delete ID --purge",
            "`cistern gc --now --purge` would now free 9.0 MiB in 2 objects, and write 3.0 MiB of 1 pack anew.",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!told.contains("In the end"), "{told}");
        let late = Report {
            objects: 0,
            freed_bytes: 0,
            ..freeing
        };
        assert!(text(&late, Wish::default()).contains("the run after it deletes"));
        let empty = Report {
            dry_run: true,
            ..Report::default()
        };
        assert_eq!(
            text(&empty, Wish::default()),
            "`cistern gc` would now free nothing."
        );
    }

    #[test]
    fn who_holds_a_run_back_is_told() {
        let writers = Writers {
            at_work: 2,
            silent: 1,
            silent_since: Some("2026-01-02T03:04:05Z".into()),
            silent_until: Some("2026-01-02T03:06:05Z".into()),
        };
        for dry_run in [false, true] {
            let report = Report {
                dry_run,
                writers: writers.clone(),
                ..Report::default()
            };
            let told = text(&report, Wish::default());
            for part in [
                "2 imports at work",
                "1 session of a server that has not been heard of since 2026-01-02T03:04:05Z holds",
                "until 2026-01-02T03:06:05Z",
            ] {
                assert!(told.contains(part), "{part}: {told}");
            }
        }
    }

    #[test]
    fn what_is_given_up_is_named_also_where_the_run_failed_later() {
        let report = Report {
            purged: 3,
            given_up: vec![given_up()],
            ..Report::default()
        };
        let failed = json!({ "status": "failed", "error": "no room", "report": report });
        for told in [text(&report, Wish::default()), reason(&failed)] {
            let line = told.lines().nth(2).unwrap_or_default();
            for part in ["7", "web", "Shop", "2026-01-02T03:04:05Z", "8.0 MiB", "5.0 MiB"] {
                assert!(line.contains(part), "{part}: {told}");
            }
            assert!(told.contains("and 2 more"), "{told}");
        }
        assert!(reason(&failed).ends_with("no room"));
    }
}
