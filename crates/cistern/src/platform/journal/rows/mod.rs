//! The `journal_change` and `journal_state` tables, and the statements that read and bring back any journaled table.

mod replay;
mod triggers;
mod values;

use std::collections::{BTreeMap, HashMap};

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{ExprTrait as _, Query};
use sea_orm::{DbBackend, IntoActiveModel as _, QueryOrder, QuerySelect, Statement};

use super::model::{Entry, Key};
use super::tables::Table;
pub use replay::{changes_forget, counters_raise, rows_insert, tables_of};
pub use triggers::triggers_make;
#[cfg(test)]
pub use triggers::{primary_keys, triggers_of};
pub use values::{TableColumns, columns};

/// Keys in one statement.
const KEYS_A_STATEMENT: usize = 100;
/// Ids in one statement.
const IDS_A_STATEMENT: usize = 500;

/// A row of a journaled table that changed, and was not journaled yet.
pub mod change {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "journal_change")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub table_name: String,
        pub row_key: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// What the database knows of its journal: one row, once it has one.
pub mod state {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "journal_state")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i32,
        pub lineage: Uuid,
        /// The newest object that was written and noted as done.
        pub generation: i64,
        pub sequence: i64,
        pub code: Option<Vec<u8>>,
        /// The migrations that the tables had seen when the generation began.
        pub schema: String,
        /// Bytes of the generation's dump, and of what follows it.
        pub dump_bytes: i64,
        pub change_bytes: i64,
        /// The newest object that anybody meant to write.
        pub intended_generation: i64,
        pub intended_sequence: i64,
        /// Up to this generation objects are of the database that this one was recovered from.
        pub foreign_generation: i64,
        /// Who writes now.
        pub writer: Option<String>,
        pub fence: Option<Uuid>,
        pub lease_until: Option<DateTimeUtc>,
        /// The object that was completed before the newest one, where it is of the same generation and that is known.
        pub before_sequence: Option<i64>,
        /// An object was lost, and there was no room for a dump.
        pub is_dump_owed: bool,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The row's number.
const ONLY: i32 = 1;

/// What the database knows of its journal.
pub async fn state_get(conn: &impl ConnectionTrait) -> Result<Option<state::Model>, DbErr> {
    state::Entity::find_by_id(ONLY).one(conn).await
}

/// The same, held until the transaction ends.
pub async fn state_lock(conn: &impl ConnectionTrait) -> Result<Option<state::Model>, DbErr> {
    state::Entity::find_by_id(ONLY).lock_exclusive().one(conn).await
}

/// The row of a database whose journal begins after these generations.
pub fn state_new(lineage: Uuid, foreign_generation: u32) -> state::Model {
    state::Model {
        id: ONLY,
        lineage,
        generation: 0,
        sequence: 0,
        code: None,
        schema: String::new(),
        dump_bytes: 0,
        change_bytes: 0,
        intended_generation: i64::from(foreign_generation),
        intended_sequence: if foreign_generation > 0 { i64::MAX } else { 0 },
        foreign_generation: i64::from(foreign_generation),
        writer: None,
        fence: None,
        lease_until: None,
        before_sequence: None,
        is_dump_owed: false,
    }
}

/// Writes the first row; false where there is one.
pub async fn state_insert(conn: &impl ConnectionTrait, row: state::Model) -> Result<bool, DbErr> {
    let none = sea_orm::sea_query::OnConflict::column(state::Column::Id)
        .do_nothing()
        .to_owned();
    let inserted = state::Entity::insert(row.into_active_model())
        .on_conflict(none)
        .exec_without_returning(conn)
        .await?;
    Ok(inserted == 1)
}

/// Forgets what was known.
pub async fn state_forget(conn: &impl ConnectionTrait) -> Result<(), DbErr> {
    state::Entity::delete_many().exec(conn).await.map(drop)
}

/// Writes the row as it is now to be; the transaction has locked it.
pub async fn state_set(conn: &impl ConnectionTrait, row: state::Model) -> Result<(), DbErr> {
    let row = row.into_active_model().reset_all();
    row.update(conn).await.map(drop)
}

/// Lets go of the lease, where it is still held under this fence.
pub async fn lease_end(conn: &impl ConnectionTrait, fence: Uuid) -> Result<(), DbErr> {
    state::Entity::update_many()
        .col_expr(
            state::Column::LeaseUntil,
            Expr::value(Option::<DateTimeUtc>::None),
        )
        .filter(state::Column::Fence.eq(fence))
        .exec(conn)
        .await
        .map(drop)
}

/// Whether the lease was made longer: it is still held under this fence.
pub async fn lease_extend(
    conn: &impl ConnectionTrait,
    fence: Uuid,
    until: DateTimeUtc,
) -> Result<bool, DbErr> {
    let done = state::Entity::update_many()
        .col_expr(state::Column::LeaseUntil, Expr::value(Some(until)))
        .filter(state::Column::Fence.eq(fence))
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

/// The newest note of a change.
pub async fn change_newest(conn: &impl ConnectionTrait) -> Result<Option<i64>, DbErr> {
    let newest = change::Entity::find().order_by_desc(change::Column::Id);
    Ok(newest.one(conn).await?.map(|row| row.id))
}

/// Whether there are notes up to this one.
pub async fn change_any(conn: &impl ConnectionTrait, up_to: i64) -> Result<bool, DbErr> {
    let any = change::Entity::find().filter(change::Column::Id.lte(up_to));
    Ok(any.one(conn).await?.is_some())
}

/// Some notes after one, in order.
pub async fn change_page(
    conn: &impl ConnectionTrait,
    after: i64,
    limit: u64,
) -> Result<Vec<change::Model>, DbErr> {
    change::Entity::find()
        .filter(change::Column::Id.gt(after))
        .order_by_asc(change::Column::Id)
        .limit(limit)
        .all(conn)
        .await
}

/// Removes exactly these notes: on PostgreSQL one with a lower number may have been committed since.
pub async fn change_delete(conn: &impl ConnectionTrait, ids: &[i64]) -> Result<(), DbErr> {
    for batch in ids.chunks(IDS_A_STATEMENT) {
        change::Entity::delete_many()
            .filter(change::Column::Id.is_in(batch.iter().copied()))
            .exec(conn)
            .await?;
    }
    Ok(())
}

/// The rows of a table with these keys as they are now, or that they are gone.
pub async fn rows_get(
    conn: &impl ConnectionTrait,
    table: &Table,
    columns: &TableColumns,
    keys: Vec<Key>,
) -> Result<Vec<Entry>, DbErr> {
    let mut entries = Vec::with_capacity(keys.len());
    for batch in keys.chunks(KEYS_A_STATEMENT) {
        let mut select = columns.select(table);
        let mut any = sea_orm::Condition::any();
        for key in batch {
            let mut all = sea_orm::Condition::all();
            for (name, value) in table.key.iter().zip(key) {
                all = all.add(Expr::col(*name).eq(columns.value(name, value)?));
            }
            any = any.add(all);
        }
        select.cond_where(any);
        let rows = conn.query_all(&select).await?;
        let mut found: HashMap<String, Entry> = HashMap::new();
        for row in &rows {
            let entry = columns.entry(table, row)?;
            found.insert(serde_json::Value::Array(entry.key.clone()).to_string(), entry);
        }
        for key in batch {
            let text = serde_json::Value::Array(key.clone()).to_string();
            entries.push(found.remove(&text).unwrap_or_else(|| Entry {
                table: table.name.to_owned(),
                key: key.clone(),
                row: None,
            }));
        }
    }
    Ok(entries)
}

/// Some rows of a table after a key, in the order of keys.
pub async fn rows_page(
    conn: &impl ConnectionTrait,
    table: &Table,
    columns: &TableColumns,
    after: Option<&Key>,
    limit: u64,
) -> Result<Vec<Entry>, DbErr> {
    let mut select = columns.select(table);
    if let Some(after) = after {
        let names = table.key.iter().map(|name| Expr::col(*name));
        let mut values = Vec::new();
        for (name, value) in table.key.iter().zip(after) {
            values.push(Expr::value(columns.value(name, value)?));
        }
        select.and_where(Expr::tuple(names).gt(Expr::tuple(values)));
    }
    for name in table.key {
        select.order_by(*name, sea_orm::Order::Asc);
    }
    select.limit(limit);
    let rows = conn.query_all(&select).await?;
    rows.iter().map(|row| columns.entry(table, row)).collect()
}

/// The last number that each table has given to a row.
pub async fn counters(conn: &impl ConnectionTrait) -> Result<BTreeMap<String, i64>, DbErr> {
    if conn.get_database_backend() == DbBackend::Sqlite {
        let all = Query::select()
            .columns(["name", "seq"])
            .from("sqlite_sequence")
            .to_owned();
        let rows = conn.query_all(&all).await?;
        return rows
            .iter()
            .map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
            .collect();
    }
    let statement = Statement::from_string(DbBackend::Postgres, POSTGRES_COUNTERS);
    let rows = conn.query_all_raw(statement).await?;
    rows.iter()
        .map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
        .collect()
}

const POSTGRES_COUNTERS: &str = "
    SELECT t.relname::text, COALESCE(pg_sequence_last_value(s.oid), 0)
    FROM pg_depend d
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    JOIN pg_class t ON t.oid = d.refobjid
    JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('i', 'a')
        AND n.nspname = current_schema()";
