//! The `job` table: queue, leases and results.

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{ExprTrait, LockBehavior, LockType, Query};
use sea_orm::{Condition, Order, QueryOrder, QuerySelect, Set};

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

/// Takes the next job that waits or whose lease is over, if there is one.
pub async fn job_claim(
    conn: &impl ConnectionTrait,
    now: Time,
    node: &str,
    owner: &str,
    lease_until: Time,
    least_priority: i32,
) -> Result<Option<Model>, DbErr> {
    let ready = Condition::any()
        .add(
            Condition::all()
                .add(Column::Status.eq(QUEUED))
                .add(Column::RunAt.lte(now)),
        )
        .add(
            Condition::all()
                .add(Column::Status.eq(RUNNING))
                .add(Column::LeaseUntil.lt(now)),
        );
    let here = Condition::any()
        .add(Column::Node.is_null())
        .add(Column::Node.eq(node));
    let next = Query::select()
        .column(Column::Id)
        .from(Entity)
        .cond_where(Condition::all().add(ready).add(here))
        .and_where(Column::Priority.gte(least_priority))
        .order_by(Column::Priority, Order::Desc)
        .order_by(Column::RunAt, Order::Asc)
        .limit(1)
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .to_owned();
    let claimed = Entity::update_many()
        .col_expr(Column::Status, Expr::value(RUNNING))
        .col_expr(Column::LeaseOwner, Expr::value(owner))
        .col_expr(Column::LeaseUntil, Expr::value(lease_until))
        .col_expr(Column::Fence, Expr::col(Column::Fence).add(1))
        .col_expr(Column::Attempts, Expr::col(Column::Attempts).add(1))
        .filter(Column::Id.in_subquery(next))
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

/// Puts a held job back; with `uncount` the attempt does not count.
pub async fn job_hand_back(
    conn: &impl ConnectionTrait,
    id: i64,
    fence: i64,
    run_at: Time,
    error: Option<&str>,
    uncount: bool,
) -> Result<(), DbErr> {
    let mut update = Entity::update_many()
        .col_expr(Column::Status, Expr::value(QUEUED))
        .col_expr(Column::RunAt, Expr::value(run_at))
        .col_expr(Column::Error, Expr::value(error.map(str::to_owned)))
        .col_expr(Column::LeaseUntil, Expr::value(Option::<Time>::None))
        .filter(held(id, fence));
    if uncount {
        update = update.col_expr(Column::Attempts, Expr::col(Column::Attempts).sub(1));
    }
    update.exec(conn).await?;
    Ok(())
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

/// Makes a waiting job run now, so that a cancel is seen at once.
pub async fn job_hurry(conn: &impl ConnectionTrait, now: Time, id: i64) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::RunAt, Expr::value(now))
        .filter(Column::Id.eq(id))
        .filter(Column::Status.eq(QUEUED))
        .exec(conn)
        .await?;
    Ok(())
}

pub async fn job_get(conn: &impl ConnectionTrait, id: i64) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id).one(conn).await
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

fn held(id: i64, fence: i64) -> Condition {
    Condition::all()
        .add(Column::Id.eq(id))
        .add(Column::Fence.eq(fence))
        .add(Column::Status.eq(RUNNING))
}
