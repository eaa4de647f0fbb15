//! The tables of `platform`, first version.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, big_pk_auto, boolean, integer, json, json_null, text, text_null,
    text_uniq, timestamp_with_time_zone as time, timestamp_with_time_zone_null as time_null,
};

/// Teams, users, tokens, jobs, actions, and events.
pub struct Platform;

impl MigrationName for Platform {
    fn name(&self) -> &'static str {
        "m0001_platform"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Platform {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        accounts(m).await?;
        tokens(m).await?;
        jobs(m).await?;
        actions(m).await?;
        events(m).await
    }
}

/// A new table of this name.
pub fn table(name: &'static str) -> TableCreateStatement {
    Table::create().table(name).to_owned()
}

/// An index on `columns`, named after both.
pub fn index(table: &'static str, columns: &[&'static str]) -> IndexCreateStatement {
    let mut index = Index::create();
    index.name(format!("{table}_{}", columns.join("_"))).table(table);
    for column in columns {
        index.col(*column);
    }
    index
}

async fn accounts(m: &SchemaManager<'_>) -> Result<(), DbErr> {
    let team = table("team")
        .col(big_pk_auto("id"))
        .col(text_uniq("uuid"))
        .col(text_uniq("name"))
        .col(time("created_at"))
        .to_owned();
    m.create_table(team).await?;
    let user = table("user_account")
        .col(big_pk_auto("id"))
        .col(text_uniq("uuid"))
        .col(text_uniq("email"))
        .col(text("name"))
        .col(text_null("password_hash"))
        .col(boolean("is_operator"))
        .col(time_null("disabled_at"))
        .col(time("created_at"))
        .to_owned();
    m.create_table(user).await?;
    let member = table("team_member")
        .col(big_integer("team_id"))
        .col(big_integer("user_id"))
        .col(text("role"))
        .col(time("created_at"))
        .primary_key(Index::create().col("team_id").col("user_id"))
        .to_owned();
    m.create_table(member).await?;
    m.create_index(index("team_member", &["user_id"])).await
}

async fn tokens(m: &SchemaManager<'_>) -> Result<(), DbErr> {
    let token = table("api_token")
        .col(big_pk_auto("id"))
        .col(big_integer("team_id"))
        .col(big_integer("user_id"))
        .col(text("name"))
        .col(text_uniq("hash"))
        .col(text("hint"))
        .col(json("scopes"))
        .col(time_null("expires_at"))
        .col(time_null("last_used_at"))
        .col(time_null("revoked_at"))
        .col(time("created_at"))
        .to_owned();
    m.create_table(token).await?;
    m.create_index(index("api_token", &["team_id"])).await?;
    let sign_in = table("sign_in")
        .col(big_pk_auto("id"))
        .col(text("kind"))
        .col(text_uniq("hash"))
        .col(big_integer("user_id"))
        .col(big_integer("team_id"))
        .col(time("expires_at"))
        .col(time_null("used_at"))
        .col(time("created_at"))
        .to_owned();
    m.create_table(sign_in).await?;
    m.create_index(index("sign_in", &["user_id"])).await
}

async fn jobs(m: &SchemaManager<'_>) -> Result<(), DbErr> {
    let job = table("job")
        .col(big_pk_auto("id"))
        .col(text("kind"))
        .col(text("status"))
        .col(json("payload"))
        .col(json_null("state"))
        .col(json_null("progress"))
        .col(integer("priority"))
        .col(text_null("node"))
        .col(big_integer_null("team_id"))
        .col(big_integer_null("action_id"))
        .col(integer("attempts"))
        .col(integer("max_attempts"))
        .col(time("run_at"))
        .col(text_null("lease_owner"))
        .col(time_null("lease_until"))
        .col(big_integer("fence"))
        .col(boolean("cancel_requested"))
        .col(text_null("error"))
        .col(time("created_at"))
        .col(time_null("finished_at"))
        .to_owned();
    m.create_table(job).await?;
    m.create_index(index("job", &["status", "run_at"])).await?;
    m.create_index(index("job", &["action_id"])).await
}

async fn actions(m: &SchemaManager<'_>) -> Result<(), DbErr> {
    let action = table("action")
        .col(big_pk_auto("id"))
        .col(big_integer("team_id"))
        .col(text("kind"))
        .col(text("status"))
        .col(text("resource_type"))
        .col(big_integer_null("resource_id"))
        .col(text_null("resource_uuid"))
        .col(text_null("region"))
        .col(text_null("error"))
        .col(time("started_at"))
        .col(time_null("completed_at"))
        .to_owned();
    m.create_table(action).await?;
    m.create_index(index("action", &["team_id", "id"])).await?;
    m.create_index(index("action", &["resource_type", "resource_id", "id"]))
        .await
}

async fn events(m: &SchemaManager<'_>) -> Result<(), DbErr> {
    let event = table("event")
        .col(big_pk_auto("id"))
        .col(time("at"))
        .col(text("what"))
        .col(text("outcome"))
        .col(big_integer_null("team_id"))
        .col(big_integer_null("user_id"))
        .col(big_integer_null("token_id"))
        .col(text_null("address"))
        .col(text_null("request_id"))
        .col(text_null("resource_type"))
        .col(text_null("resource_id"))
        .col(json_null("detail"))
        .to_owned();
    m.create_table(event).await?;
    m.create_index(index("event", &["at"])).await?;
    m.create_index(index("event", &["team_id", "id"])).await
}
