//! The tables of the journal. The triggers that note changes are made after every migration
//! ([`super::rows::triggers_make`]): whatever a migration did to a table, they are right.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, big_pk_auto, blob_null, boolean, integer, text, text_null,
    timestamp_with_time_zone_null as time_null, uuid, uuid_null,
};

use crate::platform::db::migration::table;

/// `journal_change` and `journal_state`.
pub struct Journal;

impl MigrationName for Journal {
    fn name(&self) -> &'static str {
        "m0130_journal"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Journal {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        let change = table("journal_change")
            .col(big_pk_auto("id"))
            .col(text("table_name"))
            .col(text("row_key"))
            .to_owned();
        m.create_table(change).await?;
        let state = table("journal_state")
            .col(integer("id").primary_key())
            .col(uuid("lineage"))
            .col(big_integer("generation"))
            .col(big_integer("sequence"))
            .col(blob_null("code"))
            .col(text("schema"))
            .col(big_integer("dump_bytes"))
            .col(big_integer("change_bytes"))
            .col(big_integer("intended_generation"))
            .col(big_integer("intended_sequence"))
            .col(big_integer("foreign_generation"))
            .col(text_null("writer"))
            .col(uuid_null("fence"))
            .col(time_null("lease_until"))
            .to_owned();
        m.create_table(state).await
    }
}

/// What is known of the object before the newest, and that a dump is owed.
pub struct JournalBefore;

impl MigrationName for JournalBefore {
    fn name(&self) -> &'static str {
        "m0140_journal_before"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for JournalBefore {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        // One column a statement: SQLite takes no more.
        for column in [
            big_integer_null("before_sequence"),
            boolean("is_dump_owed").default(false).to_owned(),
        ] {
            let table = Table::alter()
                .table(Alias::new("journal_state"))
                .add_column(column)
                .to_owned();
            m.alter_table(table).await?;
        }
        Ok(())
    }
}
