//! `cistern store verify`: on a data folder, or by a server.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::json;
use store::VerifyProgress;

use super::{LOOK_EVERY, read};
use crate::app::App;
use crate::cli::client::Remote;
use crate::cli::output::counted as count;
use crate::cli::progress::Progress;
use crate::cli::{Context, Failure, LocalFlags, Outcome, output};
use crate::platform::error::Error;
use crate::platform::storage::mend::{is_mended, store_verify};
use crate::platform::storage::model::{Damage, Report};
use crate::platform::storage::service;

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

pub(super) async fn verify(args: VerifyArgs, context: &Context) -> Outcome {
    let is_local = args.local.is_local()?;
    let progress = Progress::new();
    let step = if args.read_data {
        "reading the store"
    } else {
        "looking through the store"
    };
    progress.step(step, None);
    let found = if is_local {
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
    Err(Failure::Failed(format!(
        "{count} damaged {what}; {}",
        next(&report.damage)
    )))
}

/// What helps against each kind of damage that there is.
fn next(damage: &[Damage]) -> String {
    let (mut mended, mut unneeded, mut needed) = (false, false, false);
    for damage in damage {
        match damage.kind.as_str() {
            "store" if is_mended(&damage.id) => mended = true,
            "store" => unneeded = true,
            _ => needed = true,
        }
    }
    let all = [
        (
            needed,
            "import the images again, which stores what is damaged anew, or bring it back from a copy of the store: `cistern \
             store heal COPY`",
        ),
        (unneeded, "what no image needs of it `cistern gc` removes"),
        (
            mended,
            "a server writes headers and journal anew by itself, and must not be stopped before where no header is left: let \
             it run for five minutes (or start it) and look again",
        ),
    ];
    let which = all
        .iter()
        .filter(|(is_there, _)| *is_there)
        .map(|(_, text)| *text);
    which.collect::<Vec<_>>().join("; ")
}

async fn verify_local(args: &VerifyArgs, context: &Context, progress: &Progress) -> Outcome<Report> {
    let config = args.local.config(context)?;
    let counters = VerifyProgress::default();
    let mut work = std::pin::pin!(async {
        if service::is_for_reading(&config) {
            return service::verify_for_reading(&config, args.read_data, &counters).await;
        }
        let app = App::open_existing(config).await?;
        // By a database of another time what is found says nothing.
        if let Some(sentence) = app.db.refusal() {
            return Err(Error::Precondition(sentence.to_owned()));
        }
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

fn report_text(report: &Report) -> String {
    let mut lines: Vec<String> = report
        .damage
        .iter()
        .map(|d| match d.to.checked_sub(1) {
            Some(last) => format!("{} {}: bytes {}-{last}: {}", d.kind, d.id, d.from, d.reason),
            // What is told is of no bytes: that something is not there.
            None => format!("{} {}: {}", d.kind, d.id, d.reason),
        })
        .collect();
    if report.more > 0 {
        lines.push(format!("and {} more", report.more));
    }
    if report.is_clean() {
        let how = if report.read_data {
            format!(" ({}): every byte was read.", output::bytes(report.bytes))
        } else {
            ": nothing is missing. What is in them was not read; --read-data reads it all.".to_owned()
        };
        let (disks, packs) = (count(report.roots, "disk"), count(report.packs, "pack"));
        lines.push(format!("No damage in {disks} and {packs}{how}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_damage_is_told_what_helps() {
        let damage = |kind: &str, id: &str| Damage {
            kind: kind.into(),
            id: id.into(),
            from: 0,
            to: 1,
            reason: String::new(),
        };
        let (image, pack) = (damage("image", "7"), damage("store", "p/00/x"));
        let header = damage("store", "h/00000001");
        assert!(next(std::slice::from_ref(&image)).starts_with("import the images again"));
        assert_eq!(
            next(std::slice::from_ref(&pack)),
            "what no image needs of it `cistern gc` removes"
        );
        let both = next(&[header.clone(), pack]);
        assert!(both.contains("gc` removes; a server writes headers"), "{both}");
        assert!(!next(&[header, image]).contains("gc"));
    }

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
        let nothing = Damage {
            from: 0,
            to: 0,
            reason: "only one".into(),
            ..report.damage[0].clone()
        };
        let report = Report {
            damage: vec![nothing],
            ..Report::default()
        };
        assert_eq!(report_text(&report), "image 7: only one");
    }

    #[test]
    fn a_clean_store_says_what_was_looked_at() {
        let report = Report {
            roots: 1,
            packs: 2,
            ..Report::default()
        };
        let text = report_text(&report);
        assert_eq!(
            text,
            "No damage in 1 disk and 2 packs: nothing is missing. What is in them was not read; --read-data reads it all."
        );
        let report = Report {
            read_data: true,
            bytes: 2048,
            ..report
        };
        let text = report_text(&report);
        assert!(text.contains("2 packs (2.0 KiB): every byte was read"), "{text}");
    }
}
