//! The statements about the database itself.

use sea_orm::entity::prelude::*;
use sea_orm::{DbBackend, QueryOrder, Statement};
use sea_orm_migration::{SchemaManager, seaql_migrations};

use super::super::clock::Time;

/// The names of the migrations that were applied, oldest first; none where nothing was ever migrated.
pub async fn migrations_applied(conn: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    if !SchemaManager::new(conn).has_table("seaql_migrations").await? {
        return Ok(Vec::new());
    }
    let rows = seaql_migrations::Entity::find()
        .order_by_asc(seaql_migrations::Column::Version)
        .all(conn)
        .await?;
    Ok(rows.into_iter().map(|row| row.version).collect())
}

/// Whether a store was begun in this database: from then on the two belong together. None where it was not migrated
/// yet.
pub async fn store_is_begun(conn: &DatabaseConnection) -> Result<bool, DbErr> {
    if !SchemaManager::new(conn).has_table("store_meta").await? {
        return Ok(false);
    }
    let any = Statement::from_string(conn.get_database_backend(), "SELECT id FROM store_meta LIMIT 1");
    Ok(conn.query_one_raw(any).await?.is_some())
}

/// Whether the store of this database was made and is complete: it has to be there. None where it was not migrated yet.
pub async fn store_is_ready(conn: &DatabaseConnection) -> Result<bool, DbErr> {
    if !SchemaManager::new(conn).has_table("store_meta").await? {
        return Ok(false);
    }
    let ready = "SELECT id FROM store_meta WHERE ready LIMIT 1";
    let ready = Statement::from_string(conn.get_database_backend(), ready);
    Ok(conn.query_one_raw(ready).await?.is_some())
}

/// Which store was begun in this database, if one was. The table is there.
pub async fn store_id(conn: &DatabaseConnection) -> Result<Option<Uuid>, DbErr> {
    let first = Statement::from_string(
        conn.get_database_backend(),
        "SELECT store_id FROM store_meta LIMIT 1",
    );
    let row = conn.query_one_raw(first).await?;
    row.map(|row| row.try_get_by_index(0)).transpose()
}

/// What SQLite finds wrong in its file, the first of it; none where it is whole. Reads all of it.
pub async fn sqlite_faults(conn: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    let check = Statement::from_string(DbBackend::Sqlite, "PRAGMA quick_check(3)");
    let rows = conn.query_all_raw(check).await?;
    let found: Result<Vec<String>, DbErr> = rows.iter().map(|row| row.try_get_by_index(0)).collect();
    Ok(found?.into_iter().filter(|text| text != "ok").collect())
}

/// Copies a whole SQLite database, consistently, into a new file.
pub async fn sqlite_copy_into(conn: &impl ConnectionTrait, path: &str) -> Result<(), DbErr> {
    let statement = Statement::from_sql_and_values(DbBackend::Sqlite, "VACUUM INTO ?", [path.into()]);
    conn.execute_raw(statement).await?;
    Ok(())
}

/// Brings the whole log of changes into the file, and empties it; false where somebody who reads kept it from that.
pub async fn sqlite_fold(conn: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let fold = Statement::from_string(DbBackend::Sqlite, "PRAGMA wal_checkpoint(TRUNCATE)");
    let row = conn.query_one_raw(fold).await?;
    let is_busy: Option<i32> = row.map(|row| row.try_get_by_index(0)).transpose()?;
    Ok(is_busy == Some(0))
}

/// Has the server of a new PostgreSQL connection set these, apart from those that it does not know.
pub async fn postgres_set(
    conn: &mut sqlx::PgConnection,
    settings: &[(&str, &str)],
) -> Result<(), sqlx::Error> {
    let known = "SELECT set_config($1, $2, false) WHERE current_setting($1, true) IS NOT NULL";
    for (name, value) in settings {
        sqlx::query(known)
            .bind(name)
            .bind(value)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// This transaction may be silent for as long as it likes.
pub async fn postgres_silence_allow(conn: &impl ConnectionTrait) -> Result<(), DbErr> {
    let sql = "SET LOCAL idle_in_transaction_session_timeout = 0";
    conn.execute_unprepared(sql).await.map(drop)
}

/// Copies every table of the current PostgreSQL schema into a new schema, as one that a server can run on when it takes
/// the other's name: with keys, indexes and references between the copies, all under the names that later migrations
/// know, and with counters of its own.
pub async fn postgres_copy_into(conn: &impl ConnectionTrait, schema: &str) -> Result<(), DbErr> {
    let from = postgres_texts(conn, "SELECT quote_ident(current_schema())").await?;
    let from = from.concat();
    let path = postgres_texts(conn, "SELECT current_setting('search_path')").await?;
    let tables = postgres_texts(
        conn,
        "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1",
    )
    .await?;
    // As long as the originals are on the path, their definitions name no schema; executed on the other path, they are
    // the copies'.
    let mut after = Vec::new();
    for sql in [POSTGRES_COUNTERS, POSTGRES_INDEXES, POSTGRES_CONSTRAINTS] {
        after.extend(postgres_texts(conn, sql).await?);
    }
    let mut all = vec![
        format!("CREATE SCHEMA \"{schema}\""),
        format!("SET LOCAL search_path TO \"{schema}\""),
    ];
    for table in tables {
        all.push(format!(
            "CREATE TABLE {table} (LIKE {from}.{table} INCLUDING ALL EXCLUDING INDEXES)"
        ));
        all.push(format!(
            "INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {from}.{table}"
        ));
    }
    all.extend(after);
    for sql in all {
        conn.execute_raw(Statement::from_string(DbBackend::Postgres, sql))
            .await?;
    }
    let back = "SELECT set_config('search_path', $1, true)";
    let back = Statement::from_sql_and_values(DbBackend::Postgres, back, [path.concat().into()]);
    conn.query_one_raw(back).await.map(drop)
}

/// Moves every table of the current PostgreSQL schema, with its indexes and counters, into a new schema.
pub async fn postgres_move_aside(conn: &impl ConnectionTrait, schema: &str) -> Result<(), DbErr> {
    let tables = postgres_texts(
        conn,
        "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1",
    )
    .await?;
    let mut all = vec![format!("CREATE SCHEMA \"{schema}\"")];
    all.extend(
        tables
            .iter()
            .map(|table| format!("ALTER TABLE {table} SET SCHEMA \"{schema}\"")),
    );
    for sql in all {
        conn.execute_raw(Statement::from_string(DbBackend::Postgres, sql))
            .await?;
    }
    Ok(())
}

/// Statements that set the counters of the copies' keys to where the originals are. `LIKE` gives an identity column a
/// counter of its own.
const POSTGRES_COUNTERS: &str = "
    SELECT format('SELECT setval(pg_get_serial_sequence(%L, %L), last_value, is_called) FROM %I.%I',
        quote_ident(t.relname), a.attname, n.nspname, s.relname)
    FROM pg_depend d
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    JOIN pg_class t ON t.oid = d.refobjid
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
    JOIN pg_namespace n ON n.oid = s.relnamespace
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'i'
        AND n.nspname = current_schema()";

/// Statements that make the indexes again; `LIKE` would give them other names. Those of constraints come with these.
const POSTGRES_INDEXES: &str = "
    SELECT pg_get_indexdef(i.indexrelid, 0, true)
    FROM pg_index i
    JOIN pg_class t ON t.oid = i.indrelid AND t.relkind = 'r'
    JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE n.nspname = current_schema() AND NOT EXISTS (SELECT FROM pg_constraint c
        WHERE c.conindid = i.indexrelid AND c.conrelid = i.indrelid AND c.contype IN ('p', 'u', 'x'))";

/// Statements that make the keys again, and the references after what they refer to. `LIKE` copies the other kinds.
const POSTGRES_CONSTRAINTS: &str = "
    SELECT format('ALTER TABLE %I ADD CONSTRAINT %I %s', t.relname, c.conname, pg_get_constraintdef(c.oid, true))
    FROM pg_constraint c
    JOIN pg_class t ON t.oid = c.conrelid AND t.relkind = 'r'
    JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE n.nspname = current_schema() AND c.contype IN ('p', 'u', 'x', 'f')
    ORDER BY c.contype = 'f'";

/// The first column of every row.
async fn postgres_texts(conn: &impl ConnectionTrait, sql: &str) -> Result<Vec<String>, DbErr> {
    let statement = Statement::from_string(DbBackend::Postgres, sql);
    let rows = conn.query_all_raw(statement).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// The name of this PostgreSQL database, and the encoding that it keeps texts in.
pub async fn postgres_encoding(conn: &impl ConnectionTrait) -> Result<(String, String), DbErr> {
    let name = postgres_texts(conn, "SELECT current_database()::text").await?;
    let encoding = postgres_texts(conn, "SELECT current_setting('server_encoding')").await?;
    Ok((name.concat(), encoding.concat()))
}

/// Waits until no other server starts on this PostgreSQL database; released at the end of the transaction.
pub async fn postgres_start_lock(conn: &impl ConnectionTrait) -> Result<(), DbErr> {
    // An arbitrary constant: "cistern" in ASCII.
    const KEY: i64 = 0x0063_6973_7465_726e;
    let statement = Statement::from_string(
        DbBackend::Postgres,
        format!("SELECT pg_advisory_xact_lock({KEY})"),
    );
    conn.execute_raw(statement).await?;
    Ok(())
}

/// A name for a copy made at `now`.
pub fn copy_name(now: Time) -> String {
    format!("before_migration_{}", now.format("%Y%m%dT%H%M%S"))
}

/// How SQLite would run a statement, a line a step.
#[cfg(test)]
pub async fn sqlite_plan(conn: &impl ConnectionTrait, mut statement: Statement) -> Vec<String> {
    statement.sql = format!("EXPLAIN QUERY PLAN {}", statement.sql);
    let rows = conn.query_all_raw(statement).await.expect("SQLite explains it");
    rows.iter()
        .map(|row| row.try_get("", "detail").expect("a text"))
        .collect()
}

/// A table for the tests of transactions and migrations.
#[cfg(test)]
pub mod note {
    use sea_orm::Set;
    use sea_orm::entity::prelude::*;
    use sea_orm::sea_query::{ColumnDef, OnConflict, Table, TableCreateStatement};

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "note")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub value: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}

    pub fn table() -> TableCreateStatement {
        Table::create()
            .table("note")
            .col(ColumnDef::new("name").text().primary_key())
            .col(ColumnDef::new("value").text().not_null())
            .to_owned()
    }

    pub async fn table_make(conn: &impl ConnectionTrait) {
        conn.execute(&table()).await.expect("a new table");
    }

    /// Ends a transaction behind the driver's back, as the database does where a disk is full.
    pub async fn transaction_end(conn: &impl ConnectionTrait) {
        conn.execute_unprepared("ROLLBACK").await.expect("one is open");
    }

    pub async fn get(conn: &impl ConnectionTrait, name: &str) -> Option<String> {
        let found = Entity::find_by_id(name.to_owned())
            .one(conn)
            .await
            .expect("reads");
        found.map(|row| row.value)
    }

    pub async fn set(conn: &impl ConnectionTrait, name: &str, value: &str) {
        let row = ActiveModel {
            name: Set(name.to_owned()),
            value: Set(value.to_owned()),
        };
        let on_conflict = OnConflict::column(Column::Name)
            .update_column(Column::Value)
            .to_owned();
        let insert = Entity::insert(row).on_conflict(on_conflict);
        insert.exec_without_returning(conn).await.expect("writes");
    }
}
