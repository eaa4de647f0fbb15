//! What the statements that name chunks by their digests do, and what they read, in a database that knows nothing of
//! the table: SQLite, and PostgreSQL where `CISTERN_TEST_POSTGRES` is set.

use sea_orm::{
    ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DatabaseTransaction, DbBackend,
    DbErr, EntityTrait as _, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait as _,
};
use sea_orm_migration::MigratorTrait as _;

use super::{
    Digests, Hit, Judged, Moved, POSTGRES_SETTINGS, chunk_state, chunks_bury, chunks_condemn, chunks_get,
    chunks_insert, chunks_marked, chunks_move, chunks_of, chunks_resurrect, gc::move_statement, object,
    object_judge, object_kind, object_state, objects_get, objects_verified, orphan, orphan_insert,
    orphans_list,
};
use crate::digest::{Digest, FrameKind};
use crate::ingest::pack_put::tests::Migrator;
use crate::pack::Entry;

const STORE: i32 = 1;
const DOMAIN: i64 = 1;
/// Rows that are planted.
const ROWS: u32 = 20_000;
/// Digests that a statement names.
const FEW: u32 = 300;
/// What a statement may read on PostgreSQL: each row that it names, and its older versions.
const READ: i64 = 8 * FEW as i64;

fn digest(number: u32) -> Digest {
    Digest(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// Digests from number `first`.
fn digests(first: u32) -> Vec<Digest> {
    (first..first + FEW).map(digest).collect()
}

fn entry(number: u32) -> Entry {
    Entry {
        digest: digest(number),
        offset: number * 10,
        length: 10,
        plain_bytes: 10,
        kind: FrameKind::Data,
        level: 0,
    }
}

async fn planted(db: &DatabaseConnection) {
    Migrator::up(db, None).await.unwrap();
    if db.get_database_backend() != DbBackend::Sqlite {
        let sql = "ALTER TABLE store_chunk SET (autovacuum_enabled = off)";
        db.execute_unprepared(sql).await.unwrap();
    }
    let entries: Vec<(i64, Entry)> = (0..ROWS).map(|number| (7, entry(number))).collect();
    let written = chunks_insert(db, STORE, DOMAIN, 3, &entries).await.unwrap();
    assert_eq!(written, u64::from(ROWS));
}

/// Rows of the table that the transaction has read so far; nothing where the database does not tell.
async fn read(tx: &DatabaseTransaction) -> i64 {
    if tx.get_database_backend() == DbBackend::Sqlite {
        return 0;
    }
    let sql =
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'store_chunk'";
    let statement = Statement::from_string(DbBackend::Postgres, sql);
    let row = tx.query_one_raw(statement).await.unwrap().unwrap();
    row.try_get_by_index(0).unwrap()
}

/// Does something in a transaction, and fails when it read more than what it names.
async fn within<T>(
    db: &DatabaseConnection,
    what: &str,
    work: impl AsyncFn(&DatabaseTransaction) -> Result<T, DbErr>,
) -> T {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let tx = db.begin_with_options(options).await.unwrap();
    let done = work(&tx).await.unwrap();
    let rows = read(&tx).await;
    tx.commit().await.unwrap();
    assert!(rows <= READ, "{what}: {rows} rows were read of {ROWS}");
    done
}

async fn hits(db: &DatabaseConnection, some: &[Digest]) -> Vec<Hit> {
    let found = within(db, "a look-up", async |tx| {
        chunks_get(tx, STORE, DOMAIN, some).await
    })
    .await;
    some.iter().filter_map(|one| found.get(one)).copied().collect()
}

async fn each_statement_reads_what_it_names(db: &DatabaseConnection) {
    planted(db).await;
    let (first, second) = (digests(0), digests(10_000));
    let of = |digests| Digests {
        store: STORE,
        domain: DOMAIN,
        names: digests,
    };

    let found = hits(db, &first).await;
    assert_eq!(found.len(), first.len());
    assert!(
        found
            .iter()
            .zip(0..)
            .all(|(hit, number)| hit.location.offset == number * 10)
    );
    assert!(hits(db, &digests(ROWS)).await.is_empty());

    for some in [&first, &second] {
        let done = within(db, "condemning", async |tx| {
            chunks_condemn(tx, of(some), 4, 9).await
        })
        .await;
        assert_eq!(done, (u64::from(FEW), 0));
    }
    within(db, "resurrecting", async |tx| {
        chunks_resurrect(tx, STORE, DOMAIN, &first).await
    })
    .await;
    assert!(
        hits(db, &first)
            .await
            .iter()
            .all(|hit| hit.state == chunk_state::LIVE && hit.epoch == 9)
    );
    assert!(
        hits(db, &second)
            .await
            .iter()
            .all(|hit| hit.state == chunk_state::CONDEMNED)
    );

    let both = [first.clone(), second.clone()].concat();
    let gone = within(db, "burying", async |tx| chunks_bury(tx, of(&both[..]), 9).await).await;
    assert_eq!(gone, u64::from(FEW));
    assert!(hits(db, &second).await.is_empty());

    let moved: Vec<_> = first
        .iter()
        .zip(0..)
        .map(|(one, number)| (*one, 7, number, 5))
        .collect();
    let done = within(db, "moving", async |tx| {
        chunks_move(tx, (STORE, DOMAIN), 8, &moved).await
    })
    .await;
    assert_eq!(done, u64::from(FEW));
    let found = hits(db, &first).await;
    assert!(
        found
            .iter()
            .zip(0..)
            .all(|(hit, number)| (hit.location.object, hit.location.offset) == (8, number))
    );
    let one = within(db, "moving one", async |tx| {
        chunks_move(tx, (STORE, DOMAIN), 9, &[(first[0], 8, 1, 5)]).await
    })
    .await;
    assert_eq!(one, 1);
}

/// SQLite does not count what it reads. It tells how it would: of the statement that is not the usual list of digests.
async fn moving_is_a_search(db: &DatabaseConnection) {
    let mut statement = move_statement(
        DbBackend::Sqlite,
        (STORE, DOMAIN),
        8,
        &[(digest(1), 7, 1, 5); 200],
    );
    statement.sql.insert_str(0, "EXPLAIN QUERY PLAN ");
    let rows = db.query_all_raw(statement).await.unwrap();
    let plan: Vec<String> = rows
        .iter()
        .map(|row| row.try_get("", "detail").unwrap())
        .collect();
    let search = "SEARCH store_chunk USING PRIMARY KEY (store=? AND domain=? AND digest=?)";
    assert!(plan.iter().any(|step| step == search), "{plan:#?}");
}

#[tokio::test]
async fn each_statement_reads_what_it_names_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", dir.path().join("db.sqlite").display());
    let db = Database::connect(url).await.unwrap();
    each_statement_reads_what_it_names(&db).await;
    a_judgement_counts_where_it_follows_the_last_one(&db).await;
    moving_is_a_search(&db).await;
}

#[tokio::test]
async fn each_statement_reads_what_it_names_on_postgresql() {
    let Some((_, url)) = std::env::vars().find(|(name, _)| name == "CISTERN_TEST_POSTGRES") else {
        eprintln!("skipped on PostgreSQL: CISTERN_TEST_POSTGRES is not set");
        return;
    };
    let name = format!("rows_{}", uuid::Uuid::new_v4().simple());
    let cluster = Database::connect(&url).await.unwrap();
    cluster
        .execute_unprepared(&format!("CREATE DATABASE {name}"))
        .await
        .unwrap();
    let (server, _) = url.rsplit_once('/').expect("a URL with a database");
    let mut options = ConnectOptions::new(format!("{server}/{name}"));
    options
        .max_connections(2)
        .sqlx_logging(false)
        .map_sqlx_postgres_opts(|options| options.options(POSTGRES_SETTINGS));
    let db = Database::connect(options).await.unwrap();
    each_statement_reads_what_it_names(&db).await;
    a_judgement_counts_where_it_follows_the_last_one(&db).await;
    db.close().await.unwrap();
    cluster
        .execute_unprepared(&format!("DROP DATABASE {name}"))
        .await
        .unwrap();
}

/// The row of the object that all planted chunks lie in, as it is now.
async fn object(db: &DatabaseConnection) -> object::Model {
    let rows = objects_get(db, &[7]).await.unwrap();
    rows.into_iter().next().expect("its row")
}

async fn judge(db: &DatabaseConnection, judged: &Judged<'_>) -> bool {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let tx = db.begin_with_options(options).await.unwrap();
    let is_written = object_judge(&tx, judged).await.unwrap();
    tx.commit().await.unwrap();
    is_written
}

/// Of more chunks than one statement takes.
async fn a_judgement_counts_where_it_follows_the_last_one(db: &DatabaseConnection) {
    let row = object::Model {
        id: 7,
        store: STORE,
        key: uuid::Uuid::new_v4(),
        kind: object_kind::PACK,
        state: object_state::LIVE,
        session: None,
        bytes: 1,
        frames: 1,
        created_us: 1,
        changed_us: 1,
        verified_us: 1,
        damaged: false,
    };
    let insert = object::Entity::insert(object::ActiveModel::from(row));
    insert.exec_without_returning(db).await.unwrap();
    let chunks = chunks_of(db, STORE, 7).await.unwrap();
    let all = chunks.len();
    assert!(all > 10_000, "{all}");
    let first = object(db).await;
    let found = Judged {
        object: &first,
        is_faulty: true,
        damaged: &chunks,
        whole: &[],
        read_us: Some(5),
    };
    let moved: Vec<Moved> = vec![(chunks[0].digest, 7, 1, 10)];
    assert_eq!(chunks_move(db, (STORE, DOMAIN), 8, &moved).await.unwrap(), 1);
    assert!(judge(db, &found).await);
    assert!(!judge(db, &found).await, "another came before");
    let marked = chunks_marked(db, STORE, 0..=100).await.unwrap();
    assert_eq!(marked.len(), all - 1, "one lies elsewhere");
    let second = object(db).await;
    assert_eq!((second.verified_us, second.damaged), (5, true));
    // At the same time as the one before, and only looked at: it is another one all the same.
    for (read_us, verified_us) in [(Some(5), 6), (None, 7)] {
        let row = object(db).await;
        let whole = Judged {
            object: &row,
            is_faulty: false,
            damaged: &[],
            whole: &marked[..all / 2],
            read_us,
        };
        assert!(judge(db, &whole).await);
        let row = object(db).await;
        assert_eq!(
            (row.verified_us, row.damaged),
            (verified_us, true),
            "some are left"
        );
    }
    objects_verified(db, vec![7], 5).await.unwrap();
    assert_eq!(object(db).await.verified_us, 7, "never back");
    let row = object(db).await;
    let whole = Judged {
        object: &row,
        is_faulty: false,
        damaged: &[],
        whole: &marked,
        read_us: Some(9),
    };
    assert!(judge(db, &whole).await);
    let row = object(db).await;
    assert_eq!((row.verified_us, row.damaged), (9, false));
    assert!(chunks_marked(db, STORE, 7..=7).await.unwrap().is_empty());
    let many: Vec<i64> = (1000..100_000).collect();
    assert!(objects_get(db, &many).await.unwrap().is_empty());
}

/// Of two runs of gc one is over, and may not know it yet.
#[tokio::test]
async fn an_object_without_a_row_is_remembered_once_whoever_else_sees_it() {
    let db = Database::connect("sqlite::memory:").await.unwrap();
    Migrator::up(&db, None).await.unwrap();
    for seen_us in [5, 6] {
        let row = orphan::Model {
            store: STORE,
            key: "p/ab/abc".into(),
            bytes: 3,
            seen_us,
        };
        orphan_insert(&db, row).await.unwrap();
    }
    let known = orphans_list(&db, STORE).await.unwrap();
    assert_eq!(known.iter().map(|row| row.seen_us).collect::<Vec<_>>(), [5]);
}
