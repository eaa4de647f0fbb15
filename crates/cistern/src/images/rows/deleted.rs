//! Deleted images: out of their list, for a day back into it, and in the end gone.

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{ExprTrait, Query};
use sea_orm::{Condition, QueryOrder, QuerySelect};

use super::{COUNTS, Column, Entity, Model};
use crate::images::model::{LISTING_APPLICATION, Status, listing_deleted};
use crate::platform::clock::Time;

/// Takes an image out of its list as deleted, with the reason where an import failed. Returns false where it was
/// deleted already.
pub async fn image_hide(
    conn: &impl ConnectionTrait,
    now: Time,
    row: &Model,
    purge_at: Time,
    error: Option<&str>,
) -> Result<bool, DbErr> {
    let listing = listing_deleted(row.team_id);
    let done = Entity::update_many()
        .col_expr(Column::Status, Expr::value(Status::Deleted.as_str()))
        .col_expr(Column::Listing, Expr::value(listing))
        .col_expr(Column::ErrorMessage, Expr::value(error.map(str::to_owned)))
        .col_expr(Column::DeletedAt, Expr::value(now))
        .col_expr(Column::PurgeAt, Expr::value(purge_at))
        .col_expr(Column::SourceUrl, Expr::value(Option::<String>::None))
        .filter(Column::Id.eq(row.id))
        .filter(Column::Status.ne(Status::Deleted.as_str()))
        .exec(conn)
        .await?;
    if done.rows_affected == 1 {
        image_moved(conn, row, listing).await?;
    }
    Ok(done.rows_affected == 1)
}

/// Brings a deleted image whose disk is still kept back into its team's list; returns false where it cannot be.
pub async fn image_unhide(conn: &impl ConnectionTrait, now: Time, row: &Model) -> Result<bool, DbErr> {
    let done = Entity::update_many()
        .col_expr(Column::Status, Expr::value(Status::Available.as_str()))
        .col_expr(Column::Listing, Expr::value(row.team_id))
        .col_expr(Column::DeletedAt, Expr::value(Option::<Time>::None))
        .col_expr(Column::PurgeAt, Expr::value(Option::<Time>::None))
        .filter(Column::Id.eq(row.id))
        .filter(Column::Status.eq(Status::Deleted.as_str()))
        .filter(Column::RootDigest.is_not_null())
        .filter(Column::PurgeAt.gt(now))
        .exec(conn)
        .await?;
    if done.rows_affected == 1 {
        image_moved(conn, row, row.team_id).await?;
    }
    Ok(done.rows_affected == 1)
}

/// Counts an image out of the list where `row` says it was, and into another. In the order of the lists, so that a
/// delete and a restore do not wait for each other's.
async fn image_moved(conn: &impl ConnectionTrait, row: &Model, to: i64) -> Result<(), DbErr> {
    let mut moves = vec![(to, 1)];
    moves.extend(row.listing.map(|from| (from, -1)));
    moves.sort_unstable();
    for (listing, by) in moves {
        COUNTS.add(conn, listing, row.id, by).await?;
    }
    Ok(())
}

/// Remembers the tags of a deleted image, which no longer carries them.
pub async fn image_keep_tags(conn: &impl ConnectionTrait, id: i64, names: &[String]) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::KeptTags, Expr::value(serde_json::json!(names)))
        .filter(Column::Id.eq(id))
        .exec(conn)
        .await?;
    Ok(())
}

/// Marks a deleted image's disk as given up; returns false where it was before. With `due`, only where the time to
/// restore it was over then.
pub async fn image_forget_disk(
    conn: &impl ConnectionTrait,
    id: i64,
    due: Option<Time>,
) -> Result<bool, DbErr> {
    let done = Entity::update_many()
        .col_expr(Column::RootDigest, Expr::value(Option::<String>::None))
        .filter(Column::Id.eq(id))
        .filter(Column::Status.eq(Status::Deleted.as_str()))
        .filter(Column::RootDigest.is_not_null())
        .filter(due.map_or_else(Condition::all, |due| {
            Condition::all().add(Column::PurgeAt.lte(due))
        }))
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

/// Whether the disk of any deleted image is still kept.
pub async fn image_any_deleted(conn: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let kept = Entity::find()
        .filter(Column::Status.eq(Status::Deleted.as_str()))
        .filter(Column::RootDigest.is_not_null())
        .one(conn)
        .await?;
    Ok(kept.is_some())
}

/// Some deleted images whose time to be restored is over and whose disk is still kept.
pub async fn image_list_due(conn: &impl ConnectionTrait, now: Time, limit: u64) -> Result<Vec<Model>, DbErr> {
    Entity::find()
        .filter(Column::Status.eq(Status::Deleted.as_str()))
        .filter(Column::PurgeAt.lte(now))
        .filter(Column::RootDigest.is_not_null())
        .limit(limit)
        .all(conn)
        .await
}

/// Some deleted images behind number `after` that could still be restored, by number.
pub async fn image_list_restorable(
    conn: &impl ConnectionTrait,
    now: Time,
    after: i64,
    limit: u64,
) -> Result<Vec<Model>, DbErr> {
    Entity::find()
        .filter(Column::Status.eq(Status::Deleted.as_str()))
        .filter(Column::PurgeAt.gt(now))
        .filter(Column::RootDigest.is_not_null())
        .filter(Column::Id.gt(after))
        .order_by_asc(Column::Id)
        .limit(limit)
        .all(conn)
        .await
}

/// Some images that were deleted before `before` and keep no disk.
pub async fn image_list_old(
    conn: &impl ConnectionTrait,
    before: Time,
    limit: u64,
) -> Result<Vec<Model>, DbErr> {
    Entity::find()
        .filter(old(before))
        .order_by_asc(Column::Id)
        .limit(limit)
        .all(conn)
        .await
}

/// Deleted before `before`, and without a disk.
fn old(before: Time) -> Condition {
    Condition::all()
        .add(Column::Status.eq(Status::Deleted.as_str()))
        .add(Column::PurgeAt.lte(before))
        .add(Column::RootDigest.is_null())
}

/// Removes the rows of images that [`image_list_old`] gave; one that changed since stays.
pub async fn image_remove(conn: &impl ConnectionTrait, before: Time, rows: &[Model]) -> Result<(), DbErr> {
    for row in rows {
        let done = Entity::delete_many()
            .filter(Column::Id.eq(row.id))
            .filter(old(before))
            .exec(conn)
            .await?;
        if let (1, Some(listing)) = (done.rows_affected, row.listing) {
            COUNTS.add(conn, listing, row.id, -1).await?;
        }
    }
    Ok(())
}

/// Puts deleted images that are in no list into their team's list of them, for a migration.
pub async fn image_list_deleted_all(conn: &impl ConnectionTrait) -> Result<(), DbErr> {
    let listing = Expr::value(listing_deleted(0)).sub(Expr::col(Column::TeamId));
    Entity::update_many()
        .col_expr(Column::Listing, listing)
        .filter(Column::Listing.is_null())
        .filter(Column::Status.eq(Status::Deleted.as_str()))
        .exec(conn)
        .await?;
    let deleted = Query::select()
        .column(Column::Listing)
        .column(Column::Id)
        .from(Entity)
        .and_where(Column::Listing.lt(LISTING_APPLICATION))
        .to_owned();
    COUNTS.count_all(conn, deleted).await
}
