//! The store's tables. The service puts these migrations in front of its own.
//!
//! Times are whole microseconds since 1970 in a bigint, so that both databases keep and compare them alike.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

/// The store's migrations, in order. Their names begin with `store_`.
pub fn migrations() -> Vec<Box<dyn MigrationTrait>> {
    vec![
        Box::new(Tables),
        Box::new(Gc),
        Box::new(Health),
        Box::new(HeaderNumber),
        Box::new(ObjectDamaged),
        Box::new(HeaderLast),
    ]
}

struct Tables;

impl MigrationName for Tables {
    fn name(&self) -> &'static str {
        "store_0001_tables"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Tables {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(meta()).await?;
        manager.create_table(session()).await?;
        manager.create_table(session_pin()).await?;
        manager.create_table(session_root()).await?;
        manager.create_table(object()).await?;
        manager.create_table(root()).await?;
        chunk_create(manager).await?;
        for index in indexes() {
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [
            "root",
            "chunk",
            "object",
            "session_root",
            "session_pin",
            "session",
            "meta",
        ] {
            manager
                .drop_table(
                    Table::drop()
                        .table(Alias::new(format!("store_{table}")))
                        .to_owned(),
                )
                .await?;
        }
        Ok(())
    }
}

/// What gc needs: its runs, an order among pins, what is condemned, and what lies about.
struct Gc;

impl MigrationName for Gc {
    fn name(&self) -> &'static str {
        "store_0002_gc"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Gc {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(gc()).await?;
        manager.create_table(orphan()).await?;
        let restorable = Table::alter()
            .table(Alias::new("store_root"))
            .add_column(col("restorable").boolean().default(false))
            .to_owned();
        manager.alter_table(restorable).await?;
        // No writer lives through a migration: what its sessions pinned goes with them.
        let db = manager.get_connection();
        db.execute_unprepared("DROP TABLE store_session_pin").await?;
        manager.create_table(session_pin_ordered()).await?;
        let index = index("store_session_pin_session", "store_session_pin", &["session"]);
        manager.create_index(index).await?;
        db.execute_unprepared("UPDATE store_session SET state = 3 WHERE state = 1")
            .await?;
        db.execute_unprepared(
            "CREATE INDEX store_chunk_condemned ON store_chunk (store, epoch) WHERE state = 2",
        )
        .await
        .map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        for sql in [
            "DROP INDEX store_chunk_condemned",
            "DROP TABLE store_session_pin",
            "DROP TABLE store_orphan",
            "DROP TABLE store_gc",
            "ALTER TABLE store_root DROP COLUMN restorable",
        ] {
            db.execute_unprepared(sql).await?;
        }
        manager.create_table(session_pin()).await
    }
}

/// When objects were read last, and what was found damaged.
struct Health;

impl MigrationName for Health {
    fn name(&self) -> &'static str {
        "store_0003_health"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Health {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let verified = Table::alter()
            .table(Alias::new("store_object"))
            .add_column(col("verified_us").big_integer().default(0))
            .to_owned();
        manager.alter_table(verified).await?;
        let db = manager.get_connection();
        db.execute_unprepared("UPDATE store_object SET verified_us = changed_us")
            .await?;
        manager
            .create_index(index(
                "store_object_verified",
                "store_object",
                &["store", "state", "verified_us"],
            ))
            .await?;
        db.execute_unprepared("CREATE INDEX store_chunk_damaged ON store_chunk (store) WHERE state = 4")
            .await?;
        manager.create_table(damage()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        for sql in [
            "DROP TABLE store_damage",
            "DROP INDEX store_chunk_damaged",
            "DROP INDEX store_object_verified",
            "ALTER TABLE store_object DROP COLUMN verified_us",
        ] {
            db.execute_unprepared(sql).await?;
        }
        Ok(())
    }
}

/// Headers were written once; wrapping keys write more, each under a number of its own.
struct HeaderNumber;

impl MigrationName for HeaderNumber {
    fn name(&self) -> &'static str {
        "store_0009_header_number"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for HeaderNumber {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut column = col("header_number");
        let alter = Table::alter()
            .table(Alias::new("store_meta"))
            .add_column(column.integer().default(0))
            .to_owned();
        manager.alter_table(alter).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let alter = Table::alter()
            .table(Alias::new("store_meta"))
            .drop_column(Alias::new("header_number"))
            .to_owned();
        manager.alter_table(alter).await
    }
}

/// Which objects hold something that was found damaged: gc writes anew what is needed of such a pack.
struct ObjectDamaged;

impl MigrationName for ObjectDamaged {
    fn name(&self) -> &'static str {
        "store_0010_object_damaged"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for ObjectDamaged {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let damaged = Table::alter()
            .table(Alias::new("store_object"))
            .add_column(col("damaged").boolean().default(false))
            .to_owned();
        manager.alter_table(damaged).await?;
        // One that is healed already names no chunk of what it holds: the next verification, or scrub, finds it.
        let sql = "UPDATE store_object SET damaged = TRUE WHERE id IN (SELECT object FROM store_chunk WHERE state = 4)";
        manager.get_connection().execute_unprepared(sql).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let alter = Table::alter()
            .table(Alias::new("store_object"))
            .drop_column(Alias::new("damaged"))
            .to_owned();
        manager.alter_table(alter).await
    }
}

/// Numbers that were claimed for headers of which none was written: they say nothing of those that were.
struct HeaderLast;

impl MigrationName for HeaderLast {
    fn name(&self) -> &'static str {
        "store_0011_header_last"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for HeaderLast {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut column = col("header_last");
        let alter = Table::alter()
            .table(Alias::new("store_meta"))
            .add_column(column.integer().default(0))
            .to_owned();
        manager.alter_table(alter).await?;
        let sql = "UPDATE store_meta SET header_last = header_number";
        manager.get_connection().execute_unprepared(sql).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let alter = Table::alter()
            .table(Alias::new("store_meta"))
            .drop_column(Alias::new("header_last"))
            .to_owned();
        manager.alter_table(alter).await
    }
}

fn damage() -> TableCreateStatement {
    table("damage")
        .col(col("store").integer())
        .col(col("kind").string())
        .col(col("owner").string())
        .col(col("from_byte").big_integer())
        .col(col("to_byte").big_integer())
        .col(col("reason").text())
        .col(col("found_us").big_integer())
        .primary_key(&mut key(["store", "kind", "owner", "from_byte"]))
        .to_owned()
}

fn table(name: &str) -> TableCreateStatement {
    Table::create()
        .table(Alias::new(format!("store_{name}")))
        .to_owned()
}

fn col(name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(Alias::new(name));
    column.not_null();
    column
}

fn key<const N: usize>(columns: [&'static str; N]) -> IndexCreateStatement {
    let mut index = Index::create().primary().to_owned();
    for column in columns {
        index.col(Alias::new(column));
    }
    index
}

fn meta() -> TableCreateStatement {
    table("meta")
        .col(col("id").integer().primary_key())
        .col(col("store_id").uuid().unique_key())
        .col(col("ready").boolean())
        .col(col("format").integer())
        .col(col("digest_key_id").string())
        .col(col("epoch").big_integer())
        .col(ColumnDef::new(Alias::new("gc_fence")).uuid().null())
        .col(col("created_us").big_integer())
        .to_owned()
}

fn session() -> TableCreateStatement {
    table("session")
        .col(col("id").uuid().primary_key())
        .col(col("store").integer())
        .col(col("domain").big_integer())
        .col(col("owner").string())
        .col(col("fence").uuid())
        .col(col("state").small_integer())
        .col(col("start_epoch").big_integer())
        .col(col("lease_until_us").big_integer())
        .col(col("created_us").big_integer())
        .col(col("ended_us").big_integer())
        .to_owned()
}

fn session_pin() -> TableCreateStatement {
    table("session_pin")
        .col(col("session").uuid())
        .col(col("number").big_integer())
        .col(col("epoch").big_integer())
        .col(col("digests").binary())
        .primary_key(&mut key(["session", "number"]))
        .to_owned()
}

/// As `session_pin`, with numbers that rise and are never used again: gc asks for what is newer than it has seen.
fn session_pin_ordered() -> TableCreateStatement {
    table("session_pin")
        .col(col("id").big_integer().auto_increment().primary_key())
        .col(col("session").uuid())
        .col(col("digests").binary())
        .to_owned()
}

fn gc() -> TableCreateStatement {
    table("gc")
        .col(col("store").integer())
        .col(col("epoch").big_integer())
        .col(col("started_us").big_integer())
        .col(col("ended_us").big_integer())
        .col(col("report").text())
        .primary_key(&mut key(["store", "epoch"]))
        .to_owned()
}

fn orphan() -> TableCreateStatement {
    table("orphan")
        .col(col("store").integer())
        .col(col("key").string())
        .col(col("bytes").big_integer())
        .col(col("seen_us").big_integer())
        .primary_key(&mut key(["store", "key"]))
        .to_owned()
}

fn session_root() -> TableCreateStatement {
    table("session_root")
        .col(col("session").uuid())
        .col(col("domain").big_integer())
        .col(col("digest").binary())
        .col(col("level").small_integer())
        .primary_key(&mut key(["session", "domain", "digest"]))
        .to_owned()
}

fn object() -> TableCreateStatement {
    table("object")
        .col(col("id").big_integer().auto_increment().primary_key())
        .col(col("store").integer())
        .col(col("key").uuid().unique_key())
        .col(col("kind").small_integer())
        .col(col("state").small_integer())
        .col(ColumnDef::new(Alias::new("session")).uuid().null())
        .col(col("bytes").big_integer())
        .col(col("frames").integer())
        .col(col("created_us").big_integer())
        .col(col("changed_us").big_integer())
        .to_owned()
}

fn root() -> TableCreateStatement {
    table("root")
        .col(col("store").integer())
        .col(col("kind").string())
        .col(col("owner").string())
        .col(col("domain").big_integer())
        .col(col("digest").binary())
        .col(col("level").small_integer())
        .col(col("virtual_bytes").big_integer())
        .col(col("allocated_bytes").big_integer())
        .col(col("epoch").big_integer())
        .col(col("created_us").big_integer())
        .primary_key(&mut key(["store", "kind", "owner"]))
        .to_owned()
}

/// One row a chunk, written once: clustered by its key on SQLite, where a second copy of every digest in a
/// separate index would double the table.
async fn chunk_create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let chunk = table("chunk")
        .col(col("store").integer())
        .col(col("domain").big_integer())
        .col(col("digest").binary())
        .col(col("object").big_integer())
        .col(col("offset").integer())
        .col(col("length").integer())
        .col(col("kind").small_integer())
        .col(col("state").small_integer())
        .col(col("epoch").big_integer())
        .primary_key(&mut key(["store", "domain", "digest"]))
        .to_owned();
    if manager.get_database_backend() != DbBackend::Sqlite {
        return manager.create_table(chunk).await;
    }
    let sql = format!("{} WITHOUT ROWID", chunk.to_string(SqliteQueryBuilder));
    manager.get_connection().execute_unprepared(&sql).await.map(drop)
}

fn index(name: &str, table: &str, columns: &[&'static str]) -> IndexCreateStatement {
    let mut index = Index::create();
    index.name(name).table(Alias::new(table));
    for column in columns {
        index.col(Alias::new(*column));
    }
    index.take()
}

fn indexes() -> Vec<IndexCreateStatement> {
    vec![
        index("store_object_session", "store_object", &["session"]),
        index("store_object_state", "store_object", &["store", "state"]),
        index("store_session_state", "store_session", &["store", "state"]),
        index("store_root_tree", "store_root", &["store", "domain", "digest"]),
    ]
}
