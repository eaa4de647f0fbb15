//! Values of any table as JSON and back, with their types kept, the same for both databases: what was journaled by one
//! can be brought back into the other.
//!
//! | column | in JSON |
//! |---|---|
//! | whole number | number |
//! | floating point | text, the shortest that gives the same number |
//! | text | text |
//! | boolean | `true`, `false` |
//! | time | text, RFC 3339 in UTC with microseconds |
//! | UUID | text |
//! | JSON | as it is; JSON's own null as `{"null": true}` cannot be told from none and is not used by any table |
//! | bytes | text in hexadecimal |

use chrono::{DateTime, SecondsFormat, Utc};
use sea_orm::sea_query::{Alias, Expr, ExprTrait as _, Query, SelectStatement};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement, Value};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::platform::journal::model::{Entry, Row};
use crate::platform::journal::tables::Table;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Int,
    Real,
    Text,
    Bool,
    Time,
    Uuid,
    Json,
    Bytes,
}

impl Kind {
    /// From the type's name in either database.
    fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let word = name.split('(').next().unwrap_or_default().trim();
        Some(match word {
            "bigint" | "integer" | "int" | "smallint" => Self::Int,
            "double" | "double precision" | "real" | "float" => Self::Real,
            "text" | "varchar" | "character varying" => Self::Text,
            "boolean" => Self::Bool,
            "timestamp_with_timezone_text" | "timestamp with time zone" => Self::Time,
            "uuid_text" | "uuid" => Self::Uuid,
            "json_text" | "jsonb_text" | "json" | "jsonb" => Self::Json,
            "blob" | "bytea" | "varbinary_blob" | "binary_blob" => Self::Bytes,
            _ => return None,
        })
    }
}

/// The columns of a table, as the database has them.
#[derive(Clone, Debug)]
pub struct TableColumns {
    columns: Vec<(String, Kind)>,
}

/// Reads which columns a table has; none where there is no such table.
pub async fn columns(conn: &impl ConnectionTrait, table: &str) -> Result<TableColumns, DbErr> {
    let backend = conn.get_database_backend();
    let sql = match backend {
        DbBackend::Sqlite => "SELECT name, type FROM pragma_table_info(?) ORDER BY cid",
        _ => {
            "SELECT column_name::text, data_type::text FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position"
        }
    };
    let statement = Statement::from_sql_and_values(backend, sql, [table.into()]);
    let mut columns = Vec::new();
    for row in conn.query_all_raw(statement).await? {
        let (name, kind): (String, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        let known = Kind::of(&kind).ok_or_else(|| {
            DbErr::Custom(format!(
                "the journal does not know the type `{kind}` of {table}.{name}"
            ))
        })?;
        columns.push((name, known));
    }
    Ok(TableColumns { columns })
}

impl TableColumns {
    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// Selects all of them.
    pub(super) fn select(&self, table: &Table) -> SelectStatement {
        let mut select = Query::select();
        for (name, kind) in &self.columns {
            let column = Expr::col(Alias::new(name));
            match kind {
                // However many bits: one type to read.
                Kind::Int => select.expr(column.cast_as("bigint")),
                _ => select.expr(column),
            };
        }
        select.from(Alias::new(table.name)).to_owned()
    }

    /// A row that was selected so.
    pub(super) fn entry(&self, table: &Table, row: &QueryResult) -> Result<Entry, DbErr> {
        let mut out = Row::new();
        for (index, (name, kind)) in self.columns.iter().enumerate() {
            out.insert(name.clone(), read(row, index, *kind)?);
        }
        let key = table
            .key
            .iter()
            .map(|name| out.get(*name).cloned().unwrap_or_default());
        Ok(Entry {
            table: table.name.to_owned(),
            key: key.collect(),
            row: Some(out),
        })
    }

    /// A value for a column.
    pub(super) fn value(&self, name: &str, json: &Json) -> Result<Value, DbErr> {
        let unfit = || DbErr::Custom(format!("{json} does not fit the column `{name}`"));
        let (_, kind) = self
            .columns
            .iter()
            .find(|(known, _)| known == name)
            .ok_or_else(unfit)?;
        write(*kind, json).ok_or_else(unfit)
    }

    /// The columns that a journaled row has values for.
    pub(super) fn common<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = &'a str> {
        self.names().filter(|name| row.contains_key(*name))
    }
}

fn read(row: &QueryResult, at: usize, kind: Kind) -> Result<Json, DbErr> {
    Ok(match kind {
        Kind::Int => row.try_get_by_index::<Option<i64>>(at)?.into(),
        Kind::Real => row
            .try_get_by_index::<Option<f64>>(at)?
            .map(|n| n.to_string())
            .into(),
        Kind::Text => row.try_get_by_index::<Option<String>>(at)?.into(),
        Kind::Bool => row.try_get_by_index::<Option<bool>>(at)?.into(),
        Kind::Time => row
            .try_get_by_index::<Option<DateTime<Utc>>>(at)?
            .map(|t| t.to_rfc3339_opts(SecondsFormat::Micros, true))
            .into(),
        Kind::Uuid => row
            .try_get_by_index::<Option<Uuid>>(at)?
            .map(|u| u.to_string())
            .into(),
        Kind::Json => row.try_get_by_index::<Option<Json>>(at)?.unwrap_or_default(),
        Kind::Bytes => row
            .try_get_by_index::<Option<Vec<u8>>>(at)?
            .map(hex::encode)
            .into(),
    })
}

fn write(kind: Kind, json: &Json) -> Option<Value> {
    if json.is_null() {
        return Some(match kind {
            Kind::Int => Value::BigInt(None),
            Kind::Real => Value::Double(None),
            Kind::Text => Value::String(None),
            Kind::Bool => Value::Bool(None),
            Kind::Time => Value::ChronoDateTimeUtc(None),
            Kind::Uuid => Value::Uuid(None),
            Kind::Json => Value::Json(None),
            Kind::Bytes => Value::Bytes(None),
        });
    }
    Some(match kind {
        Kind::Int => json.as_i64()?.into(),
        Kind::Real => json.as_str()?.parse::<f64>().ok()?.into(),
        Kind::Text => json.as_str()?.into(),
        Kind::Bool => json.as_bool()?.into(),
        Kind::Time => DateTime::parse_from_rfc3339(json.as_str()?)
            .ok()?
            .with_timezone(&Utc)
            .into(),
        Kind::Uuid => json.as_str()?.parse::<Uuid>().ok()?.into(),
        Kind::Json => json.clone().into(),
        Kind::Bytes => hex::decode(json.as_str()?).ok()?.into(),
    })
}
