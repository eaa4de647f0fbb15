//! The table of uploads.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, text, text_null, timestamp_with_time_zone as time,
    timestamp_with_time_zone_null as time_null,
};

use crate::platform::db::migration::{index, table};

/// `upload`.
pub struct Uploads;

impl MigrationName for Uploads {
    fn name(&self) -> &'static str {
        "m0020_uploads"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Uploads {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        let upload = table("upload")
            .col(text("id").primary_key())
            .col(big_integer("team_id"))
            .col(big_integer_null("length_bytes"))
            .col(big_integer("offset_bytes"))
            .col(text_null("metadata"))
            .col(text("node"))
            .col(big_integer_null("used_by"))
            .col(time("created_at"))
            .col(time("expires_at"))
            .col(time_null("completed_at"))
            .to_owned();
        m.create_table(upload).await?;
        m.create_index(index("upload", &["team_id"])).await?;
        m.create_index(index("upload", &["expires_at"])).await
    }
}
