//! The `secrets_key` table: one row, which names the key that secrets are sealed with.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{integer, text};

use crate::platform::db::migration::table;

/// The fingerprint of the key outside the database.
pub struct SecretsKey;

impl MigrationName for SecretsKey {
    fn name(&self) -> &'static str {
        "m0130_secrets_key"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for SecretsKey {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        let mut id = integer("id");
        let key = table("secrets_key")
            .col(id.primary_key())
            .col(text("fingerprint"))
            .to_owned();
        m.create_table(key).await
    }
}
