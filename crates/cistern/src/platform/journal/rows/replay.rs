//! Bringing rows back into a new database.

use std::collections::BTreeMap;

use sea_orm::sea_query::{Alias, Query};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait as _, Statement,
    TransactionTrait as _,
};

use super::change;
use super::values::TableColumns;
use crate::platform::journal::model::{Entry, Row};

/// Values in one statement: few enough for both databases.
const VALUES_A_STATEMENT: usize = 20_000;

/// Inserts rows of one table. With `leniently` those that contradict others are left out; gives how many were written,
/// and how many left out.
pub async fn rows_insert(
    tx: &DatabaseTransaction,
    table: &str,
    columns: &TableColumns,
    entries: &[Entry],
    leniently: bool,
) -> Result<(u64, u64), DbErr> {
    let rows: Vec<&Row> = entries.iter().filter_map(|entry| entry.row.as_ref()).collect();
    let Some(first) = rows.first() else {
        return Ok((0, 0));
    };
    if !leniently {
        let each = columns.common(first).count().max(1);
        for batch in rows.chunks(VALUES_A_STATEMENT / each) {
            insert(tx, table, columns, batch).await?;
        }
        return Ok((rows.len() as u64, 0));
    }
    let (mut written, mut left_out) = (0, 0);
    for row in rows {
        let inner = tx
            .begin_with_options(sea_orm::TransactionOptions::default())
            .await?;
        match insert(&inner, table, columns, &[row]).await {
            Ok(()) => {
                inner.commit().await?;
                written += 1;
            }
            Err(error) => {
                inner.rollback().await?;
                tracing::warn!(table, %error, "a row contradicts others and is left out");
                left_out += 1;
            }
        }
    }
    Ok((written, left_out))
}

async fn insert(
    conn: &impl ConnectionTrait,
    table: &str,
    columns: &TableColumns,
    rows: &[&Row],
) -> Result<(), DbErr> {
    let names: Vec<&str> = columns.common(rows[0]).collect();
    let mut insert = Query::insert();
    insert
        .into_table(Alias::new(table))
        .columns(names.iter().map(|name| Alias::new(*name)));
    for row in rows {
        let mut values = Vec::with_capacity(names.len());
        for name in &names {
            let json = row.get(*name).unwrap_or(&serde_json::Value::Null);
            values.push(columns.value(name, json)?.into());
        }
        insert
            .values(values)
            .map_err(|error| DbErr::Custom(error.to_string()))?;
    }
    conn.execute(&insert).await.map(drop)
}

/// Raises the counters of tables, where they are lower: no number below is given to a row again. Tables that are not
/// there are passed over.
pub async fn counters_raise(
    conn: &impl ConnectionTrait,
    counters: &BTreeMap<String, i64>,
) -> Result<(), DbErr> {
    let backend = conn.get_database_backend();
    let sqls: &[&str] = match backend {
        DbBackend::Sqlite => &[
            "INSERT INTO sqlite_sequence (name, seq) SELECT $1, 0 WHERE NOT EXISTS
                (SELECT 1 FROM sqlite_sequence WHERE name = $1)
                AND EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1)",
            "UPDATE sqlite_sequence SET seq = MAX(seq, $2) WHERE name = $1",
        ],
        _ => &[
            "SELECT setval(s.oid::regclass, GREATEST($2, COALESCE(pg_sequence_last_value(s.oid), 1)))
             FROM pg_depend d
             JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
             JOIN pg_class t ON t.oid = d.refobjid
             JOIN pg_namespace n ON n.oid = t.relnamespace
             WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                AND d.deptype IN ('i', 'a') AND n.nspname = current_schema() AND t.relname = $1",
        ],
    };
    for (table, last) in counters {
        for sql in sqls {
            let values = if sql.contains("$2") {
                vec![table.as_str().into(), (*last).into()]
            } else {
                vec![table.as_str().into()]
            };
            conn.execute_raw(Statement::from_sql_and_values(backend, *sql, values))
                .await?;
        }
    }
    Ok(())
}

/// Forgets every note of a change.
pub async fn changes_forget(conn: &impl ConnectionTrait) -> Result<(), DbErr> {
    change::Entity::delete_many().exec(conn).await.map(drop)
}

/// Every table of the database.
pub async fn tables_of(conn: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    let backend = conn.get_database_backend();
    let sql = match backend {
        DbBackend::Sqlite => {
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1"
        }
        _ => "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1",
    };
    let rows = conn.query_all_raw(Statement::from_string(backend, sql)).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}
