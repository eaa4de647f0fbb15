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

/// Copies a whole SQLite database, consistently, into a new file.
pub async fn sqlite_copy_into(conn: &impl ConnectionTrait, path: &str) -> Result<(), DbErr> {
    let statement = Statement::from_sql_and_values(DbBackend::Sqlite, "VACUUM INTO ?", [path.into()]);
    conn.execute_raw(statement).await?;
    Ok(())
}

/// Brings the whole log of changes into the file, and empties it.
pub async fn sqlite_fold(conn: &impl ConnectionTrait) -> Result<(), DbErr> {
    let fold = Statement::from_string(DbBackend::Sqlite, "PRAGMA wal_checkpoint(TRUNCATE)");
    conn.query_one_raw(fold).await.map(drop)
}

/// Copies every table of the current PostgreSQL schema into a new schema.
pub async fn postgres_copy_into(conn: &impl ConnectionTrait, schema: &str) -> Result<(), DbErr> {
    let raw = |sql: String| Statement::from_string(DbBackend::Postgres, sql);
    let list = raw("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()".into());
    let tables = conn.query_all_raw(list).await?;
    conn.execute_raw(raw(format!("CREATE SCHEMA \"{schema}\"")))
        .await?;
    for table in tables {
        let name: String = table.try_get("", "tablename")?;
        conn.execute_raw(raw(format!(
            "CREATE TABLE \"{schema}\".\"{name}\" AS TABLE \"{name}\""
        )))
        .await?;
    }
    Ok(())
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
