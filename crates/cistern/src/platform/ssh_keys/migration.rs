//! The `ssh_key` table, first version.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, big_pk_auto, text, timestamp_with_time_zone as time};

use crate::platform::db::migration::{index, table};

/// The public keys of teams.
pub struct SshKeys;

impl MigrationName for SshKeys {
    fn name(&self) -> &'static str {
        "m0002_ssh_keys"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for SshKeys {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        let key = table("ssh_key")
            .col(big_pk_auto("id"))
            .col(big_integer("team_id"))
            .col(text("fingerprint"))
            .col(text("public_key"))
            .col(text("name"))
            .col(time("created_at"))
            .to_owned();
        m.create_table(key).await?;
        m.create_index(index("ssh_key", &["team_id", "fingerprint"]).unique().to_owned())
            .await?;
        m.create_index(index("ssh_key", &["team_id", "id"])).await
    }
}
