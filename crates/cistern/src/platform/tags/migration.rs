//! The tables `tag`, `tag_link` and `tag_count`, first version.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, big_pk_auto, text, timestamp_with_time_zone as time};

use crate::platform::db::migration::{index, table};

/// Tags, what carries them, and how many of each kind.
pub struct Tags;

impl MigrationName for Tags {
    fn name(&self) -> &'static str {
        "m0003_tags"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Tags {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        let tag = table("tag")
            .col(big_pk_auto("id"))
            .col(big_integer("team_id"))
            .col(text("name"))
            .col(text("name_key"))
            .col(time("created_at"))
            .to_owned();
        m.create_table(tag).await?;
        m.create_index(index("tag", &["team_id", "name_key"]).unique().to_owned())
            .await?;
        m.create_index(index("tag", &["team_id", "id"])).await?;
        let link = table("tag_link")
            .col(big_pk_auto("id"))
            .col(big_integer("tag_id"))
            .col(text("resource_type"))
            .col(text("resource_id"))
            .col(time("tagged_at"))
            .foreign_key(&mut to_tag("tag_link"))
            .to_owned();
        m.create_table(link).await?;
        let once = index("tag_link", &["tag_id", "resource_type", "resource_id"])
            .unique()
            .to_owned();
        m.create_index(once).await?;
        m.create_index(index("tag_link", &["resource_type", "resource_id"]))
            .await?;
        m.create_index(index("tag_link", &["tag_id", "resource_type", "id"]))
            .await?;
        let count = table("tag_count")
            .col(big_integer("tag_id"))
            .col(text("resource_type"))
            .col(big_integer("count"))
            .col(big_integer("last_link"))
            .col(text("last_id"))
            .primary_key(Index::create().col("tag_id").col("resource_type"))
            .foreign_key(&mut to_tag("tag_count"))
            .to_owned();
        m.create_table(count).await
    }
}

/// Links and counts go with their tag, also those that another transaction has just made.
fn to_tag(from: &'static str) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .from(from, "tag_id")
        .to("tag", "id")
        .on_delete(ForeignKeyAction::Cascade)
        .to_owned()
}
