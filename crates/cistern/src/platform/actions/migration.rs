//! What lists of actions go by.

use sea_orm_migration::prelude::*;

use super::rows;

/// `action_count`, with what there is, and an index for the actions of one thing.
pub struct ActionCounts;

impl MigrationName for ActionCounts {
    fn name(&self) -> &'static str {
        "m0121_action_counts"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for ActionCounts {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        m.create_table(rows::COUNTS.table()).await?;
        rows::action_count_all(m.get_connection()).await?;
        let of_thing = Index::create()
            .name("action_of_resource")
            .table("action")
            .col("resource_type")
            .col("resource_id")
            .col("team_id")
            .col("id")
            .to_owned();
        m.create_index(of_thing).await?;
        // Did not know the team, so each row had to be read to be counted.
        let old = Index::drop()
            .name("action_resource_type_resource_id_id")
            .table("action")
            .to_owned();
        m.drop_index(old).await
    }
}
