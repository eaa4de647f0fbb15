//! What lists and claims read on PostgreSQL, by its own counters. On SQLite, unit tests ask for the plans.

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement};

use crate::harness::files::Files;
use crate::harness::images::{import, imported};
use crate::harness::process::run_ok;
use crate::harness::server::Setup;
use crate::harness::{Server, disks, until, world};
use crate::jobs::{held, held_up};
use crate::migrate::execute;

/// Rows that are planted.
const ROWS: i64 = 100_000;
/// What a list or a few claims may read at most: two blocks of 4096 ids, and what servers look at besides.
const FEW: i64 = 10_000;

/// How often a table or an index of it was gone through, and how many entries that took.
async fn reads(db: &DatabaseConnection, table: &str) -> (i64, i64) {
    let sql = format!(
        "SELECT (t.seq_scan + sum(i.idx_scan))::bigint, (t.seq_tup_read + sum(i.idx_tup_read))::bigint \
         FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid) \
         WHERE t.relname = '{table}' GROUP BY t.seq_scan, t.seq_tup_read"
    );
    let statement = Statement::from_string(db.get_database_backend(), sql);
    let row = db.query_one_raw(statement).await.expect("reads").expect("a row");
    let number = |n: usize| row.try_get_by_index(n).expect("a number");
    (number(0), number(1))
}

/// Asks for a list once, and gives how many entries of the table were read. Stopped servers before and after:
/// PostgreSQL counts what a connection read when it ends at the latest.
async fn read_for(server: &mut Server, db: &DatabaseConnection, path: &str, table: &str) -> i64 {
    let (_, before) = reads(db, table).await;
    server.start_again();
    let listed = server.api().get(path).await.expect(200);
    assert!(listed["meta"]["total"].as_i64() >= Some(1), "{path}: {listed:#}");
    stop(server, db).await;
    reads(db, table).await.1 - before
}

/// Stops a server, and waits until its connections have ended.
async fn stop(server: &mut Server, db: &DatabaseConnection) {
    server.terminate();
    gone(db).await;
}

/// Waits until no connection but this one is there.
async fn gone(db: &DatabaseConnection) {
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                  AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    until("the server's connections to end", 60, || async {
        let statement = Statement::from_string(db.get_database_backend(), others);
        let row = db.query_one_raw(statement).await.expect("reads").expect("a row");
        (row.try_get_by_index::<i64>(0).expect("a number") == 0).then_some(())
    })
    .await;
}

/// Plants rows like the image that there is, each with its tag and its action.
async fn plant(db: &DatabaseConnection) {
    let n = format!("generate_series(1, {ROWS}) n");
    let image = "team_id, listing, kind, name, distribution, public, description, status, regions, warnings, \
                 protected, created_at";
    let action = "team_id, kind, status, resource_type, region, started_at, completed_at";
    for sql in [
        format!("INSERT INTO image ({image}) SELECT {image} FROM image, {n} WHERE id = 1"),
        format!(
            "INSERT INTO action ({action}, resource_id) SELECT {action}, 1 + n FROM action, {n} WHERE id = 1"
        ),
        format!(
            "INSERT INTO tag_link (tag_id, resource_type, resource_id, tagged_at) \
             SELECT tag_id, resource_type, (1 + n)::text, tagged_at FROM tag_link, {n} WHERE id = 1"
        ),
        "UPDATE tag_count SET count = (SELECT count(*) FROM tag_link)".into(),
        "DELETE FROM image_count".into(),
        "INSERT INTO image_count SELECT listing, id >> 12, count(*) FROM image GROUP BY 1, 2".into(),
        "DELETE FROM action_count".into(),
        "INSERT INTO action_count SELECT team_id, id >> 12, count(*) FROM action GROUP BY 1, 2".into(),
        "ANALYZE".into(),
    ] {
        execute(db, &sql).await;
    }
}

#[tokio::test]
async fn no_list_reads_its_table_on_postgresql() {
    let Some(place) = world::place_if_there("postgres+s3") else {
        return;
    };
    let mut server = Setup::default().at(place).start();
    let (api, files) = (server.api(), Files::start().await);
    let id = imported(&api, "one", &files.put("d.img", disks::raw(4, 1))).await["id"].clone();
    assert_eq!(id, 1);
    api.post("/v2/tags", &serde_json::json!({ "name": "all" }))
        .await
        .expect(201);
    let tagged = serde_json::json!({ "resources": [{ "resource_id": "1", "resource_type": "image" }] });
    assert_eq!(api.post("/v2/tags/all/resources", &tagged).await.status, 204);
    let db = one_connection(&server).await;
    plant(&db).await;
    // What planting read is counted when its connection ends.
    db.close().await.expect("closes");
    let db = one_connection(&server).await;
    stop(&mut server, &db).await;
    let last = ROWS / 20;
    for (path, table) in [
        ("/v2/images?private=true".into(), "image"),
        (format!("/v2/images?private=true&page={last}"), "image"),
        ("/v2/images?tag_name=all".into(), "tag_link"),
        ("/v2/images?tag_name=all".into(), "image"),
        ("/v2/actions".into(), "action"),
        (format!("/v2/actions?page={last}"), "action"),
        ("/v2/images/1/actions".into(), "action"),
    ] {
        let read = read_for(&mut server, &db, &path, table).await;
        assert!((1..FEW).contains(&read), "{path} read {read} entries of {table}");
    }
}

/// The database by one connection, so that others are the server's.
async fn one_connection(server: &Server) -> DatabaseConnection {
    let mut options = ConnectOptions::new(server.database_url());
    options.max_connections(1);
    Database::connect(options).await.expect("connects")
}

#[tokio::test]
async fn no_claim_reads_a_line_on_postgresql() {
    let Some(place) = world::place_if_there("postgres+s3") else {
        return;
    };
    let mut server = Setup::default().at(place).start();
    run_ok(&mut server.local(&["team", "create", "others"]));
    let (api, files) = (server.api(), Files::start().await);
    let mut slow = Vec::new();
    for n in 0..3 {
        let (held, _) = held(&files, &format!("slow{n}.img"), n);
        slow.push((import(&api, "slow", &held.url).await, held));
    }
    for (id, _) in &slow {
        held_up(&api, *id).await;
    }
    // They go on after this. Their team has all the workers that it may have then: what is planted waits, and is due.
    server.kill();
    let db = one_connection(&server).await;
    gone(&db).await;
    let job = "kind, payload, priority, team_id, max_attempts, created_at";
    let sql = format!(
        "INSERT INTO job ({job}, status, attempts, run_at, fence, cancel_requested) \
         SELECT {job}, 'queued', 0, created_at, 0, false FROM job, generate_series(1, {ROWS}) n WHERE id = 1"
    );
    execute(&db, &sql).await;
    execute(&db, "ANALYZE").await;
    db.close().await.expect("closes");
    let db = one_connection(&server).await;
    let before = reads(&db, "job").await;
    server.start_again();
    let read = until("the free worker to have looked a few times", 60, || async {
        let (scans, entries) = reads(&db, "job").await;
        (scans >= before.0 + 20).then_some(entries - before.1)
    })
    .await;
    assert!(read < FEW, "claims read {read} entries of a line of {ROWS}");
}
