//! The triggers that note which rows of journaled tables changed, in the transaction of the change.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

use crate::platform::journal::tables::Table;

/// Makes the triggers of those of these tables anew that are there. To be called in the transaction of every migration.
pub async fn triggers_make(conn: &impl ConnectionTrait, tables: &[Table]) -> Result<(), DbErr> {
    let backend = conn.get_database_backend();
    let there = super::tables_of(conn).await?;
    let is_there = |table: &&Table| there.iter().any(|name| name == table.name);
    for table in tables.iter().filter(is_there) {
        let statements = match backend {
            DbBackend::Sqlite => sqlite(conn, table).await?,
            _ => postgres(table),
        };
        for sql in statements {
            conn.execute_raw(Statement::from_string(backend, sql)).await?;
        }
    }
    Ok(())
}

async fn sqlite(conn: &impl ConnectionTrait, table: &Table) -> Result<Vec<String>, DbErr> {
    let name = table.name;
    let note = |row: &str| {
        let key: Vec<String> = table.key.iter().map(|c| format!("{row}.\"{c}\"")).collect();
        format!(
            "INSERT INTO journal_change (table_name, row_key) SELECT '{name}', json_array({})",
            key.join(", ")
        )
    };
    let moved: Vec<String> = table
        .key
        .iter()
        .map(|c| format!("OLD.\"{c}\" IS NOT NEW.\"{c}\""))
        .collect();
    let of = loud(conn, table).await?;
    let (new, old, moved) = (note("NEW"), note("OLD"), moved.join(" OR "));
    let mut out: Vec<String> = ["insert", "update", "delete"]
        .iter()
        .map(|what| format!("DROP TRIGGER IF EXISTS journal_{name}_{what}"))
        .collect();
    out.extend([
        format!("CREATE TRIGGER journal_{name}_insert AFTER INSERT ON \"{name}\" BEGIN {new}; END"),
        format!(
            "CREATE TRIGGER journal_{name}_update AFTER UPDATE OF {of} ON \"{name}\" BEGIN {new}; {old} WHERE {moved}; END"
        ),
        format!("CREATE TRIGGER journal_{name}_delete AFTER DELETE ON \"{name}\" BEGIN {old}; END"),
    ]);
    Ok(out)
}

/// The columns whose change is journaled.
async fn loud(conn: &impl ConnectionTrait, table: &Table) -> Result<String, DbErr> {
    let columns = super::values::columns(conn, table.name).await?;
    let loud: Vec<String> = columns
        .names()
        .filter(|name| !table.quiet.contains(name))
        .map(|name| format!("\"{name}\""))
        .collect();
    Ok(loud.join(", "))
}

/// On PostgreSQL a function notes the change, and `quiet` columns are compared: a column may be set to what it is.
fn postgres(table: &Table) -> Vec<String> {
    let name = table.name;
    let key = |row: &str| {
        let key: Vec<String> = table.key.iter().map(|c| format!("{row}.\"{c}\"")).collect();
        format!("jsonb_build_array({})::text", key.join(", "))
    };
    let (new, old) = (key("NEW"), key("OLD"));
    let quiet: Vec<String> = table.quiet.iter().map(|c| format!(" - '{c}'")).collect();
    let quiet = quiet.concat();
    let note = "INSERT INTO journal_change (table_name, row_key) VALUES";
    vec![
        format!(
            "CREATE OR REPLACE FUNCTION journal_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF TG_OP = 'UPDATE' AND to_jsonb(NEW){quiet} = to_jsonb(OLD){quiet} THEN RETURN NULL; END IF;
                IF TG_OP <> 'INSERT' AND (TG_OP = 'DELETE' OR {old} <> {new}) THEN {note} ('{name}', {old}); END IF;
                IF TG_OP <> 'DELETE' THEN {note} ('{name}', {new}); END IF;
                RETURN NULL;
            END $$"
        ),
        format!("DROP TRIGGER IF EXISTS journal_{name} ON \"{name}\""),
        format!(
            "CREATE TRIGGER journal_{name} AFTER INSERT OR UPDATE OR DELETE ON \"{name}\"
                FOR EACH ROW EXECUTE FUNCTION journal_{name}()"
        ),
    ]
}

/// The tables that have triggers of the journal, once for each trigger.
#[cfg(test)]
pub async fn triggers_of(conn: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    let backend = conn.get_database_backend();
    let sql = match backend {
        DbBackend::Sqlite => {
            "SELECT tbl_name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'journal\\_%' ESCAPE '\\'"
        }
        _ => {
            "SELECT t.relname::text FROM pg_trigger g JOIN pg_class t ON t.oid = g.tgrelid
             JOIN pg_namespace n ON n.oid = t.relnamespace
             WHERE n.nspname = current_schema() AND g.tgname LIKE 'journal\\_%'"
        }
    };
    let rows = conn.query_all_raw(Statement::from_string(backend, sql)).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// The columns of every table's primary key, sorted.
#[cfg(test)]
pub async fn primary_keys(
    conn: &impl ConnectionTrait,
) -> Result<std::collections::HashMap<String, Vec<String>>, DbErr> {
    let backend = conn.get_database_backend();
    let sql = match backend {
        DbBackend::Sqlite => {
            "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
             WHERE m.type = 'table' AND c.pk > 0 ORDER BY 1, 2"
        }
        _ => {
            "SELECT t.relname::text, a.attname::text FROM pg_constraint c
             JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
             JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY (c.conkey)
             WHERE n.nspname = current_schema() AND c.contype = 'p' ORDER BY 1, 2"
        }
    };
    let mut out = std::collections::HashMap::<String, Vec<String>>::new();
    for row in conn.query_all_raw(Statement::from_string(backend, sql)).await? {
        out.entry(row.try_get_by_index(0)?)
            .or_default()
            .push(row.try_get_by_index(1)?);
    }
    Ok(out)
}
