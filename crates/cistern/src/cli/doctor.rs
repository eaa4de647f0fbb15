//! `cistern doctor`: what is missing on this machine, and what to do about it.
//!
//! Nothing is changed: the database is not migrated, and a probe that is written to the objects is removed again.

mod database;
mod space;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use serde::Serialize;
use store::scrub::Health;
use store::{Store, WrappingKey};

use super::flags::ServerFlags;
use super::output::counted;
use super::{Context, Failure, Outcome, block_on, key_flags_named};
use crate::app;
use crate::config::{Config, Database, Objects};
use crate::platform::clock::{Clock, Time, wire};
use crate::platform::db::{Db, migrate, sqlite};
use crate::platform::error::{Error, Result, chain_of};
use crate::platform::keys::service::key_load;
use crate::platform::random;
use crate::serve::{files_limit, files_shortage};

/// 2026-01-01, before which no clock can be right.
const CLOCK_MIN: i64 = 1_767_225_600;
/// How long the objects' place may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The check of the objects' place.
const OBJECTS: &str = "objects";
/// The check of what is stored there.
const DATA: &str = "stored data";

/// Flags of `doctor`: those of `serve`, whose settings it checks.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cistern doctor --data /var/lib/cistern\n  cistern doctor --json")]
pub struct Args {
    #[command(flatten)]
    flags: ServerFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    text: String,
}

/// Looks at everything; exit code 1 where something must be mended.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let config = args.flags.load(context)?.config;
    let place = args.flags.shown_for_local(&config.data);
    let checks = block_on(async move { Ok(all(&config, &place).await) })?;
    let failed = checks.iter().filter(|c| c.state == State::Failed).count();
    let document = serde_json::json!({ "ok": failed == 0, "checks": checks });
    context.output.document(&document, || text(&checks, context));
    match failed {
        0 => Ok(()),
        1 => Err(Failure::Failed("one check failed; it says what to do".into())),
        n => Err(Failure::Failed(format!(
            "{n} checks failed; each says what to do"
        ))),
    }
}

fn text(checks: &[Check], context: &Context) -> String {
    let lines = checks.iter().map(|check| {
        let mark = match check.state {
            State::Ok => context.output.colored(32, "ok     "),
            State::Warning => context.output.colored(33, "warning"),
            State::Failed => context.output.colored(31, "FAILED "),
        };
        format!("{mark}  {:<12}  {}", check.name, check.text)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// `place` are the flags that say where the installation is.
async fn all(config: &Config, place: &str) -> Vec<Check> {
    let mut checks = vec![folder(&config.data), file_system(config)];
    checks.extend(space::checks(config));
    checks.extend(database::checks(config).await);
    if let Some(lost) = store_lost(config).await {
        checks.push(lost);
    } else {
        checks.push(objects(config).await);
        checks.extend(store_checks(config, place).await);
    }
    let is_running = is_running(&config.data);
    checks.push(port("port api", "listen-api", config.listen_api, is_running));
    if !config.one_port() {
        checks.push(port(
            "port registry",
            "listen-registry",
            config.listen_registry,
            is_running,
        ));
    }
    checks.extend([clock(), sandbox(), open_files(config)]);
    checks
}

fn ok(name: &'static str, text: impl Into<String>) -> Check {
    Check {
        name,
        state: State::Ok,
        text: text.into(),
    }
}

fn warning(name: &'static str, text: impl Into<String>) -> Check {
    Check {
        name,
        state: State::Warning,
        text: text.into(),
    }
}

fn failed(name: &'static str, text: impl Into<String>) -> Check {
    Check {
        name,
        state: State::Failed,
        text: text.into(),
    }
}

/// The folder itself, or the nearest one above it that exists.
fn nearest(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = absolute.ancestors().find(|p| p.is_dir());
    found.unwrap_or(Path::new("/")).to_owned()
}

/// Whether a file can be written there; it is removed again.
fn probe(dir: &Path) -> std::io::Result<()> {
    tempfile::Builder::new()
        .prefix(".doctor-")
        .tempfile_in(dir)?
        .close()
}

fn folder(data: &Path) -> Check {
    let shown = data.display();
    let place = nearest(data);
    if let Err(error) = probe(&place) {
        return failed(
            "data folder",
            format!(
                "{} cannot be written ({error}); run as its owner",
                place.display()
            ),
        );
    }
    match fs::metadata(data) {
        Err(_) => ok("data folder", format!("{shown} is not there yet and can be made")),
        Ok(meta) if !meta.is_dir() => failed(
            "data folder",
            format!("{shown} is a file, not a folder; give another place with --data"),
        ),
        Ok(meta) if meta.permissions().mode().trailing_zeros() < 6 => warning(
            "data folder",
            format!("{shown} is open to other users; chmod 700 {shown}"),
        ),
        Ok(_) => ok(
            "data folder",
            format!("{shown} is writable and closed to other users"),
        ),
    }
}

fn file_system(config: &Config) -> Check {
    let Database::Sqlite(path) = config.database() else {
        return ok("file system", "the database is not in a file here");
    };
    let place = nearest(&sqlite::real_folder(&path));
    match store::folder::filesystem_kind(&place) {
        Err(error) => warning(
            "file system",
            format!("{} cannot be looked at: {error}", place.display()),
        ),
        Ok(kind) => match kind.database_refusal(&path) {
            Some(refusal) => failed("file system", refusal),
            None => ok(
                "file system",
                format!("{} is on a local file system", place.display()),
            ),
        },
    }
}

/// The place where the store should be that the database knows, and that holds none, or no headers.
async fn store_lost(config: &Config) -> Option<Check> {
    let db = db_known(config).await?;
    let lost = async {
        if app::store_is_there(config).await.ok()? {
            return None;
        }
        let backend = app::backend_open(config).ok()?;
        // Which says what is missing before it asks for a key.
        let opened = Store::open(backend, db.conn(), store::Options::default()).await;
        opened.err().map(|error| failed(OBJECTS, chain_of(&error)))
    };
    // A place that does not answer is told where it is written to.
    tokio::time::timeout(PATIENCE, lost).await.ok().flatten()
}

async fn objects(config: &Config) -> Check {
    if let Objects::Folder(path) = config.objects()
        && !path.join("h").is_dir()
    {
        // The first start makes the store.
        let (place, shown) = (nearest(&path), path.display());
        return match probe(&place) {
            Ok(()) if path.is_dir() => ok(OBJECTS, format!("{shown} holds no store yet, and can be written")),
            Ok(()) => ok(OBJECTS, format!("{shown} is not there yet and can be made")),
            Err(error) => failed(OBJECTS, format!("{} cannot be written: {error}", place.display())),
        };
    }
    match tokio::time::timeout(PATIENCE, objects_probe(config)).await {
        Ok(Ok(place)) => ok(
            OBJECTS,
            format!("{place} takes an object, gives it back and forgets it"),
        ),
        Ok(Err(error)) => failed(OBJECTS, format!("a probe object failed: {}", error.chain())),
        Err(_) => failed(
            OBJECTS,
            format!("no answer within {} seconds", PATIENCE.as_secs()),
        ),
    }
}

/// Whether the store opens, with the key that the settings name, as it would at a start: its header is whole, and the
/// key is one of its keys.
async fn store_checks(config: &Config, place: &str) -> Vec<Check> {
    const NAME: &str = "store key";
    let key = match key_load(config).await {
        Ok(key) => key,
        Err(error) => return vec![failed(NAME, error.chain())],
    };
    let kind = key.as_ref().map(|key| key.kind().name());
    let opened = tokio::time::timeout(PATIENCE, store_open(config, key)).await;
    let no_answer = || format!("the store gave no answer within {} seconds", PATIENCE.as_secs());
    let (store, db) = match (opened.unwrap_or_else(|_| Err(no_answer())), kind) {
        (Err(error), _) => return vec![failed(NAME, error)],
        (Ok(Some(opened)), _) => opened,
        (Ok(None), Some(kind)) => {
            let text = format!("can be read ({kind}); there is no store yet that it could be tried on");
            return vec![ok(NAME, text)];
        }
        (Ok(None), None) => return Vec::new(),
    };
    let key = match kind {
        Some(kind) if store.is_encrypted() => ok(NAME, format!("it opens the store ({kind})")),
        _ => ok(NAME, "the store opens; it is not encrypted and needs none"),
    };
    vec![
        key,
        headers(&store).await,
        database::age(place, &db, &store).await,
        data_read(config, place, &store).await,
    ]
}

/// Whether both copies of the store's header are whole. With one of them everything goes on, and a server writes the
/// other anew.
async fn headers(store: &Store) -> Check {
    const NAME: &str = "store header";
    match tokio::time::timeout(PATIENCE, store.headers_verify()).await {
        Ok(Ok(found)) if found.is_empty() => ok(NAME, "it is there twice, and both are whole"),
        Ok(Ok(found)) => {
            let reasons: Vec<&str> = found.iter().map(|damage| damage.reason.as_str()).collect();
            warning(
                NAME,
                format!(
                    "{}; the other one is whole, and a server writes what is damaged or missing anew when it starts, and every five minutes",
                    reasons.join("; ")
                ),
            )
        }
        Ok(Err(error)) => failed(NAME, chain_of(&error)),
        Err(_) => failed(NAME, format!("no answer within {} seconds", PATIENCE.as_secs())),
    }
}

/// Since when everything that is stored was read, and whether something is known to be damaged.
async fn data_read(config: &Config, place: &str, store: &Store) -> Check {
    match store.health().await {
        Ok(health) => data_check(health, Clock::default().now(), config.scrub.every_days, place),
        Err(error) => warning(DATA, format!("it is not known how it is: {}", chain_of(&error))),
    }
}

fn data_check(health: Health, now: Time, every_days: u32, place: &str) -> Check {
    let is_ahead = health.is_ahead(now.timestamp_micros());
    let read = if is_ahead {
        ahead_text(now, every_days)
    } else {
        read_text(health.oldest_us, every_days)
    };
    match health.damaged_roots {
        0 if is_ahead => warning(DATA, format!("{read}; no damage is known")),
        0 => ok(DATA, format!("{read}; no damage is known")),
        _ => failed(
            DATA,
            format!(
                "{read}; {} known to be damaged: `cistern store verify --read-data {place}` names them, and what brings them back",
                counted(health.damaged_roots, "image")
            ),
        ),
    }
}

/// That it is not known when all of it was read, and what finds that out.
fn ahead_text(now: Time, every_days: u32) -> String {
    let now = wire(now);
    let read = format!(
        "some of it is noted as read at a time that is still to come: the clock, which says {now}, is wrong or was then"
    );
    if every_days == 0 {
        return format!(
            "{read}; the scrub is off (`scrub.every_days`): `cistern store verify --read-data` reads it again"
        );
    }
    format!("{read}; if it is right now, the scrub reads that again while a server runs")
}

/// Since when everything was read, and when the scrub reads it again. What an index that was made anew names was read
/// at 0.
fn read_text(oldest_us: Option<i64>, every_days: u32) -> String {
    let Some(oldest_us) = oldest_us else {
        return "nothing is stored yet".to_owned();
    };
    let is_read = oldest_us > 0;
    let oldest = DateTime::from_timestamp_micros(oldest_us).unwrap_or_default();
    let read = if is_read {
        format!("all of it was read since {}", wire(oldest))
    } else {
        "not all of it was read since the index of chunks was made anew, as by a recovery".to_owned()
    };
    if every_days == 0 {
        return format!(
            "{read}, and the scrub is off (`scrub.every_days`): `cistern store verify --read-data` reads it"
        );
    }
    let days = TimeDelta::try_days(every_days.into());
    match days.and_then(|days| oldest.checked_add_signed(days)) {
        Some(due) if is_read => format!("{read}; the scrub reads it again from {} on", wire(due)),
        _ => format!("{read}; the scrub is due and reads it while a server runs"),
    }
}

/// The database, where it can be read, has the tables of this program, and knows a store.
async fn db_known(config: &Config) -> Option<Db> {
    if matches!(config.database(), Database::Sqlite(path) if !path.exists()) {
        return None;
    }
    let db = Db::open_to_look(&app::place(config)).await.ok()?;
    let is_known =
        matches!(migrate::is_current(&db).await, Ok(true)) && matches!(db.has_whole_store().await, Ok(true));
    is_known.then_some(db)
}

/// Opens the store, for which its database is needed; none where the first start or an upgrade is still to come, or
/// where another check says why it cannot be opened. Changes nothing.
async fn store_open(config: &Config, key: Option<WrappingKey>) -> Result<Option<(Store, Db)>, String> {
    let Some(db) = db_known(config).await else {
        return Ok(None);
    };
    let backend = app::backend_open(config).map_err(|error| error.chain())?;
    let options = store::Options {
        key,
        ..store::Options::default()
    };
    let opened = Store::open(backend, db.conn(), options).await;
    opened
        .map(|store| Some((store, db)))
        .map_err(|error| key_flags_named(&chain_of(&error)))
}

/// Writes, reads and removes one small object; returns the place's name.
async fn objects_probe(config: &Config) -> Result<String> {
    let backend = app::backend_open(config)?;
    let key = format!("probe/doctor-{}", random::uuid().simple());
    let content = bytes::Bytes::from_static(b"cistern doctor");
    backend.put_new(&key, content.clone()).await?;
    let read = backend.get(&key).await;
    backend.delete(&key).await?;
    if read? != content {
        return Err(Error::bug("what was read is not what was written"));
    }
    Ok(backend.describe())
}

/// Whether a server holds this folder. Asking takes the lock for a moment, which a starting server would notice, so
/// it is asked only where there is a lock file.
fn is_running(data: &Path) -> bool {
    let Ok(file) = fs::File::open(data.join("cistern.lock")) else {
        return false;
    };
    matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
}

fn port(name: &'static str, flag: &str, address: SocketAddr, is_running: bool) -> Check {
    match TcpListener::bind(address) {
        Ok(_) => ok(name, format!("{address} is free")),
        Err(_) if is_running => ok(name, format!("{address} is in use, by the server that runs here")),
        Err(error) => failed(
            name,
            format!("{address} cannot be used: {error}; choose another with --{flag}"),
        ),
    }
}

fn clock() -> Check {
    let now = Clock::default().now();
    if now.timestamp() < CLOCK_MIN {
        return failed(
            "clock",
            format!("it says {now}, which cannot be; set it, or TLS and expiry will fail"),
        );
    }
    ok("clock", format!("it says {}", wire(now)))
}

fn sandbox() -> Check {
    const NAME: &str = "sandbox";
    let landlock = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::ReadFile)
        .and_then(Ruleset::create);
    let seccomp = fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nSeccomp:"));
    match (landlock.is_ok(), seccomp) {
        (true, true) => ok(
            NAME,
            "landlock and seccomp are there for reading foreign disk images",
        ),
        (false, true) => warning(
            NAME,
            "no landlock in this kernel (5.13 or newer has it); seccomp alone guards",
        ),
        (_, false) => failed(
            NAME,
            "no seccomp in this kernel; foreign disk images cannot be read safely",
        ),
    }
}

fn open_files(config: &Config) -> Check {
    const NAME: &str = "open files";
    let limit = files_limit();
    match (files_shortage(config, limit), limit) {
        (Some(shortage), _) => warning(NAME, shortage),
        (None, Some(max)) => ok(NAME, format!("up to {max}")),
        (None, None) => ok(NAME, "no limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_is_said_to_have_been_read_in_time_to_come_is_not_fine() {
        let now = Clock::default().now();
        let at = |days| Some((now + TimeDelta::days(days)).timestamp_micros());
        let check = |oldest_us, newest_us| {
            let health = Health {
                oldest_us,
                newest_us,
                ..Health::default()
            };
            data_check(health, now, 30, "--data d")
        };
        assert_eq!(check(None, None).state, State::Ok);
        assert_eq!(check(at(-29), at(0)).state, State::Ok);
        for oldest in [at(-29), at(365)] {
            let found = check(oldest, at(365));
            assert_eq!(found.state, State::Warning);
            assert!(found.text.contains("still to come"), "{}", found.text);
        }
    }
}
