//! Upgrades: a newer schema is refused, an older one is copied aside and migrated, a failed migration changes nothing,
//! and the copy can be put back. What no migration can mend is refused. On this run's database; the other one's turn is
//! in the other world.

use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};

use crate::harness::files::Files;
use crate::harness::images::{downloaded, import, imported, settled};
use crate::harness::process::{run, run_ok};
use crate::harness::server::Setup;
use crate::harness::{Server, disks, until, world};
use crate::recover::journaled;

pub(crate) async fn database(server: &Server) -> DatabaseConnection {
    Database::connect(server.database_url()).await.expect("connects")
}

pub(crate) async fn execute(db: &DatabaseConnection, sql: &str) {
    db.execute_unprepared(sql)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// The first column of every row, as text.
pub(crate) async fn texts(db: &DatabaseConnection, sql: &str) -> Vec<String> {
    let statement = Statement::from_string(db.get_database_backend(), sql);
    let rows = db.query_all_raw(statement).await.expect("reads");
    rows.iter()
        .map(|row| row.try_get_by_index(0).expect("text"))
        .collect()
}

async fn migrations(db: &DatabaseConnection) -> Vec<String> {
    texts(db, "SELECT version FROM seaql_migrations ORDER BY version").await
}

/// What a start that is refused says.
fn refusal(server: &Server) -> String {
    let mut command = server.local(&["serve"]);
    let output = run(command.args(["--listen-api", "127.0.0.1:0", "--listen-registry", "127.0.0.1:0"]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What was copied aside: files beside an SQLite database, schemas in a PostgreSQL one.
async fn copies(server: &Server, db: &DatabaseConnection) -> Vec<String> {
    if db.get_database_backend() == DbBackend::Postgres {
        let sql = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE '%before_migration%'";
        return texts(db, sql).await;
    }
    let files = std::fs::read_dir(server.data()).expect("the data folder");
    files
        .map(|f| f.expect("readable").path().display().to_string())
        .filter(|name| name.contains("before_migration"))
        .collect()
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_what_to_do() {
    let mut server = Server::start();
    server.terminate();
    let db = database(&server).await;
    execute(
        &db,
        "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_from_the_future', 1)",
    )
    .await;
    let before = migrations(&db).await;
    let text = refusal(&server);
    assert!(
        text.contains("newer version of Cistern") && text.contains("m9999_from_the_future"),
        "{text}"
    );
    assert_eq!(migrations(&db).await, before);
    let local = run(&mut server.local(&["token", "create"]));
    assert_eq!(local.status.code(), Some(1), "local commands refuse it too");
    execute(
        &db,
        "DELETE FROM seaql_migrations WHERE version = 'm9999_from_the_future'",
    )
    .await;
    server.start_again();
    server.api().get("/v2/account").await.expect(200);
}

/// The installation as the version before the last migration left it; gives that migration's name.
async fn aged(db: &DatabaseConnection, table: &str) -> String {
    let like = format!("SELECT version FROM seaql_migrations WHERE version LIKE '%{table}%'");
    let name = texts(db, &like).await.pop().expect("the table has a migration");
    execute(
        db,
        &format!("DELETE FROM seaql_migrations WHERE version = '{name}'"),
    )
    .await;
    name
}

/// A stopped server that holds the tag `kept`, and its database.
async fn stopped_with_a_tag() -> (Server, DatabaseConnection) {
    let mut server = Server::start();
    server
        .api()
        .post("/v2/tags", &serde_json::json!({ "name": "kept" }))
        .await
        .expect(201);
    server.terminate();
    let db = database(&server).await;
    (server, db)
}

#[tokio::test]
async fn an_older_schema_is_copied_aside_and_migrated() {
    let (mut server, db) = stopped_with_a_tag().await;
    let before = migrations(&db).await;
    aged(&db, "checksum").await;
    execute(&db, "DROP TABLE image_checksum").await;
    let local = run(&mut server.local(&["token", "create"]));
    let text = String::from_utf8_lossy(&local.stderr).into_owned();
    assert_eq!(
        local.status.code(),
        Some(1),
        "a local command does not migrate: {text}"
    );
    assert!(text.contains("cistern serve"), "{text}");
    assert_eq!(copies(&server, &db).await, Vec::<String>::new());

    server.start_again();
    assert_eq!(migrations(&db).await, before);
    server.api().get("/v2/tags/kept").await.expect(200);
    let copies = copies(&server, &db).await;
    assert_eq!(copies.len(), 1, "{copies:?}");
    let (old, table) = if db.get_database_backend() == DbBackend::Postgres {
        (db.clone(), format!("\"{}\".tag", copies[0]))
    } else {
        let copy = Database::connect(format!("sqlite://{}", copies[0])).await;
        (copy.expect("the copy is a database"), "tag".to_owned())
    };
    assert_eq!(texts(&old, &format!("SELECT name FROM {table}")).await, ["kept"]);
}

#[tokio::test]
async fn actions_of_a_version_that_did_not_count_them_are_listed() {
    let mut server = Server::start();
    let files = Files::start().await;
    let image = imported(&server.api(), "kept", &files.put("d.img", disks::raw(4, 1))).await;
    let of_image = format!("/v2/images/{}/actions", image["id"]);
    let lists = [String::from("/v2/actions"), of_image];
    let before = [
        server.api().get(&lists[0]).await.expect(200),
        server.api().get(&lists[1]).await.expect(200),
    ];
    assert_eq!(before[0]["meta"]["total"], 1, "{before:#?}");
    server.terminate();
    let db = database(&server).await;
    before_action_counts(&db).await;
    server.start_again();
    for (list, before) in lists.iter().zip(before) {
        assert_eq!(
            server.api().get(list).await.expect(200)["actions"],
            before["actions"]
        );
        assert_eq!(server.api().get(list).await.expect(200)["meta"], before["meta"]);
    }
}

/// The installation as the version left it that did not count actions.
async fn before_action_counts(db: &DatabaseConnection) {
    aged(db, "action_count").await;
    execute(db, "DROP TABLE action_count").await;
    execute(db, "DROP INDEX action_of_resource").await;
    let columns = "resource_type, resource_id, id";
    execute(
        db,
        &format!("CREATE INDEX action_resource_type_resource_id_id ON action ({columns})"),
    )
    .await;
}

/// Columns, indexes and constraints of a PostgreSQL schema, a line each.
async fn shape(db: &DatabaseConnection, schema: &str) -> Vec<String> {
    let columns = format!(
        "SELECT concat_ws(' ', table_name, ordinal_position, column_name, data_type, is_nullable, column_default, \
         identity_generation) FROM information_schema.columns WHERE table_schema = '{schema}'"
    );
    let indexes = format!("SELECT indexdef FROM pg_indexes WHERE schemaname = '{schema}'");
    let constraints = format!(
        "SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint WHERE \
         connamespace = '\"{schema}\"'::regnamespace"
    );
    let all = texts(
        db,
        &format!("{columns} UNION ALL {indexes} UNION ALL {constraints}"),
    )
    .await;
    let (quoted, bare) = (format!("\"{schema}\"."), format!("{schema}."));
    let mut all: Vec<String> = all
        .iter()
        .map(|line| line.replace(&quoted, "").replace(&bare, ""))
        .collect();
    all.sort_unstable();
    all
}

/// Puts a copy in the place of the database, as docs/running.md says.
async fn restore(server: &Server, db: DatabaseConnection, copy: &str) {
    if db.get_database_backend() == DbBackend::Postgres {
        execute(&db, "ALTER SCHEMA public RENAME TO cistern_newer").await;
        execute(&db, &format!("ALTER SCHEMA \"{copy}\" RENAME TO public")).await;
        return;
    }
    db.close().await.expect("closes");
    for end in ["-wal", "-shm"] {
        let path = server.data().join(format!("cistern.sqlite{end}"));
        assert!(!path.exists() || std::fs::remove_file(path).is_ok());
    }
    std::fs::rename(copy, server.data().join("cistern.sqlite")).expect("a file of the same folder");
}

#[tokio::test]
async fn the_copy_made_before_an_upgrade_is_one_to_go_on_with() {
    let (mut server, db) = stopped_with_a_tag().await;
    before_action_counts(&db).await;
    let is_postgres = db.get_database_backend() == DbBackend::Postgres;
    let before = if is_postgres {
        shape(&db, "public").await
    } else {
        Vec::new()
    };
    server.start_again();
    server
        .api()
        .post("/v2/tags", &serde_json::json!({ "name": "later" }))
        .await
        .expect(201);
    journaled(&server).await;
    server.terminate();
    let copy = copies(&server, &db).await.pop().expect("a copy");
    if is_postgres {
        assert!(before.len() > 100, "{before:#?}");
        assert_eq!(shape(&db, &copy).await, before);
    }

    restore(&server, db, &copy).await;
    server.start_again();
    // The store knows what was done since: whoever goes back has to say so.
    let late = server
        .api()
        .post("/v2/tags", &serde_json::json!({ "name": "x" }))
        .await;
    assert_eq!(late.status, 412, "{late:?}");
    server.terminate();
    run_ok(&mut server.local(&["recover", "--keep-database"]));
    server.start_again();
    let (api, files) = (server.api(), Files::start().await);
    api.get("/v2/tags/kept").await.expect(200);
    api.get("/v2/tags/later").await.expect(404);
    api.post("/v2/tags", &serde_json::json!({ "name": "new" }))
        .await
        .expect(201);
    let project = serde_json::json!({ "name": "new", "purpose": "IoT" });
    api.post("/v2/projects", &project).await.expect(201);
    api.post("/v2/projects", &project).await.expect(409);
    imported(&api, "new", &files.put("d.img", disks::raw(4, 1))).await;
    assert_eq!(api.get("/v2/actions").await.expect(200)["meta"]["total"], 1);
    // Its links go with a tag.
    let things = serde_json::json!({ "resources": [{ "resource_id": "1", "resource_type": "image" }] });
    assert_eq!(api.post("/v2/tags/kept/resources", &things).await.status, 204);
    assert_eq!(api.delete("/v2/tags/kept").await.status, 204);
    let links = texts(&database(&server).await, "SELECT resource_id FROM tag_link").await;
    assert_eq!(links, Vec::<String>::new());
}

#[tokio::test]
async fn a_database_that_does_not_hold_every_name_is_refused() {
    let Some(place) = world::place_if_there("postgres+folder") else {
        return;
    };
    let words = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    let place = world::Place {
        database: Some(world::postgres().database_with(words)),
        ..place
    };
    let text = refusal(&Setup::default().at(place).stopped());
    assert!(text.contains("LATIN1"), "{text}");
    assert!(text.contains("createdb -E UTF8 -T template0"), "{text}");
}

#[tokio::test]
async fn deleted_images_of_a_version_that_did_not_list_them_are_listed() {
    const LIST: &str = "/v2/images?deleted=true";
    let mut server = Server::start();
    let files = Files::start().await;
    for n in 1..=3 {
        let url = files.put("d.img", disks::raw(4, 1));
        let id = imported(&server.api(), &format!("n{n}"), &url).await["id"].clone();
        if n > 1 {
            server.api().delete(&format!("/v2/images/{id}")).await.expect(204);
        }
    }
    let before = server.api().get(LIST).await.expect(200);
    assert_eq!(before["meta"]["total"], 2, "{before:#?}");
    server.terminate();
    let db = database(&server).await;
    aged(&db, "images_deleted").await;
    execute(&db, "UPDATE image SET listing = NULL WHERE status = 'deleted'").await;
    execute(&db, "DELETE FROM image_count WHERE listing < 0").await;
    server.start_again();
    let after = server.api().get(LIST).await.expect(200);
    // Not whole images: a checksum may be found out between the two.
    let ids = |list: &serde_json::Value| {
        let images = list["images"].as_array().expect("a list").clone();
        images.iter().map(|image| image["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((ids(&after), &after["meta"]), (ids(&before), &before["meta"]));
}

#[tokio::test]
async fn the_address_of_an_import_that_an_older_version_began_is_sealed_and_it_goes_on() {
    let (mut server, files) = (Server::start(), Files::start().await);
    let disk = disks::raw(2, 71);
    let held = files.put_held("held.img", disk.clone(), 1 << 20);
    let url = held.url.replace("http://", "http://someone:older-secret@");
    let id = import(&server.api(), "older", &url).await;
    until("the download to begin", 60, || async {
        (!held.asked().is_empty()).then_some(())
    })
    .await;
    server.kill();
    // As the older version left it.
    let db = database(&server).await;
    let kept = format!("SELECT source_url FROM image WHERE id = {id}");
    assert!(texts(&db, &kept).await[0].starts_with("sealed:"));
    execute(
        &db,
        &format!("UPDATE image SET source_url = '{url}' WHERE id = {id}"),
    )
    .await;
    execute(&db, "DROP TABLE secrets_key").await;
    execute(
        &db,
        "DELETE FROM seaql_migrations WHERE version = 'm0130_secrets_key'",
    )
    .await;
    std::fs::remove_file(server.data().join("secrets.key")).expect("removes");
    server.start_again();
    assert!(texts(&db, &kept).await[0].starts_with("sealed:"));
    held.release();
    assert_eq!(settled(&server.api(), id).await["status"], "available");
    assert!(downloaded(&server.api(), id, "raw").await == disk);
}

#[tokio::test]
async fn a_failed_migration_leaves_everything_as_it_was() {
    let (mut server, db) = stopped_with_a_tag().await;
    let complete = migrations(&db).await;
    // Two are due: the first would succeed, and the second finds its table there already.
    let first = aged(&db, "tag").await;
    execute(&db, "ALTER TABLE tag RENAME TO tag_away").await;
    execute(&db, "ALTER TABLE tag_link RENAME TO tag_link_away").await;
    execute(&db, "ALTER TABLE tag_count RENAME TO tag_count_away").await;
    for index in texts(&db, index_query(&db)).await {
        execute(&db, &format!("DROP INDEX \"{index}\"")).await;
    }
    let second = aged(&db, "checksum").await;
    let before = migrations(&db).await;

    // As often as a supervisor tries.
    for _ in 0..3 {
        let text = refusal(&server);
        assert!(text.contains("the database is as it was"), "{text}");
    }
    assert_eq!(copies(&server, &db).await, Vec::<String>::new());
    assert_eq!(migrations(&db).await, before);
    assert_eq!(texts(&db, "SELECT name FROM tag_away").await, ["kept"]);
    assert!(
        db.execute_unprepared("SELECT 1 FROM tag").await.is_err(),
        "the migration that succeeded is undone with the one that failed"
    );

    // The version before goes on with it.
    for name in ["tag", "tag_link", "tag_count"] {
        execute(&db, &format!("ALTER TABLE {name}_away RENAME TO {name}")).await;
    }
    for name in [first, second] {
        let sql = format!("INSERT INTO seaql_migrations (version, applied_at) VALUES ('{name}', 1)");
        execute(&db, &sql).await;
    }
    assert_eq!(migrations(&db).await, complete);
    server.start_again();
    server.api().get("/v2/tags/kept").await.expect(200);
}

/// The indexes that were made for the tag tables, which would be in the way of new ones of the same name.
fn index_query(db: &DatabaseConnection) -> &'static str {
    if db.get_database_backend() == DbBackend::Postgres {
        "SELECT indexname::text FROM pg_indexes WHERE tablename LIKE 'tag%away' AND indexname NOT LIKE '%key' AND \
         indexname NOT LIKE '%pkey'"
    } else {
        "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name LIKE 'tag%away' AND sql IS NOT NULL"
    }
}
