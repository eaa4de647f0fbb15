//! The tables of images.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, big_pk_auto, boolean, double_null, integer_null, json, json_null, text,
    text_null, timestamp_with_time_zone as time, timestamp_with_time_zone_null as time_null,
};

use crate::platform::db::migration::{index, table};

/// `image`, and `image_count` beside it.
pub struct Images;

impl MigrationName for Images {
    fn name(&self) -> &'static str {
        "m0100_images"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Images {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        m.create_table(image()).await?;
        m.create_index(index("image", &["listing", "id"])).await?;
        m.create_index(index("image", &["status", "purge_at"])).await?;
        let slug = index("image", &["slug"]).unique().to_owned();
        m.create_index(slug).await?;
        m.create_table(super::rows::COUNTS.table()).await
    }
}

/// Deleted images had no list.
pub struct DeletedListing;

impl MigrationName for DeletedListing {
    fn name(&self) -> &'static str {
        "m0122_images_deleted"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for DeletedListing {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        super::rows::image_list_deleted_all(m.get_connection()).await
    }
}

fn image() -> TableCreateStatement {
    table("image")
        .col(big_pk_auto("id"))
        .col(big_integer("team_id"))
        .col(big_integer_null("listing"))
        .col(text("kind"))
        .col(text("name"))
        .col(text("distribution"))
        .col(text_null("slug"))
        .col(boolean("public"))
        .col(text("description"))
        .col(text("status"))
        .col(text_null("error_message"))
        .col(json("regions"))
        .col(text_null("region_wanted"))
        .col(integer_null("min_disk_size"))
        .col(double_null("size_gigabytes"))
        .col(big_integer_null("virtual_bytes"))
        .col(big_integer_null("logical_bytes"))
        .col(big_integer_null("new_bytes"))
        .col(text_null("format"))
        .col(text_null("variant"))
        .col(json("warnings"))
        .col(text_null("source"))
        .col(text_null("source_url"))
        .col(text_null("sha256"))
        .col(text_null("expected_sha256"))
        .col(text_null("root_digest"))
        .col(integer_null("root_level"))
        .col(big_integer_null("root_domain"))
        .col(boolean("protected"))
        .col(json_null("kept_tags"))
        .col(big_integer_null("job_id"))
        .col(big_integer_null("action_id"))
        .col(time("created_at"))
        .col(time_null("deleted_at"))
        .col(time_null("purge_at"))
        .to_owned()
}
