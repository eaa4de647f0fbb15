//! The `job` table: queue, leases and results.

use chrono::TimeDelta;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{
    Alias, CommonTableExpression, ExprTrait, LockBehavior, LockType, Query, SelectStatement,
    SubQueryStatement, UnionType, WithQuery,
};
use sea_orm::{Condition, FromQueryResult, JoinType, Order, QueryOrder, QuerySelect, Set};

use super::model::NewJob;
use crate::platform::clock::Time;

/// Waits for a worker.
pub const QUEUED: &str = "queued";
/// A worker has it, as long as its lease.
pub const RUNNING: &str = "running";
/// Ended well.
pub const DONE: &str = "done";
/// Ended with an error.
pub const FAILED: &str = "failed";
/// Ended by a user.
pub const CANCELLED: &str = "cancelled";

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, serde::Serialize)]
#[sea_orm(table_name = "job")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub kind: String,
    pub status: String,
    pub payload: Json,
    pub state: Option<Json>,
    pub progress: Option<Json>,
    pub priority: i32,
    pub node: Option<String>,
    pub team_id: Option<i64>,
    pub action_id: Option<i64>,
    pub attempts: i32,
    pub max_attempts: i32,
    pub run_at: DateTimeUtc,
    pub lease_owner: Option<String>,
    pub lease_until: Option<DateTimeUtc>,
    pub fence: i64,
    pub cancel_requested: bool,
    pub error: Option<String>,
    pub created_at: DateTimeUtc,
    pub finished_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

pub async fn job_insert(
    conn: &impl ConnectionTrait,
    now: Time,
    new: NewJob,
    max_attempts: i32,
) -> Result<i64, DbErr> {
    let row = ActiveModel {
        kind: Set(new.kind.to_owned()),
        status: Set(QUEUED.to_owned()),
        payload: Set(new.payload),
        priority: Set(new.priority),
        node: Set(new.node),
        team_id: Set(new.team_id),
        action_id: Set(new.action_id),
        attempts: Set(0),
        max_attempts: Set(max_attempts),
        run_at: Set(now),
        fence: Set(0),
        cancel_requested: Set(false),
        created_at: Set(now),
        ..Default::default()
    };
    Ok(row.insert(conn).await?.id)
}

/// What a worker can run.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub now: Time,
    /// What is to wait for longer than this got its time from a clock that was ahead, and is due.
    pub wait_max: TimeDelta,
    /// Jobs of other nodes are not for it.
    pub node: &'a str,
    pub least_priority: i32,
    /// Kinds that run one at a time, and one of which runs.
    pub busy: &'a [&'a str],
}

/// Who holds a claimed job, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Lease<'a> {
    pub owner: &'a str,
    pub until: Time,
}

/// What runs, as far as a claim looks at it.
#[derive(Clone, Debug, FromQueryResult)]
pub struct Running {
    pub id: i64,
    pub kind: String,
    pub team_id: Option<i64>,
    pub priority: i32,
    pub node: Option<String>,
    pub lease_owner: Option<String>,
    pub lease_until: Option<DateTimeUtc>,
}

/// The first job of a team's line.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct Line {
    pub team_id: Option<i64>,
    pub priority: i32,
    pub run_at: DateTimeUtc,
    pub cancel_requested: bool,
}

/// All that runs: no more than there are workers, and what a server left behind that died.
pub async fn job_running(conn: &impl ConnectionTrait) -> Result<Vec<Running>, DbErr> {
    Entity::find()
        .select_only()
        .columns([
            Column::Id,
            Column::Kind,
            Column::TeamId,
            Column::Priority,
            Column::Node,
            Column::LeaseOwner,
            Column::LeaseUntil,
        ])
        .filter(Column::Status.eq(RUNNING))
        .into_model()
        .all(conn)
        .await
}

/// The lines that wait, by their first job: one for each team, and one for jobs without a team.
pub async fn job_lines(conn: &impl ConnectionTrait, wanted: Wanted<'_>) -> Result<Vec<Line>, DbErr> {
    let mut rows = conn.query_all(&lines(wanted)).await?;
    rows.extend(conn.query_all(&line_without_team(wanted)).await?);
    rows.iter().map(|row| Line::from_query_result(row, "")).collect()
}

/// Goes from team to team in the index, so that the length of a line costs nothing.
fn lines(wanted: Wanted<'_>) -> WithQuery {
    const WAITING: &str = "waiting";
    const TEAM: &str = "team_id";
    let team = || Expr::col((Entity, Column::TeamId));
    let queued = || {
        Query::select()
            .expr(team().min())
            .from(Entity)
            .and_where(Column::Status.eq(QUEUED))
            .to_owned()
    };
    let next = queued()
        .and_where(team().gt(Expr::col((WAITING, TEAM))))
        .to_owned();
    let rest = Query::select()
        .expr(SubQueryStatement::from(next))
        .from(WAITING)
        .and_where(Expr::col((WAITING, TEAM)).is_not_null())
        .to_owned();
    let waiting = CommonTableExpression::new()
        .table_name(WAITING)
        .column(TEAM)
        .query(queued().union(UnionType::All, rest).to_owned())
        .to_owned();
    let first = line(wanted, team().eq(Expr::col((WAITING, TEAM))))
        .column((Entity, Column::Id))
        .limit(1)
        .to_owned();
    let head = Alias::new("head");
    let heads = Query::select()
        .columns(LINE.map(|column| (head.clone(), column)))
        .from(WAITING)
        .join_as(
            JoinType::InnerJoin,
            Entity,
            head.clone(),
            Expr::col((head.clone(), Column::Id)).eq(SubQueryStatement::from(first)),
        )
        .to_owned();
    heads.with(Query::with().recursive(true).cte(waiting).to_owned())
}

const LINE: [Column; 4] = [
    Column::TeamId,
    Column::Priority,
    Column::RunAt,
    Column::CancelRequested,
];

fn line_without_team(wanted: Wanted<'_>) -> SelectStatement {
    line(wanted, Column::TeamId.is_null())
        .columns(LINE)
        .limit(1)
        .to_owned()
}

/// The jobs of a line that are due, the next one first.
fn line(wanted: Wanted<'_>, team: Expr) -> SelectStatement {
    let here = Condition::any()
        .add(Column::Node.is_null())
        .add(Column::Node.eq(wanted.node));
    let due = Condition::any()
        .add(Column::RunAt.lte(wanted.now))
        .add(Column::RunAt.gt(wanted.now + wanted.wait_max));
    Query::select()
        .from(Entity)
        .and_where(Column::Status.eq(QUEUED))
        .and_where(team)
        .and_where(Column::Priority.gte(wanted.least_priority))
        .and_where(Column::Kind.is_not_in(wanted.busy.iter().copied()))
        .cond_where(here)
        .cond_where(due)
        .order_by((Entity, Column::Priority), Order::Desc)
        .order_by((Entity, Column::RunAt), Order::Asc)
        .to_owned()
}

/// Takes the next job of a team's line, if there still is one; what another server is taking is passed over.
pub async fn job_claim(
    conn: &impl ConnectionTrait,
    wanted: Wanted<'_>,
    team: Option<i64>,
    lease: Lease<'_>,
) -> Result<Option<Model>, DbErr> {
    let team = team.map_or_else(|| Column::TeamId.is_null(), |id| Column::TeamId.eq(id));
    let next = line(wanted, team)
        .column((Entity, Column::Id))
        .limit(1)
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .to_owned();
    claim(conn, lease, Column::Id.in_subquery(next).into()).await
}

/// Takes a job whose lease is over; `None` where another server did.
pub async fn job_claim_expired(
    conn: &impl ConnectionTrait,
    now: Time,
    id: i64,
    lease: Lease<'_>,
) -> Result<Option<Model>, DbErr> {
    let expired = Condition::all()
        .add(Column::Id.eq(id))
        .add(Column::Status.eq(RUNNING))
        .add(Column::LeaseUntil.lt(now));
    claim(conn, lease, expired).await
}

async fn claim(
    conn: &impl ConnectionTrait,
    lease: Lease<'_>,
    which: Condition,
) -> Result<Option<Model>, DbErr> {
    let claimed = Entity::update_many()
        .col_expr(Column::Status, Expr::value(RUNNING))
        .col_expr(Column::LeaseOwner, Expr::value(lease.owner))
        .col_expr(Column::LeaseUntil, Expr::value(lease.until))
        .col_expr(Column::Fence, Expr::col(Column::Fence).add(1))
        .col_expr(Column::Attempts, Expr::col(Column::Attempts).add(1))
        .filter(which)
        .exec_with_returning(conn)
        .await?;
    Ok(claimed.into_iter().next())
}

/// Makes a lease longer; returns the row, or `None` where the lease is another's by now.
pub async fn job_heartbeat(
    conn: &impl ConnectionTrait,
    id: i64,
    fence: i64,
    lease_until: Time,
    progress: Option<Json>,
) -> Result<Option<Model>, DbErr> {
    let mut update = Entity::update_many()
        .col_expr(Column::LeaseUntil, Expr::value(lease_until))
        .filter(held(id, fence));
    if let Some(progress) = progress {
        update = update.col_expr(Column::Progress, Expr::value(progress));
    }
    Ok(update.exec_with_returning(conn).await?.into_iter().next())
}

/// Whether the job is still held under `fence`; on PostgreSQL the row stays locked until the transaction ends.
pub async fn job_is_held(conn: &impl ConnectionTrait, id: i64, fence: i64) -> Result<bool, DbErr> {
    let row = Entity::find()
        .filter(held(id, fence))
        .lock(LockType::Update)
        .one(conn)
        .await?;
    Ok(row.is_some())
}

/// Keeps what an attempt has reached, for the next one.
pub async fn job_save_state(
    conn: &impl ConnectionTrait,
    id: i64,
    fence: i64,
    state: Json,
) -> Result<bool, DbErr> {
    let done = Entity::update_many()
        .col_expr(Column::State, Expr::value(state))
        .filter(held(id, fence))
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

/// Ends a held job; returns false where it is not held any more.
pub async fn job_end(
    conn: &impl ConnectionTrait,
    now: Time,
    id: i64,
    fence: i64,
    status: &str,
    error: Option<&str>,
) -> Result<bool, DbErr> {
    let done = Entity::update_many()
        .col_expr(Column::Status, Expr::value(status))
        .col_expr(Column::Error, Expr::value(error.map(str::to_owned)))
        .col_expr(Column::FinishedAt, Expr::value(now))
        .col_expr(Column::LeaseUntil, Expr::value(Option::<Time>::None))
        .filter(held(id, fence))
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

/// Puts a held job back; with `uncount` the attempt does not count. Returns false where it is not held any more.
pub async fn job_hand_back(
    conn: &impl ConnectionTrait,
    id: i64,
    fence: i64,
    run_at: Time,
    error: Option<&str>,
    uncount: bool,
) -> Result<bool, DbErr> {
    let mut update = Entity::update_many()
        .col_expr(Column::Status, Expr::value(QUEUED))
        .col_expr(Column::RunAt, Expr::value(run_at))
        .col_expr(Column::Error, Expr::value(error.map(str::to_owned)))
        .col_expr(Column::LeaseUntil, Expr::value(Option::<Time>::None))
        .filter(held(id, fence));
    if uncount {
        update = update.col_expr(Column::Attempts, Expr::col(Column::Attempts).sub(1));
    }
    let done = update.exec(conn).await?;
    Ok(done.rows_affected == 1)
}

/// Puts back everything that `node` held before it was started anew. Only for a node that is known to be this one.
pub async fn job_take_back(
    conn: &impl ConnectionTrait,
    now: Time,
    node: &str,
    owner: &str,
) -> Result<u64, DbErr> {
    let done = Entity::update_many()
        .col_expr(
            Column::LeaseUntil,
            Expr::value(now - chrono::TimeDelta::seconds(1)),
        )
        .filter(Column::Status.eq(RUNNING))
        .filter(Column::LeaseOwner.like(format!("{node}/%")))
        .filter(Column::LeaseOwner.ne(owner))
        .exec(conn)
        .await?;
    Ok(done.rows_affected)
}

pub async fn job_cancel(conn: &impl ConnectionTrait, id: i64) -> Result<bool, DbErr> {
    let done = Entity::update_many()
        .col_expr(Column::CancelRequested, Expr::value(true))
        .filter(Column::Id.eq(id))
        .filter(Column::Status.is_in([QUEUED, RUNNING]))
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

/// Puts a waiting job before all others, so that a cancel is seen at once.
pub async fn job_hurry(conn: &impl ConnectionTrait, now: Time, id: i64) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::RunAt, Expr::value(now))
        .col_expr(Column::Priority, Expr::value(i32::MAX))
        .filter(Column::Id.eq(id))
        .filter(Column::Status.eq(QUEUED))
        .exec(conn)
        .await?;
    Ok(())
}

pub async fn job_get(conn: &impl ConnectionTrait, id: i64) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id).one(conn).await
}

/// Whether a job of this kind waits or runs.
pub async fn job_is_open(conn: &impl ConnectionTrait, kind: &str) -> Result<bool, DbErr> {
    let open = Entity::find()
        .filter(Column::Status.is_in([QUEUED, RUNNING]))
        .filter(Column::Kind.eq(kind))
        .one(conn)
        .await?;
    Ok(open.is_some())
}

/// The jobs of this kind that wait or run.
pub async fn job_list_open(conn: &impl ConnectionTrait, kind: &str) -> Result<Vec<Model>, DbErr> {
    Entity::find()
        .filter(Column::Status.is_in([QUEUED, RUNNING]))
        .filter(Column::Kind.eq(kind))
        .all(conn)
        .await
}

/// Newest first; `open` leaves out what has ended.
pub async fn job_list(
    conn: &impl ConnectionTrait,
    open: bool,
    before: Option<i64>,
    limit: u64,
) -> Result<Vec<Model>, DbErr> {
    let mut select = Entity::find().order_by_desc(Column::Id).limit(limit);
    if let Some(before) = before {
        select = select.filter(Column::Id.lt(before));
    }
    if open {
        select = select.filter(Column::Status.is_in([QUEUED, RUNNING]));
    }
    select.all(conn).await
}

/// Removes some of the jobs that ended before `before`.
pub async fn job_forget(conn: &impl ConnectionTrait, before: Time, limit: u64) -> Result<u64, DbErr> {
    let old = ended_before(before, limit);
    let done = Entity::delete_many()
        .filter(Column::Id.in_subquery(old))
        .exec(conn)
        .await?;
    Ok(done.rows_affected)
}

fn ended_before(before: Time, limit: u64) -> SelectStatement {
    Query::select()
        .column(Column::Id)
        .from(Entity)
        .and_where(Column::FinishedAt.lt(before))
        .limit(limit)
        .to_owned()
}

fn held(id: i64, fence: i64) -> Condition {
    Condition::all()
        .add(Column::Id.eq(id))
        .add(Column::Fence.eq(fence))
        .add(Column::Status.eq(RUNNING))
}

#[cfg(test)]
mod tests {
    use sea_orm::{DbBackend, StatementBuilder};

    use super::*;
    use crate::platform::clock::Clock;
    use crate::platform::db::rows::sqlite_plan;
    use crate::platform::db::tests::fresh;

    #[tokio::test]
    async fn what_is_forgotten_is_found_by_when_it_ended() {
        let (db, _dir) = fresh().await;
        let old = ended_before(Clock::default().now(), 10);
        let plan = sqlite_plan(db.conn(), StatementBuilder::build(&old, &DbBackend::Sqlite)).await;
        assert!(
            plan.len() == 1 && plan[0].contains("job_finished_at (finished_at<?)"),
            "{plan:?}"
        );
    }

    #[tokio::test]
    async fn a_claim_reads_the_heads_of_lines_and_no_line() {
        let (db, _dir) = fresh().await;
        let wanted = Wanted {
            now: Clock::default().now(),
            wait_max: TimeDelta::minutes(5),
            node: "n1",
            least_priority: 0,
            busy: &["store.gc"],
        };
        let next = line(wanted, Column::TeamId.eq(7)).column(Column::Id).to_owned();
        for statement in [
            StatementBuilder::build(&lines(wanted), &DbBackend::Sqlite),
            StatementBuilder::build(&line_without_team(wanted), &DbBackend::Sqlite),
            StatementBuilder::build(&next, &DbBackend::Sqlite),
        ] {
            let plan = sqlite_plan(db.conn(), statement).await;
            let with = |word: &str| plan.iter().filter(|step| step.contains(word)).count();
            assert_eq!(with("SCAN job") + with("TEMP B-TREE"), 0, "{plan:?}");
            assert_eq!(with("(status=? AND team_id=? AND priority>?)"), 1, "{plan:?}");
        }
    }
}
