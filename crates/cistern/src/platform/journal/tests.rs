//! The journal against real databases: which tables there are, what a history of changes leads to, and what is lost
//! when something is lost.

use std::path::Path;
use std::sync::Arc;

use chrono::TimeDelta;
use proptest::prelude::*;
use sea_orm::ConnectionTrait as _;
use store::gc::Progress;
use store::{Backend, Fault, Faulty, Folder, HealProgress, JournalPlace};
use tokio_util::sync::CancellationToken;

use super::model::Entry;
use super::tables::{DERIVABLE, JOURNALED};
use super::{Options, Recovered, flush, guard, recover, rows, run, service};
use crate::app::{self, App};
use crate::config::{Config, Secret};
use crate::platform::db::{Db, Place, migrate};
use crate::platform::error::{Error, Result};
use crate::platform::random;
use crate::platform::storage::gc::jobs::gc_run;
use crate::platform::storage::gc::model::Wish;
use crate::platform::storage::mend::look_due;
use crate::platform::storage::service::heal_from;

/// An installation whose objects lie beside its data folder, and can be made to fail.
struct Case {
    dir: tempfile::TempDir,
    backend: Arc<Faulty>,
    config: Config,
    app: App,
}

impl Case {
    async fn new(fault: Fault) -> Self {
        Self::on(fault, None).await
    }

    async fn on(fault: Fault, database: Option<String>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::open(&dir.path().join("objects")).expect("a folder");
        let backend = Arc::new(Faulty::new(Arc::new(folder), fault, 0));
        let config = Config {
            database: database.map(Secret::new),
            objects: Some(dir.path().join("objects").display().to_string()),
            ..Config::for_data(dir.path().join("data"))
        };
        let app = open(&config, &backend).await;
        Self {
            dir,
            backend,
            config,
            app,
        }
    }

    async fn sql(&self, sql: &str) {
        let done = self.app.db.conn().execute_unprepared(sql).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// What a process that is started again finds.
    async fn start_again(&mut self) {
        self.app = open(&self.config, &self.backend).await;
    }

    /// A new installation from the objects alone.
    async fn recovered(&self) -> (Recovered, Vec<Entry>) {
        let (report, db) = self.recovered_db().await;
        let rows = all_rows(&db).await;
        (report, rows)
    }

    async fn recovered_db(&self) -> (Recovered, Db) {
        let data = self.dir.path().join(format!("new-{}", random::uuid()));
        std::fs::create_dir(&data).expect("a folder");
        let config = Config {
            database: None,
            objects: self.config.objects.clone(),
            ..Config::for_data(data)
        };
        let report = recover(&config, Options::default(), &|_| ())
            .await
            .expect("recovers");
        let db = Db::open(&app::place(&config), 1).await.expect("opens");
        (report, db)
    }

    fn objects(&self) -> Vec<std::path::PathBuf> {
        files(&self.dir.path().join("objects/j"))
    }
}

async fn open(config: &Config, backend: &Arc<Faulty>) -> App {
    let backend: Arc<dyn Backend> = Arc::<Faulty>::clone(backend);
    app::tests::app_on(config.clone(), backend).await.expect("opens")
}

/// The files below a folder, in the order of their names.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            out.extend(files(&path));
        } else {
            out.push(path);
        }
    }
    out.sort();
    out
}

/// Every journaled row, without what is quiet.
async fn all_rows(db: &Db) -> Vec<Entry> {
    let mut out = Vec::new();
    for table in JOURNALED {
        let columns = rows::columns(db.conn(), table.name).await.expect("columns");
        let page = rows::rows_page(db.conn(), table, &columns, None, 100_000).await;
        for mut entry in page.expect("rows") {
            if let Some(row) = &mut entry.row {
                row.retain(|name, _| !table.quiet.contains(&name.as_str()));
            }
            out.push(entry);
        }
    }
    out
}

/// A PostgreSQL schema of one's own, where this run has a server.
async fn postgres() -> Option<String> {
    let Some((_, url)) = std::env::vars().find(|(name, _)| name == "CISTERN_TEST_POSTGRES") else {
        eprintln!("skipped on PostgreSQL: CISTERN_TEST_POSTGRES is not set");
        return None;
    };
    let schema = format!("journal_{}", random::uuid().simple());
    let admin = Db::open(&Place::Postgres(url.clone()), 1)
        .await
        .expect("connects");
    let made = admin
        .conn()
        .execute_unprepared(&format!("CREATE SCHEMA {schema}"))
        .await;
    made.expect("a schema");
    Some(format!("{url}?options=-c%20search_path%3D{schema}"))
}

/// A migrated database of each kind that this run has.
async fn databases() -> Vec<(Db, Option<tempfile::TempDir>)> {
    let (db, dir) = crate::platform::db::tests::fresh().await;
    let mut all = vec![(db, Some(dir))];
    if let Some(url) = postgres().await {
        let db = Db::open(&Place::Postgres(url), 4).await.expect("connects");
        migrate::run(&db, None).await.expect("migrates");
        all.push((db, None));
    }
    all
}

#[tokio::test]
async fn every_table_is_journaled_or_said_to_be_derivable_and_no_other_is_named() {
    for (db, _dir) in databases().await {
        let mut there = rows::tables_of(db.conn()).await.expect("tables");
        let mut named: Vec<String> = JOURNALED.iter().map(|table| table.name.to_owned()).collect();
        named.extend(DERIVABLE.iter().map(|(name, _)| (*name).to_owned()));
        there.sort();
        named.sort();
        assert_eq!(
            there, named,
            "a new table belongs into one of the two lists of platform/journal/tables.rs"
        );
    }
}

#[tokio::test]
async fn every_journaled_table_notes_its_changes_by_its_whole_key() {
    for (db, _dir) in databases().await {
        let triggers = rows::triggers_of(db.conn()).await.expect("triggers");
        for table in JOURNALED {
            let of_it = triggers.iter().filter(|name| *name == table.name).count();
            assert_eq!(of_it, if db.is_sqlite() { 3 } else { 1 }, "{}", table.name);
            let columns = rows::columns(db.conn(), table.name).await.expect("columns");
            for name in table.key.iter().chain(table.quiet) {
                assert!(
                    columns.names().any(|column| column == *name),
                    "{}.{name}",
                    table.name
                );
            }
        }
        let keys = rows::primary_keys(db.conn()).await.expect("keys");
        for table in JOURNALED {
            let mut key: Vec<&str> = table.key.to_vec();
            key.sort_unstable();
            assert_eq!(keys[table.name], key, "{}", table.name);
        }
    }
}

const T: &str = "'2026-01-02 03:04:05.678901+00:00'";

/// One change of a history.
#[derive(Clone, Debug)]
enum Step {
    Sql(Vec<String>),
    RolledBack(String),
    Flush,
    Dump,
    /// The next call to the store's place fails.
    Fault(u64),
    StartAgain,
}

fn step() -> impl Strategy<Value = Step> {
    (0..17_u8, 1..6_i64, 1..6_i64).prop_map(|(what, a, b)| {
        let one = |sql: String| Step::Sql(vec![sql]);
        let image = format!(
            "INSERT INTO image (id, team_id, listing, kind, name, distribution, public, description, status, regions, \
             size_gigabytes, warnings, protected, kept_tags, created_at, purge_at) VALUES ({a}, {b}, {b}, 'custom', 'i{b}', \
             'Debian', FALSE, 'ü\u{1f980}', 'available', '[\"nyc3\"]', 0.{b}3, '[]', TRUE, '{{\"x\": [1, null]}}', {T}, NULL) \
             ON CONFLICT DO NOTHING"
        );
        match what {
            0 => one(format!(
                "INSERT INTO team (id, uuid, name, created_at) VALUES ({a}, 'u{a}', 'n{b}', {T}) ON CONFLICT DO NOTHING"
            )),
            1 => one(format!("UPDATE team SET name = 'renamed {a}' WHERE id = {a}")),
            2 => one(format!(
                "INSERT INTO tag (id, team_id, name, name_key, created_at) VALUES ({a}, 1, 'T{b}', 't{b}', {T}) \
                 ON CONFLICT DO NOTHING"
            )),
            3 => one(format!("DELETE FROM tag WHERE id = {a}")),
            4 => one(format!(
                "INSERT INTO tag_link (tag_id, resource_type, resource_id, tagged_at) SELECT id, 'image', '{b}', {T} \
                 FROM tag WHERE id = {a} ON CONFLICT DO NOTHING"
            )),
            5 | 6 => one(image),
            7 => one(format!("DELETE FROM image WHERE id = {a}")),
            // Two names change places: at no moment may both be the same.
            8 => Step::Sql(vec![
                format!("UPDATE tag SET name_key = 'swap' WHERE id = {a}"),
                format!("UPDATE tag SET name_key = 't{a}{b}' WHERE id = {b}"),
                format!("UPDATE tag SET name_key = 't{b}{a}{a}' WHERE id = {a}"),
            ]),
            9 => one(format!(
                "INSERT INTO store_root (store, kind, owner, domain, digest, level, virtual_bytes, allocated_bytes, epoch, \
                 created_us) VALUES (1, 'test', 'o''{a}', 0, {}, 1, {b}, 0, {b}, 5) ON CONFLICT DO NOTHING",
                "x'00ff10'"
            )),
            10 => one(format!("DELETE FROM store_root WHERE owner = 'o''{a}'")),
            11 => Step::RolledBack(format!("UPDATE team SET name = 'never' WHERE id = {a}")),
            12 => Step::Flush,
            13 => Step::Dump,
            14 => Step::Fault(a.cast_unsigned()),
            15 => one(format!("UPDATE OR IGNORE store_root SET owner = 'o''{b}' WHERE owner = 'o''{a}'")),
            _ => Step::StartAgain,
        }
    })
}

async fn take(case: &mut Case, step: Step) {
    match step {
        Step::Sql(all) => {
            for sql in all {
                case.sql(&sql).await;
            }
        }
        Step::RolledBack(sql) => {
            let tx = case.app.db.write().await.expect("a transaction");
            tx.execute_unprepared(&sql).await.expect("is fine");
        }
        Step::Flush => drop(flush(&case.app).await),
        Step::Dump => drop(service::dump(&case.app).await),
        Step::Fault(n) => case.backend.rearm(n),
        Step::StartAgain => {
            case.backend.rearm(0);
            case.start_again().await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    /// Whatever happened, what was flushed in the end is what comes back.
    #[test]
    fn any_history_leads_to_the_same_rows(
        steps in prop::collection::vec(step(), 1..40),
        fault in prop::sample::select(vec![Fault::Unavailable, Fault::AnswerLost, Fault::NoSpace]),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
        runtime.block_on(async {
            let mut case = Case::new(fault).await;
            // Without a change there is no journal.
            case.sql(&format!("INSERT INTO team (id, uuid, name, created_at) VALUES (99, 'u', 'n', {T})")).await;
            for step in steps {
                take(&mut case, step).await;
            }
            case.backend.rearm(0);
            flush(&case.app).await.expect("nothing fails any more");
            let (report, rows) = case.recovered().await;
            assert_eq!(report.gaps, []);
            assert_eq!(rows, all_rows(&case.app.db).await);
        });
    }
}

/// A few teams, so that there is something to journal.
async fn teams(case: &Case, ids: std::ops::Range<i64>) {
    for id in ids {
        let sql =
            format!("INSERT INTO team (id, uuid, name, created_at) VALUES ({id}, 'u{id}', 'n{id}', {T})");
        case.sql(&sql).await;
    }
}

fn ids(rows: &[Entry], table: &str) -> Vec<i64> {
    let of_table = rows.iter().filter(|entry| entry.table == table);
    of_table
        .map(|entry| entry.key[0].as_i64().expect("a number"))
        .collect()
}

#[tokio::test]
async fn a_crash_between_any_two_steps_of_a_write_loses_nothing_and_repeats_no_key() {
    for is_dump in [false, true] {
        for fault in [Fault::Unavailable, Fault::AnswerLost] {
            let mut case = Case::new(fault).await;
            teams(&case, 1..3).await;
            flush(&case.app).await.expect("flushes");
            let before = all_rows(&case.app.db).await;
            teams(&case, 3..5).await;
            // The intent is committed; the object is not written, or is and nobody knows. Before it is looked whether
            // the last object is there, and the header.
            case.backend.rearm(0);
            case.app.store.header_check().await.expect("is there");
            case.backend.rearm(1 + case.backend.calls() + 1);
            let failed = if is_dump {
                service::dump(&case.app).await
            } else {
                flush(&case.app).await
            };
            failed.expect_err("the write fails");
            let now = all_rows(&case.app.db).await;
            let (report, rows) = case.recovered_aside().await;
            assert_eq!(report.gaps, [], "{fault:?}");
            assert_eq!(
                rows,
                if fault == Fault::AnswerLost { now } else { before },
                "{fault:?} {is_dump}"
            );

            case.start_again().await;
            case.sql("DELETE FROM team WHERE id = 4").await;
            flush(&case.app).await.expect("goes on");
            let (report, rows) = case.recovered().await;
            assert_eq!(
                (report.gaps, ids(&rows, "team")),
                (vec![], vec![1, 2, 3]),
                "{fault:?} {is_dump}"
            );
        }
    }
}

impl Case {
    /// The same as [`Case::recovered`] from a copy of the objects: a recovery writes to them.
    async fn recovered_aside(&self) -> (Recovered, Vec<Entry>) {
        let to = self.dir.path().join(format!("copy-{}", random::uuid()));
        let from = self.dir.path().join("objects");
        for file in files(&from) {
            let name = to.join(file.strip_prefix(&from).expect("below it"));
            std::fs::create_dir_all(name.parent().expect("a folder")).expect("a folder");
            std::fs::copy(&file, name).expect("copies");
        }
        let data = self.dir.path().join(format!("new-{}", random::uuid()));
        std::fs::create_dir(&data).expect("a folder");
        let config = Config {
            objects: Some(to.display().to_string()),
            ..Config::for_data(data)
        };
        let report = recover(&config, Options::default(), &|_| ())
            .await
            .expect("recovers");
        let db = Db::open(&app::place(&config), 1).await.expect("opens");
        (report, all_rows(&db).await)
    }
}

/// A dump that is cut off has to be written before anything else is: none begins that there is no room for.
#[tokio::test]
async fn a_long_generation_goes_on_where_there_is_no_room_for_the_next() {
    let case = Case::new(Fault::Io).await;
    service::dump(&case.app).await.expect("dumps");
    for (dump_bytes, expected) in [(1_i64 << 61, false), (1 << 10, true)] {
        let long = format!("UPDATE journal_state SET dump_bytes = {dump_bytes}, intended_sequence = 5000");
        case.sql(&long).await;
        let claimed = service::claim(&case.app, false).await.expect("claims");
        let (_, is_dump) = claimed.expect("is free");
        assert_eq!(is_dump, expected, "{dump_bytes}");
    }
}

/// Nor is one begun that is asked for, as where an object is found damaged: gc has to go on.
#[tokio::test]
async fn a_dump_that_there_is_no_room_for_is_refused_before_it_is_meant() {
    let case = Case::new(Fault::Io).await;
    service::dump(&case.app).await.expect("dumps");
    let before = rows::state_get(case.app.db.conn()).await.expect("reads");
    case.sql("UPDATE journal_state SET dump_bytes = 1152921504606846976")
        .await;
    let refused = service::dump(&case.app).await.expect_err("no room");
    assert!(refused.to_string().contains("too little room"), "{refused}");
    let (before, after) = (before.expect("one"), rows::state_get(case.app.db.conn()).await);
    let after = after.expect("reads").expect("one");
    assert_eq!(before.intended_generation, after.intended_generation);
    teams(&case, 1..2).await;
    flush(&case.app).await.expect("goes on");
}

/// The newest object, which is lost alone, is made good with the next change; a store that lacks two is an older one.
#[tokio::test]
async fn nothing_is_written_behind_an_object_that_is_missing() {
    for lost in 1..=2 {
        let case = Case::new(Fault::Io).await;
        for team in 1..4 {
            teams(&case, team..team + 1).await;
            flush(&case.app).await.expect("flushes");
        }
        let objects = case.objects();
        for object in &objects[objects.len() - lost..] {
            std::fs::remove_file(object).expect("removes it");
        }
        teams(&case, 4..5).await;
        let flushed = flush(&case.app).await;
        if lost > 1 {
            let refused = flushed.expect_err("an older copy").to_string();
            assert!(refused.contains("it is an older copy"), "{refused}");
            assert_eq!(case.objects().len(), objects.len() - lost);
            continue;
        }
        flushed.expect("flushes");
        let (report, rows) = case.recovered().await;
        assert_eq!(report.gaps, []);
        assert_eq!(rows, all_rows(&case.app.db).await);
    }
}

/// Numbers that were meant and never written, as in an outage, are no objects that a store lacks.
#[tokio::test]
async fn a_newest_object_that_is_lost_alone_is_made_good_also_behind_numbers_that_were_never_written() {
    for has_room in [true, false] {
        let case = Case::new(Fault::Io).await;
        teams(&case, 1..2).await;
        flush(&case.app).await.expect("flushes");
        for _ in 0..3 {
            service::claim(&case.app, false).await.expect("claims");
        }
        teams(&case, 2..3).await;
        flush(&case.app).await.expect("flushes");
        let objects = case.objects();
        std::fs::remove_file(objects.last().expect("one")).expect("removes it");
        if !has_room {
            case.sql("UPDATE journal_state SET dump_bytes = 1152921504606846976")
                .await;
        }
        teams(&case, 3..4).await;
        flush(&case.app).await.expect("goes on");
        if !has_room {
            case.sql("UPDATE journal_state SET dump_bytes = 1000").await;
            // What is owed is written when there is room.
            teams(&case, 4..5).await;
            flush(&case.app).await.expect("goes on");
        }
        let (report, rows) = case.recovered().await;
        assert_eq!(report.gaps, [], "has_room {has_room}");
        assert_eq!(rows, all_rows(&case.app.db).await, "has_room {has_room}");
    }
}

/// A server that has the store open knows what they said, and does not wait for its next look.
#[tokio::test]
async fn headers_that_are_all_damaged_or_lost_are_written_anew_as_soon_as_the_journal_needs_them() {
    for is_lost in [false, true] {
        let case = Case::new(Fault::Io).await;
        service::dump(&case.app).await.expect("dumps");
        for number in 0..2 {
            let header = case.dir.path().join(format!("objects/h/{number:08}"));
            std::fs::remove_file(&header).expect("removes it");
            if !is_lost {
                std::fs::write(&header, "no header").expect("writes it");
            }
        }
        teams(&case, 1..2).await;
        let stop = CancellationToken::new();
        let writer = tokio::spawn(run(case.app.clone(), stop.clone()));
        while rows::change_newest(case.app.db.conn())
            .await
            .expect("reads")
            .is_some()
        {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        writer.await.expect("ends");
        case.app.store.header_check().await.expect("is there");
        let found = case.app.store.headers_verify().await.expect("looks");
        assert_eq!(found, [], "is_lost {is_lost}");
    }
}

#[tokio::test]
async fn a_writer_that_was_paused_changes_nothing_and_its_late_object_does_no_harm() {
    let case = Case::new(Fault::Io).await;
    teams(&case, 1..2).await;
    flush(&case.app).await.expect("flushes");
    teams(&case, 2..3).await;
    let (paused, is_dump) = service::claim(&case.app, false)
        .await
        .expect("claims")
        .expect("is free");
    assert!(!is_dump);

    // Another server, whose turn comes when the lease is over.
    let file = case.dir.path().join("data/cistern.sqlite");
    let other = Config {
        data: case.dir.path().join("other"),
        database: Some(Secret::new(format!("sqlite://{}", file.display()))),
        secrets_key_file: Some(case.config.secrets_key_file()),
        ..case.config.clone()
    };
    let other = open(&other, &case.backend).await;
    let busy = service::claim(&other, false).await.expect("looks");
    assert!(busy.is_none(), "the lease is held");
    other.clock.advance(TimeDelta::seconds(16));
    flush(&other).await.expect("takes over");
    let written = all_rows(&case.app.db).await;

    // Both rows change together, and neither may come back without the other.
    case.sql("UPDATE team SET name = name || ' later' WHERE id IN (1, 2)")
        .await;
    let late = service::write_changes(&case.app, &paused).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    // Nor does one that had read before, and wakes after it has written.
    let late = service::finish(&case.app, paused, &[]).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    let (report, rows) = case.recovered_aside().await;
    assert_eq!((report.gaps, rows), (vec![], written));
    flush(&other).await.expect("goes on");
    let (report, rows) = case.recovered().await;
    assert_eq!(report.gaps, []);
    assert_eq!(rows, all_rows(&case.app.db).await);
}

#[tokio::test]
async fn gc_begins_to_delete_when_what_was_deleted_is_journaled() {
    let case = Case::new(Fault::Unavailable).await;
    teams(&case, 1..2).await;
    let wish = Wish {
        now: true,
        ..Wish::default()
    };
    let run = async || gc_run(&case.app, wish, &CancellationToken::new(), &Progress::default()).await;
    run().await.expect("runs");
    assert_eq!(
        rows::change_newest(case.app.db.conn()).await.expect("reads"),
        None
    );
    teams(&case, 2..3).await;
    // The look at the newest object is the first call; the journal's own object is the next one.
    case.backend.rearm(3);
    run().await.expect_err("the journal is not written");
    let ended = case
        .app
        .store
        .gc_last()
        .await
        .expect("reads")
        .expect("the first run")
        .0;
    case.backend.rearm(0);
    run().await.expect("runs");
    assert!(
        case.app
            .store
            .gc_last()
            .await
            .expect("reads")
            .expect("the last run")
            .0
            > ended
    );
}

#[tokio::test]
async fn many_changes_at_once_become_a_dump_in_parts() {
    let case = Case::new(Fault::Io).await;
    case.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 21000)
         INSERT INTO team (id, uuid, name, created_at) SELECT i, 'u' || i, i || hex(zeroblob(300)), {T} FROM n"
    ))
    .await;
    flush(&case.app).await.expect("flushes");
    case.sql("DELETE FROM team WHERE id % 2 = 0 AND id < 100").await;
    flush(&case.app).await.expect("flushes");
    let objects = case.objects();
    assert!(objects.len() > 4, "{objects:?}");
    let (report, rows) = case.recovered_aside().await;
    assert_eq!(report.gaps, []);
    assert_eq!(rows, all_rows(&case.app.db).await);

    // Of a dump that is the only one, what is there comes back.
    flip(&objects[1]);
    let (report, rows) = case.recovered().await;
    assert!(!report.gaps.is_empty() && report.damaged.len() == 1, "{report:?}");
    let teams = ids(&rows, "team");
    assert!(teams.len() > 10_000 && teams.len() < 20_000, "{}", teams.len());
    assert!(!teams.contains(&98) && teams.contains(&99));
}

#[tokio::test]
async fn an_older_database_and_another_ones_are_refused() {
    let mut case = Case::new(Fault::Io).await;
    teams(&case, 1..3).await;
    flush(&case.app).await.expect("flushes");
    case.app.db.fold().await;
    let file = case.dir.path().join("data/cistern.sqlite");
    let old = std::fs::read(&file).expect("reads");
    teams(&case, 3..4).await;
    flush(&case.app).await.expect("flushes");
    guard(&case.app).await.expect("is the newest");

    case.app.db.clone().close().await.expect("closes");
    std::fs::write(&file, old).expect("puts the older one back");
    let before = case.objects();
    case.start_again().await;
    let said = refusal(guard(&case.app).await);
    assert!(
        said.contains("older") && said.contains("cistern recover"),
        "{said}"
    );
    let write = case.app.db.write().await.map(drop);
    assert_eq!(refusal(write), said);
    assert!(refusal(flush_one(&case).await).contains("cistern recover"));
    let copy = case.dir.path().join("objects").display().to_string();
    let healed = heal_from(&case.app, &copy, &HealProgress::default()).await;
    assert_eq!(refusal(healed.map(drop)), said);
    assert_eq!(case.objects(), before, "nothing was written");

    // One with higher numbers, which is of another lineage.
    case.sql("UPDATE journal_state SET intended_generation = 900")
        .await;
    case.start_again().await;
    guard(&case.app).await.expect("its own objects");
    case.sql("UPDATE journal_state SET lineage = x'000102030405060708090a0b0c0d0e0f'")
        .await;
    case.start_again().await;
    let said = refusal(guard(&case.app).await);
    assert!(
        said.contains("another database") && said.contains("cistern recover"),
        "{said}"
    );

    // It can be taken as it is, all the same.
    let kept = Options {
        keep_database: true,
        ..Options::default()
    };
    recover(&case.config, kept, &|_| ()).await.expect("keeps it");
    case.start_again().await;
    guard(&case.app).await.expect("is the store's again");
    assert_eq!(ids(&all_rows(&case.app.db).await, "team"), [1, 2]);
    flush(&case.app).await.expect("is written again");
    let (report, rows) = case.recovered_aside().await;
    assert_eq!((report.gaps, ids(&rows, "team")), (vec![], vec![1, 2]));

    // One that never had a journal.
    case.sql("DELETE FROM journal_state").await;
    case.start_again().await;
    refusal(guard(&case.app).await);
}

#[tokio::test]
async fn nothing_is_written_where_another_store_or_none_lies() {
    let case = Case::new(Fault::Io).await;
    teams(&case, 1..3).await;
    flush(&case.app).await.expect("flushes");
    let before = case.objects();
    for header in files(&case.dir.path().join("objects/h")) {
        std::fs::remove_file(header).expect("removes");
    }
    let failed = flush_one(&case).await.expect_err("has no store");
    assert!(failed.chain().contains("is mounted"), "{}", failed.chain());
    assert_eq!(case.objects(), before);
}

/// Recovers elsewhere while the installation goes on: it does `work` at the step that `tell` names so.
async fn recovered_beside(case: &Case, at: &str, work: impl AsyncFn()) -> Result<Recovered> {
    let data = case.dir.path().join(format!("beside-{}", random::uuid()));
    std::fs::create_dir(&data).expect("a folder");
    let config = Config {
        objects: case.config.objects.clone(),
        ..Config::for_data(data)
    };
    let (send, mut steps) = tokio::sync::mpsc::unbounded_channel();
    let (go, wait) = std::sync::mpsc::channel();
    let (wait, at_step) = (std::sync::Mutex::new(wait), at.to_owned());
    let recovery = tokio::spawn(async move {
        let tell = move |step: &str| {
            if step == at_step {
                send.send(()).expect("is heard");
                let wait = wait.lock().expect("is alone");
                tokio::task::block_in_place(|| wait.recv().expect("is told to go on"));
            }
        };
        recover(&config, Options::default(), &tell).await
    });
    steps.recv().await.expect("the recovery comes to it");
    work().await;
    go.send(()).expect("waits");
    recovery.await.expect("ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_beside_a_server_that_writes_gives_up_and_the_server_goes_on() {
    for is_dump in [false, true] {
        let case = Case::new(Fault::Io).await;
        teams(&case, 1..3).await;
        flush(&case.app).await.expect("flushes");
        let write = async || {
            teams(&case, 3..4).await;
            if is_dump {
                service::dump(&case.app).await.expect("dumps");
            } else {
                flush(&case.app).await.expect("flushes");
            }
        };
        let said = refusal(
            recovered_beside(&case, "putting things in order", write)
                .await
                .map(drop),
        );
        assert!(said.contains("stop every server"), "{said}");
        teams(&case, 4..5).await;
        flush(&case.app).await.expect("goes on");
        let (report, rows) = case.recovered_aside().await;
        assert_eq!((report.gaps, ids(&rows, "team")), (vec![], vec![1, 2, 3, 4]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_from_whose_store_another_was_recovered_acknowledges_nothing_more() {
    let mut case = Case::new(Fault::Io).await;
    teams(&case, 1..3).await;
    flush(&case.app).await.expect("flushes");
    case.recovered().await;
    teams(&case, 3..4).await;
    let said = refusal(flush(&case.app).await);
    assert!(
        said.contains("another database") && said.contains("--keep-database"),
        "{said}"
    );
    assert_eq!(refusal(case.app.db.write().await.map(drop)), said);
    case.start_again().await;
    assert_eq!(refusal(guard(&case.app).await), said);

    // Nothing is lost: what it has can be kept.
    let kept = Options {
        keep_database: true,
        ..Options::default()
    };
    recover(&case.config, kept, &|_| ()).await.expect("keeps it");
    let (report, rows) = case.recovered().await;
    assert_eq!((report.gaps, ids(&rows, "team")), (vec![], vec![1, 2, 3]));
}

async fn flush_one(case: &Case) -> Result<()> {
    case.sql("UPDATE team SET name = 'x' WHERE id = 1").await;
    flush(&case.app).await
}

fn refusal(result: Result<()>) -> String {
    match result {
        Err(Error::Precondition(sentence)) => sentence,
        other => panic!("was to be refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_lost_and_a_damaged_object_are_told_and_the_rest_comes_back() {
    for is_lost in [true, false] {
        let case = Case::new(Fault::Io).await;
        for id in 1..5 {
            teams(&case, id..id + 1).await;
            flush(&case.app).await.expect("flushes");
        }
        let object = case.objects()[2].clone();
        if is_lost {
            std::fs::remove_file(&object).expect("removes");
        } else {
            flip(&object);
        }
        let (report, rows) = case.recovered().await;
        assert_eq!(report.gaps.len(), 1, "{report:?}");
        let gap = report.gaps[0];
        assert!(gap.after_us < gap.before_us, "{gap:?}");
        assert_eq!(report.damaged.len(), usize::from(!is_lost));
        assert_eq!(ids(&rows, "team"), [1, 2, 4], "the third was in it");
    }
}

#[tokio::test]
async fn the_newest_object_damaged_is_told() {
    let case = Case::new(Fault::Io).await;
    for id in 1..4 {
        teams(&case, id..id + 1).await;
        flush(&case.app).await.expect("flushes");
    }
    flip(case.objects().last().expect("the newest"));
    let (report, rows) = case.recovered().await;
    assert_eq!((report.gaps.len(), report.gaps[0].before_us), (1, None));
    assert_eq!(ids(&rows, "team"), [1, 2]);
}

#[tokio::test]
async fn a_damaged_dump_falls_back_to_the_generation_before() {
    let case = Case::new(Fault::Io).await;
    teams(&case, 1..3).await;
    flush(&case.app).await.expect("flushes");
    teams(&case, 3..4).await;
    flush(&case.app).await.expect("flushes");
    teams(&case, 4..5).await;
    service::dump(&case.app).await.expect("dumps");
    teams(&case, 5..6).await;
    flush(&case.app).await.expect("flushes");
    let objects = case.objects();
    assert_eq!(objects.len(), 4, "two generations: {objects:?}");
    flip(&objects[2]);
    let (report, rows) = case.recovered().await;
    assert_eq!(report.generation, 1);
    assert!(!report.gaps.is_empty(), "{report:?}");
    assert_eq!(ids(&rows, "team"), [1, 2, 3, 5], "the fourth was in it");
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("reads");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("writes");
}

#[tokio::test]
async fn a_journal_that_is_damaged_is_found_within_a_day_and_written_anew() {
    let harms: [fn(&[std::path::PathBuf]); 5] = [
        |objects| flip(&objects[0]),
        |objects| flip(&objects[1]),
        |objects| std::fs::remove_file(&objects[0]).expect("removes"),
        // Nothing in the store names the newest.
        |objects| std::fs::remove_file(&objects[1]).expect("removes"),
        |objects| {
            for object in objects {
                std::fs::remove_file(object).expect("removes");
            }
        },
    ];
    for (at, harm) in harms.into_iter().enumerate() {
        let case = Case::new(Fault::Io).await;
        teams(&case, 1..3).await;
        flush(&case.app).await.expect("flushes");
        teams(&case, 3..4).await;
        flush(&case.app).await.expect("flushes");
        look_due(&case.app).await.expect("looks");
        let objects = case.objects();
        assert_eq!(objects.len(), 2, "nothing was wrong: {objects:?}");
        harm(&objects);
        case.app.clock.advance(TimeDelta::days(1));
        look_due(&case.app).await.expect("looks");
        let (report, rows) = case.recovered().await;
        assert_eq!((report.generation, report.gaps), (2, vec![]), "harm {at}");
        assert_eq!(rows, all_rows(&case.app.db).await, "harm {at}");
    }
}

#[tokio::test]
async fn a_store_without_a_journal_is_refused_and_nothing_is_touched() {
    let case = Case::new(Fault::Io).await;
    let refused = recover(&case.config, Options::default(), &|_| ())
        .await
        .expect_err("has none");
    assert!(
        matches!(&refused, Error::Precondition(said) if said.contains("no journal")),
        "{refused}"
    );
    let empty = Config::for_data(case.dir.path().join("empty"));
    std::fs::create_dir(&empty.data).expect("a folder");
    let refused = recover(&empty, Options::default(), &|_| ())
        .await
        .expect_err("is none");
    assert!(
        matches!(&refused, Error::Precondition(said) if said.contains("--objects")),
        "{refused}"
    );
    assert!(!empty.data.join("cistern.sqlite").exists());
}

#[tokio::test]
async fn numbers_are_not_given_twice_and_older_generations_go() {
    let case = Case::new(Fault::Io).await;
    teams(&case, 7..8).await;
    flush(&case.app).await.expect("flushes");
    case.sql("DELETE FROM team WHERE id = 7").await;
    for _ in 0..3 {
        service::dump(&case.app).await.expect("dumps");
    }
    let places: Vec<JournalPlace> = case
        .app
        .store
        .journal()
        .list()
        .await
        .expect("lists")
        .iter()
        .map(|o| o.place)
        .collect();
    let generations: Vec<u32> = places.iter().map(|place| place.generation).collect();
    assert_eq!(generations, [3, 4], "the newest and the one before");

    let (report, db) = case.recovered_db().await;
    assert_eq!(report.rows.get("team").copied().unwrap_or(0), 0);
    let new = format!("INSERT INTO team (uuid, name, created_at) VALUES ('x', 'x', {T})");
    db.conn().execute_unprepared(&new).await.expect("a team");
    assert!(
        ids(&all_rows(&db).await, "team")[0] > 1007,
        "the numbers up to 7 were given, and some after it may have been"
    );
    let newest = case
        .app
        .store
        .journal()
        .list()
        .await
        .expect("lists")
        .pop()
        .expect("the recovery's own");
    assert_eq!(newest.place.generation, 5);
    let refused = refusal(guard(&case.app).await);
    assert!(
        refused.contains("cistern recover"),
        "the old one is refused now: {refused}"
    );
}

#[tokio::test]
async fn what_postgresql_journaled_comes_back_in_sqlite() {
    let Some(url) = postgres().await else { return };
    let case = Case::on(Fault::Io, Some(url)).await;
    teams(&case, 1..4).await;
    case.sql("INSERT INTO tag (id, team_id, name, name_key, created_at) VALUES (3, 1, 'T', 't', now())")
        .await;
    case.sql(
        "INSERT INTO image (id, team_id, listing, kind, name, distribution, public, description, status, regions, \
         size_gigabytes, warnings, protected, kept_tags, created_at) VALUES (9, 1, 1, 'custom', 'i', 'Debian', FALSE, 'ü', \
         'available', '[\"nyc3\"]', 0.1, '[]', TRUE, '{\"x\": [1, null]}', now())",
    )
    .await;
    case.sql(
        "INSERT INTO store_root (store, kind, owner, domain, digest, level, virtual_bytes, allocated_bytes, epoch, \
         created_us) VALUES (1, 'test', 'o', 0, '\\x00ff10', 1, 7, 0, 3, 5)",
    )
    .await;
    flush(&case.app).await.expect("flushes");
    case.sql("DELETE FROM team WHERE id = 2").await;
    case.sql("UPDATE tag SET id = 4 WHERE id = 3").await;
    flush(&case.app).await.expect("flushes");
    let (report, rows) = case.recovered().await;
    assert_eq!(report.gaps, []);
    assert_eq!(rows, all_rows(&case.app.db).await);
    assert_eq!(ids(&rows, "tag"), [4]);
}
