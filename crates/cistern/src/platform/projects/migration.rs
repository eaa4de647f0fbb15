//! The tables `project` and `project_resource`, first version.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, big_pk_auto, text, text_null, text_uniq, timestamp_with_time_zone as time,
};

use crate::platform::db::migration::{index, table};

/// Projects and what belongs to them.
pub struct Projects;

impl MigrationName for Projects {
    fn name(&self) -> &'static str {
        "m0004_projects"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Projects {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        // `default_of` is the team's id for its default project and null for the others: unique, so there is one.
        let project = table("project")
            .col(big_pk_auto("id"))
            .col(text_uniq("uuid"))
            .col(big_integer("team_id"))
            .col(big_integer_null("default_of").unique_key())
            .col(text("name"))
            .col(text("description"))
            .col(text("purpose"))
            .col(text_null("environment"))
            .col(time("created_at"))
            .col(time("updated_at"))
            .to_owned();
        m.create_table(project).await?;
        m.create_index(index("project", &["team_id", "name"]).unique().to_owned())
            .await?;
        m.create_index(index("project", &["team_id", "id"])).await?;
        // No cascade: a project that has something cannot be deleted, whoever added it at the same time.
        let resource = table("project_resource")
            .col(big_pk_auto("id"))
            .col(big_integer("project_id"))
            .col(text("resource_type"))
            .col(text("resource_id"))
            .col(time("assigned_at"))
            .foreign_key(
                ForeignKey::create()
                    .from("project_resource", "project_id")
                    .to("project", "id"),
            )
            .to_owned();
        m.create_table(resource).await?;
        let once = index("project_resource", &["resource_type", "resource_id"])
            .unique()
            .to_owned();
        m.create_index(once).await?;
        m.create_index(index("project_resource", &["project_id", "resource_type", "id"]))
            .await?;
        m.create_index(index("project_resource", &["project_id", "id"]))
            .await
    }
}
