//! `cistern store copy` and `cistern store heal`: a store into another place, and what is damaged back from there.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::json;
use store::{Copied, HealProgress, Healed};

use super::LOOK_EVERY;
use crate::app::{App, backend_open_at, backend_open_to_read, objects_shown};
use crate::cli::output::counted as count;
use crate::cli::progress::Progress;
use crate::cli::{Context, Failure, LocalFlags, Outcome, key_flags_named, output};
use crate::platform::error::chain_of;
use crate::platform::keys::cli::recovery_ask;
use crate::platform::keys::service::key_load;
use crate::platform::storage::mend::is_mended;
use crate::platform::storage::service;

/// Flags of `copy`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cistern store copy /var/lib/cistern/store 's3://bucket/cistern?endpoint=https://s3.example.com'\n  cistern \
                  store copy --read-back s3://bucket/cistern /backup/store\n\nThe keys to a bucket come from \
                  CISTERN_OBJECTS_ACCESS_KEY and CISTERN_OBJECTS_SECRET_KEY. A copy that was cut off, or made while a server wrote, is \
                  completed by the same command. A copy of an encrypted store needs one of its keys (--key-file, --key-command or --recovery-key), to check \
                  what it copies; the copy opens with the same keys. To move a service: copy, stop the server, copy again, start it with \
                  --objects DST. To bring what is damaged in a store back from its copy: cistern store heal."
)]
pub struct CopyArgs {
    /// The folder or bucket that holds the store
    src: String,
    /// The folder or bucket that it is copied to
    dst: String,
    /// Read everything at DST and compare, also what was there already (which is trusted unread otherwise), and replace
    /// what is damaged there. Reads all of SRC and all of DST: as long as a copy of everything takes
    #[arg(long)]
    read_back: bool,
    /// Open an encrypted store with the recovery key, which is asked for, or read from standard input
    #[arg(long, conflicts_with_all = ["key_file", "key_command"])]
    recovery_key: bool,
    #[command(flatten)]
    local: LocalFlags,
}

/// Flags of `heal`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cistern store heal /backup/store --data /var/lib/cistern\n  cistern store heal 's3://bucket/cistern?endpoint=https://s3.example.com' \
                  --data /var/lib/cistern\n\nReads every stored byte, as `store verify --read-data` does. What is damaged or missing, and nothing \
                  else, is taken from the copy, after it was verified there: pack by pack, and what the copy has in \
                  other packs, as gc wrote it anew since, chunk by chunk. The copy may be older than the store. A server may run meanwhile."
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
    apart_require(&args.src, &args.dst)?;
    let from = backend_open_to_read(&config, &args.src)?;
    let options = store::CopyOptions {
        read_back: args.read_back,
        key: if args.recovery_key {
            Some(recovery_ask()?)
        } else {
            key_load(&config).await?
        },
    };
    store::copy_check(&*from, &options)
        .await
        .map_err(|error| Failure::Failed(key_flags_named(&chain_of(&error))))?;
    // This makes a folder.
    let to = backend_open_at(&config, &args.dst)?;
    let (progress, counters) = (Progress::new(), store::CopyProgress::default());
    progress.step("copying", None);
    let copied = {
        let mut work = std::pin::pin!(store::copy(&from, &*to, &options, &counters));
        loop {
            tokio::select! {
                done = &mut work => break done,
                () = tokio::time::sleep(LOOK_EVERY) => progress.set(counters.bytes.load(Relaxed)),
            }
        }
    };
    progress.clear();
    let copied = copied.map_err(|error| {
        let goes_on = match counters.objects.load(Relaxed) {
            0 => "",
            _ => "; what was copied stays, and the same command goes on from there",
        };
        Failure::Failed(format!("{}{goes_on}", key_flags_named(&chain_of(&error))))
    })?;
    let told = json!({ "copy": {
        "objects": copied.objects, "bytes": copied.bytes, "present": copied.present, "replaced": copied.replaced,
        "gone": copied.gone, "extra": copied.extra, "unsettled": copied.unsettled, "damaged": copied.damaged,
        "superseded": copied.superseded, "foreign": copied.foreign.len(),
    } });
    context
        .output
        .document(&told, || copied_text(&copied, args.read_back));
    match failed_text(&copied) {
        None => Ok(()),
        Some(text) => Err(Failure::Failed(text)),
    }
}

const NO_JOURNAL: &str = "there is no journal at the source (j/): without it nothing brings the names of images, users and settings \
                          back from this copy. A server of the source writes it anew when it starts; then copy again";

/// Of a copy that never saw its source at rest.
const UNSETTLED: &str = "a server wrote all the while, and what gc moved meanwhile may be missing: copy once more, which goes \
                         on from here";

fn copied_text(copied: &Copied, is_read_back: bool) -> String {
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
        let gone = count(copied.gone, "object");
        let _ = write!(text, " {gone} went away meanwhile, as gc ran.");
    } else if copied.unsettled {
        let _ = write!(text, "\nNote: {UNSETTLED}.");
    }
    if copied.extra > 0 {
        let extra = count(copied.extra, "object");
        let _ = write!(
            text,
            "\nNote: the copy has {extra} that the source has not: gc freed them there, or they are lost. `cistern store \
             verify` at the source tells."
        );
    }
    text.push_str(&foreign_text(&copied.foreign));
    let is_whole = copied.damaged.is_empty() && copied.superseded.is_empty();
    if is_read_back && is_whole && copied.gone == 0 && !copied.unsettled {
        text.push_str(" Everything that the source has was read back from the copy, and is the same.");
    }
    if !copied.superseded.is_empty() {
        let _ = write!(
            text,
            "\nDamaged, and of no use any more, as a newer generation of the journal is whole: {}.",
            copied.superseded.join("; ")
        );
    }
    text
}

/// What was left out, as it is not the store's.
fn foreign_text(keys: &[String]) -> String {
    // Others gave them their names.
    let first = keys.first().map(|key| key.escape_debug());
    match (first, keys.len()) {
        (None, _) => String::new(),
        (Some(one), 1) => format!("\nNote: `{one}` at the source is not the store's, and was left out."),
        (Some(one), count) => format!(
            "\nNote: `{one}` and {} more at the source are not the store's, and were left out.",
            count - 1
        ),
    }
}

/// Why a copy is not what a copy should be, and what helps; none where it is.
fn failed_text(copied: &Copied) -> Option<String> {
    let wrong = [
        damaged_text(&copied.damaged),
        // Whatever has stored anything has a journal.
        (copied.journal == 0 && copied.data > 0).then(|| NO_JOURNAL.to_owned()),
        (copied.unsettled && copied.gone > 0).then(|| UNSETTLED.to_owned()),
    ];
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    (!wrong.is_empty()).then(|| wrong.join(". And "))
}

/// What is damaged or cannot be read at the source, and what helps there; none where nothing is.
fn damaged_text(damaged: &[String]) -> Option<String> {
    if damaged.is_empty() {
        return None;
    }
    let is_data = |told: &String| !is_mended(told);
    let mut text = format!(
        "damaged or unreadable at the source, or in doubt: {}",
        damaged.join("; ")
    );
    if damaged.iter().any(is_data) {
        text.push_str(
            ". All else is copied. `cistern store verify --read-data` there names the images: import them again, or bring them back \
             with `cistern store heal` from a copy that has them whole; then copy again",
        );
    }
    if !damaged.iter().all(is_data) {
        text.push_str(
            ". What is damaged of its headers (h/) and its journal (j/) a server of it writes anew, when it starts and when it runs \
             `cistern store verify --read-data`; then copy again",
        );
    }
    Some(text)
}

/// Of a place to read from; a bucket is asked when it is read.
fn folder_require(place: &str) -> Outcome {
    let path = Path::new(place);
    if !is_bucket(place) && !path.is_dir() {
        return Err(Failure::Failed(format!("there is no folder {place}")));
    }
    let below = path.join("store");
    if !is_bucket(place) && !path.join("h").is_dir() && below.join("h").is_dir() {
        let below = below.display();
        return Err(Failure::Failed(format!(
            "{place} holds no store; {below} does: name that"
        )));
    }
    Ok(())
}

fn is_bucket(place: &str) -> bool {
    place.contains("://")
}

/// Refuses a copy that would go with the store that it is of: in the same place, or one inside the other.
fn apart_require(store: &str, copy: &str) -> Outcome {
    let [of_store, of_copy] = [store, copy].map(whole_place);
    let is_inside = |inner: &str, outer: &str| inner.starts_with(outer);
    if of_store == of_copy || is_one_folder(store, copy) {
        return Err(Failure::Failed(format!(
            "{copy} is the store itself: a copy has to be in another place"
        )));
    }
    if is_inside(&of_store, &of_copy) || is_inside(&of_copy, &of_store) {
        return Err(Failure::Failed(format!(
            "{store} and {copy} lie one in the other: a copy has to be in a place of its own"
        )));
    }
    Ok(())
}

/// Whether two names are of one folder, as those of a bind mount are.
fn is_one_folder(one: &str, other: &str) -> bool {
    let id = |place: &str| {
        std::fs::metadata(place)
            .ok()
            .map(|found| (found.dev(), found.ino()))
    };
    !is_bucket(one) && !is_bucket(other) && id(one).is_some_and(|found| id(other) == Some(found))
}

/// A place by the one name that it has, ending with `/`: two buckets of one name at two endpoints differ at the front.
fn whole_place(place: &str) -> String {
    if is_bucket(place) {
        let (bucket, options) = place.split_once('?').unwrap_or((place, ""));
        return format!("{options} {}/", bucket.trim_end_matches('/'));
    }
    let whole = std::path::absolute(place).unwrap_or_else(|_| place.into());
    // Of what is not there yet, the part that is.
    let there = whole
        .ancestors()
        .find_map(|path| Some((path, path.canonicalize().ok()?)));
    let real = there.map(|(path, real)| match whole.strip_prefix(path) {
        Ok(rest) => real.join(rest),
        Err(_) => real,
    });
    format!(
        "{}/",
        real.unwrap_or(whole).display().to_string().trim_end_matches('/')
    )
}

/// Why a copy may lack what is damaged.
const ABSENT: &str = ". What was imported after the copy was made is not in it; what is older is, whatever gc has written anew since";

pub(super) async fn heal(args: HealArgs, context: &Context) -> Outcome {
    folder_require(&args.copy)?;
    let config = args.local.config(context)?;
    let place = args.local.shown(&config.data);
    apart_require(&objects_shown(&config), &args.copy)?;
    let app = App::open_existing(config).await?;
    let (progress, counters) = (Progress::new(), HealProgress::default());
    progress.step("reading the store", None);
    let healed = {
        let mut work = std::pin::pin!(service::heal_from(&app, &args.copy, &counters));
        loop {
            tokio::select! {
                done = &mut work => break done,
                () = tokio::time::sleep(LOOK_EVERY) => heal_show(&progress, &counters),
            }
        }
    };
    progress.clear();
    let healed = healed?;
    let told = json!({ "heal": {
        "objects": healed.objects, "bytes": healed.bytes, "chunks": healed.chunks, "chunk_bytes": healed.chunk_bytes,
        "lost": healed.lost, "left": healed.left, "damaged": healed.named,
    } });
    context.output.document(&told, || healed_text(&healed, &place));
    match lost_text(&healed) {
        None => Ok(()),
        Some(text) => Err(Failure::Failed(text)),
    }
}

fn heal_show(progress: &Progress, counters: &HealProgress) {
    match counters.copy_bytes.load(Relaxed) {
        0 => progress.set(counters.own.bytes.load(Relaxed)),
        bytes => {
            progress.step("looking through the packs of the copy", None);
            progress.set(bytes);
        }
    }
}

/// `place` are the flags that say where the installation is.
fn healed_text(healed: &Healed, place: &str) -> String {
    if healed.objects + healed.chunks + healed.lost == 0 {
        return "Nothing that an image needs is damaged.".to_owned();
    }
    let mut text = format!(
        "{} ({}) came back from the copy.",
        count(healed.objects, "object"),
        output::bytes(healed.bytes)
    );
    if healed.chunks > 0 {
        let _ = write!(
            text,
            " {} that the copy has in other packs were stored anew ({}).",
            count(healed.chunks, "chunk"),
            output::bytes(healed.chunk_bytes)
        );
    }
    // What came back whole took the place of what was damaged.
    let freed = match healed.chunks {
        0 => String::new(),
        _ => format!("\nNext: cistern gc {place}    frees what was damaged"),
    };
    if healed.objects + healed.chunks > 0 {
        let _ = write!(
            text,
            "{freed}\nNext: cistern store verify --read-data {place}    proves it"
        );
    }
    text
}

/// What stays lost, where anything does.
fn lost_text(healed: &Healed) -> Option<String> {
    if healed.lost == 0 {
        return None;
    }
    let mut text = format!(
        "{} that images need could not be healed",
        count(healed.lost, "chunk")
    );
    if healed.named.is_empty() {
        text.push_str(": no pack of the copy has them whole");
    } else {
        let _ = write!(
            text,
            ", in {}: {}",
            count(healed.left, "object"),
            healed.named.join("; ")
        );
    }
    text.push_str(
        ". `cistern store verify --read-data` names the images: import them again, or heal from another copy",
    );
    if healed.absent > 0 || healed.left == 0 {
        text.push_str(ABSENT);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_at_the_source_leads_to_what_helps_there() {
        assert_eq!(damaged_text(&[]), None);
        let of = |key: &str| damaged_text(&[format!("{key}: it is damaged")]).expect("a sentence");
        let (pack, journal) = (of("p/00/x"), of("j/00000001/0000000000000004"));
        assert!(
            pack.contains("names the images") && !pack.contains("writes anew"),
            "{pack}"
        );
        assert!(
            !journal.contains("names the images") && journal.contains("writes anew"),
            "{journal}"
        );
        assert!(of("h/00000001").contains("writes anew"));
        let copied = Copied {
            superseded: vec!["j/x: it is damaged".into()],
            ..Copied::default()
        };
        assert!(copied_text(&copied, false).contains("of no use any more"));
        assert!(!copied_text(&Copied::default(), false).contains("of no use"));
    }

    #[test]
    fn a_journal_that_is_missing_is_told_beside_damage_and_where_anything_is_stored() {
        let of = |data, journal, damaged: &[&str]| {
            failed_text(&Copied {
                data,
                journal,
                damaged: damaged.iter().map(ToString::to_string).collect(),
                ..Copied::default()
            })
        };
        assert_eq!(of(0, 0, &[]), None, "nothing was done with it yet");
        assert_eq!(of(1, 1, &[]), None);
        assert_eq!(of(1, 0, &[]).as_deref(), Some(NO_JOURNAL));
        let both = of(1, 0, &["p/00/x: it cannot be read"]).expect("a sentence");
        assert!(both.contains("p/00/x") && both.ends_with(NO_JOURNAL), "{both}");
    }

    #[test]
    fn one_folder_under_two_names_is_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name).display().to_string());
        std::fs::create_dir(&one).expect("makes");
        assert!(!is_one_folder(&one, &other), "the other is not there");
        std::os::unix::fs::symlink(&one, &other).expect("links");
        assert!(is_one_folder(&one, &other));
        assert!(!is_one_folder(&one, &dir.path().display().to_string()));
    }

    #[test]
    fn what_came_back_and_what_stays_lost_is_told() {
        assert_eq!(
            healed_text(&Healed::default(), "--data d"),
            "Nothing that an image needs is damaged."
        );
        let mut healed = Healed {
            objects: 1,
            bytes: 2048,
            chunks: 3,
            chunk_bytes: 4096,
            ..Healed::default()
        };
        assert_eq!(lost_text(&healed), None);
        let text = healed_text(&healed, "--data d");
        assert!(
            text.contains("\nNext: cistern gc --data d ")
                && text.contains("\nNext: cistern store verify --read-data --data d "),
            "{text}"
        );
        assert!(text.starts_with("1 object (2.0 KiB) came back"), "{text}");
        assert!(
            text.contains(" 3 chunks that the copy has in other packs"),
            "{text}"
        );
        healed.lost = 1;
        let text = lost_text(&healed).expect("something is lost");
        assert!(
            text.starts_with("1 chunk that images need could not be healed: no pack"),
            "{text}"
        );
        assert!(text.contains("imported after the copy was made"), "{text}");
        healed.left = 1;
        healed.named = vec!["p/00/x: it is damaged in the copy too (bits)".into()];
        let text = lost_text(&healed).expect("something is lost");
        assert!(
            text.contains(", in 1 object: p/00/x: it is damaged in the copy too (bits). "),
            "{text}"
        );
        assert!(!text.contains("imported after the copy was made"), "{text}");
    }
}
