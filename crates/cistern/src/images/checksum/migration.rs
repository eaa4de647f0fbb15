//! The table of checksums.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, text, timestamp_with_time_zone as time};

use crate::platform::db::migration::table;

/// `image_checksum`.
pub struct Checksums;

impl MigrationName for Checksums {
    fn name(&self) -> &'static str {
        "m0110_image_checksums"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Checksums {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        let checksum = table("image_checksum")
            .col(big_integer("image_id"))
            .col(text("format"))
            .col(text("etag"))
            .col(text("sha256"))
            .col(big_integer("length_bytes"))
            .col(time("created_at"))
            .primary_key(Index::create().col("image_id").col("format"))
            .to_owned();
        m.create_table(checksum).await
    }
}
