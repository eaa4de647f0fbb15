//! The tables of counts, which are all alike: `listing`, `block`, `rows`.

use sea_orm::sea_query::{ExprTrait, OnConflict, Query, SelectStatement};
use sea_orm::{ConnectionTrait, DbErr, Order, TryGetable as _};
use sea_orm_migration::prelude::{Expr, Index, TableCreateStatement};
use sea_orm_migration::schema::big_integer;

use super::{BLOCK_BITS, Block, block_of};
use crate::platform::db::migration::table;

/// One such table.
#[derive(Clone, Copy, Debug)]
pub struct Counts(pub &'static str);

const LISTING: &str = "listing";
const BLOCK: &str = "block";
const ROWS: &str = "rows";

impl Counts {
    /// The table, for a migration.
    pub fn table(self) -> TableCreateStatement {
        table(self.0)
            .col(big_integer(LISTING))
            .col(big_integer(BLOCK))
            .col(big_integer(ROWS))
            .primary_key(Index::create().col(LISTING).col(BLOCK))
            .to_owned()
    }

    /// Counts a row in (1) or out (-1) of a listing, in the transaction that does so with the row.
    pub async fn add(self, conn: &impl ConnectionTrait, listing: i64, id: i64, by: i64) -> Result<(), DbErr> {
        let more = OnConflict::columns([LISTING, BLOCK])
            .value(ROWS, Expr::col((self.0, ROWS)).add(by))
            .to_owned();
        let insert = Query::insert()
            .into_table(self.0)
            .columns([LISTING, BLOCK, ROWS])
            .values_panic([listing.into(), block_of(id).into(), by.into()])
            .on_conflict(more)
            .to_owned();
        conn.execute(&insert).await?;
        Ok(())
    }

    /// Forgets every count.
    pub async fn clear(self, conn: &impl ConnectionTrait) -> Result<(), DbErr> {
        let all = Query::delete().from_table(self.0).to_owned();
        conn.execute(&all).await.map(drop)
    }

    /// Counts what there is, once, for a version that did not keep count: listings and ids, as `all` selects them.
    pub async fn count_all(self, conn: &impl ConnectionTrait, all: SelectStatement) -> Result<(), DbErr> {
        let block = Expr::col("id").div(1_i64 << BLOCK_BITS);
        let blocks = Query::select()
            .column(LISTING)
            .expr_as(block, BLOCK)
            .from_subquery(all, "everything")
            .to_owned();
        let counts = Query::select()
            .columns([LISTING, BLOCK])
            .expr(Expr::col(LISTING).count())
            .from_subquery(blocks, "counted")
            .group_by_columns([LISTING, BLOCK])
            .to_owned();
        let insert = Query::insert()
            .into_table(self.0)
            .columns([LISTING, BLOCK, ROWS])
            .select_from(counts)
            .map_err(|error| DbErr::Custom(error.to_string()))?
            .to_owned();
        conn.execute(&insert).await?;
        Ok(())
    }

    /// The blocks of these listings, newest first.
    pub async fn blocks(self, conn: &impl ConnectionTrait, listings: &[i64]) -> Result<Vec<Block>, DbErr> {
        let select = Query::select()
            .columns([BLOCK, ROWS])
            .from(self.0)
            .and_where(Expr::col(LISTING).is_in(listings.iter().copied()))
            .order_by(BLOCK, Order::Desc)
            .to_owned();
        let rows = conn.query_all(&select).await?;
        let blocks = rows.iter().map(|row| {
            let counted = i64::try_get_by(row, 1_usize)?;
            Ok(Block {
                block: i64::try_get_by(row, 0_usize)?,
                rows: u64::try_from(counted).unwrap_or(0),
            })
        });
        blocks.collect()
    }
}
