//! The indexes that claims and the removal of finished jobs go by.

use sea_orm_migration::prelude::*;

use crate::platform::db::migration::index;

/// `job` by kind: whether one of a kind waits or runs is asked every few minutes, and must not read a line.
pub struct JobKinds;

impl MigrationName for JobKinds {
    fn name(&self) -> &'static str {
        "m0123_job_kinds"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for JobKinds {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        m.create_index(index("job", &["kind", "status"])).await
    }
}

/// `job` by team, in the order in which a team's jobs run.
pub struct JobLines;

impl MigrationName for JobLines {
    fn name(&self) -> &'static str {
        "m0120_job_lines"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for JobLines {
    async fn up(&self, m: &SchemaManager) -> Result<(), DbErr> {
        let line = Index::create()
            .name("job_line")
            .table("job")
            .col("status")
            .col("team_id")
            .col(("priority", IndexOrder::Desc))
            .col("run_at")
            .to_owned();
        m.create_index(line).await?;
        m.create_index(index("job", &["finished_at"])).await?;
        // The line begins with it.
        let old = Index::drop().name("job_status_run_at").table("job").to_owned();
        m.drop_index(old).await
    }
}
