//! The `image` and `image_count` tables.
//!
//! A row is in one list, by its `listing`: its team's number, the number for its team's deleted images, or one of those
//! for everyone's images. `image_count` holds how many rows of a listing have an id in each block (see
//! [`crate::platform::blocks`]).

mod deleted;

use std::collections::HashMap;

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Query;
use sea_orm::{ActiveModelTrait, Order, QueryOrder, QuerySelect, Select, Set};

use super::model::{Change, Kind, Status};
use crate::platform::blocks::rows::Counts;
use crate::platform::blocks::{self, Place};
use crate::platform::clock::Time;
use crate::platform::paging::{Listed, Page};
use crate::platform::tags::rows::tagged_page;
pub use deleted::*;

/// How many images are in each listing.
pub const COUNTS: Counts = Counts("image_count");

/// An image.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "image")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub team_id: i64,
    pub listing: Option<i64>,
    pub kind: String,
    pub name: String,
    pub distribution: String,
    pub slug: Option<String>,
    pub public: bool,
    pub description: String,
    pub status: String,
    pub error_message: Option<String>,
    pub regions: Json,
    pub region_wanted: Option<String>,
    pub min_disk_size: Option<i32>,
    pub size_gigabytes: Option<f64>,
    pub virtual_bytes: Option<i64>,
    pub logical_bytes: Option<i64>,
    pub new_bytes: Option<i64>,
    pub format: Option<String>,
    pub variant: Option<String>,
    pub warnings: Json,
    pub source: Option<String>,
    pub source_url: Option<String>,
    pub sha256: Option<String>,
    pub expected_sha256: Option<String>,
    pub root_digest: Option<String>,
    pub root_level: Option<i32>,
    pub root_domain: Option<i64>,
    pub protected: bool,
    pub kept_tags: Option<Json>,
    pub job_id: Option<i64>,
    pub action_id: Option<i64>,
    pub created_at: DateTimeUtc,
    pub deleted_at: Option<DateTimeUtc>,
    pub purge_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// What a new row is made of.
#[derive(Clone, Debug)]
pub struct NewRow<'a> {
    pub team_id: i64,
    pub kind: Kind,
    pub name: &'a str,
    pub distribution: &'a str,
    pub description: &'a str,
    pub region: &'a str,
    pub source: Option<&'a str>,
    pub expected_sha256: Option<&'a str>,
}

/// What an import found out, written when the image becomes available.
#[derive(Clone, Debug)]
pub struct Published {
    pub min_disk_size: i32,
    pub size_gigabytes: f64,
    pub virtual_bytes: i64,
    pub logical_bytes: i64,
    pub new_bytes: i64,
    pub format: String,
    pub variant: String,
    pub warnings: Vec<String>,
    pub sha256: Option<String>,
    pub root_digest: String,
    pub root_level: i32,
    pub root_domain: i64,
}

pub async fn image_insert(conn: &impl ConnectionTrait, now: Time, new: &NewRow<'_>) -> Result<Model, DbErr> {
    let row = ActiveModel {
        team_id: Set(new.team_id),
        listing: Set(Some(new.team_id)),
        kind: Set(new.kind.as_str().to_owned()),
        name: Set(new.name.to_owned()),
        distribution: Set(new.distribution.to_owned()),
        public: Set(false),
        description: Set(new.description.to_owned()),
        status: Set(Status::New.as_str().to_owned()),
        regions: Set(serde_json::json!([])),
        region_wanted: Set(Some(new.region.to_owned())),
        warnings: Set(serde_json::json!([])),
        source: Set(new.source.map(str::to_owned)),
        expected_sha256: Set(new.expected_sha256.map(str::to_owned)),
        protected: Set(false),
        created_at: Set(now),
        ..Default::default()
    };
    let row = row.insert(conn).await?;
    COUNTS.add(conn, new.team_id, row.id, 1).await?;
    Ok(row)
}

/// Keeps the sealed address that an image's import fetches from; `None` forgets it.
pub async fn image_set_source_url(
    conn: &impl ConnectionTrait,
    id: i64,
    sealed: Option<&str>,
) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::SourceUrl, Expr::value(sealed.map(str::to_owned)))
        .filter(Column::Id.eq(id))
        .exec(conn)
        .await?;
    Ok(())
}

/// Every image with an address to fetch from: those whose import has not ended.
pub async fn image_list_fetched(conn: &impl ConnectionTrait) -> Result<Vec<(i64, String)>, DbErr> {
    let rows = Entity::find()
        .select_only()
        .columns([Column::Id, Column::SourceUrl])
        .filter(Column::SourceUrl.is_not_null());
    rows.into_tuple().all(conn).await
}

/// Names the job and the action that work on an image.
pub async fn image_set_job(conn: &impl ConnectionTrait, id: i64, job: i64, action: i64) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::JobId, Expr::value(job))
        .col_expr(Column::ActionId, Expr::value(action))
        .filter(Column::Id.eq(id))
        .exec(conn)
        .await?;
    Ok(())
}

/// One image, whoever's.
pub async fn image_get(conn: &impl ConnectionTrait, id: i64) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id).one(conn).await
}

/// The same, for a change that depends on what is there: on PostgreSQL nobody else changes it until the transaction
/// ends.
pub async fn image_lock(conn: &impl ConnectionTrait, id: i64) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id).lock_exclusive().one(conn).await
}

/// A public image by its slug.
pub async fn image_by_slug(conn: &impl ConnectionTrait, slug: &str) -> Result<Option<Model>, DbErr> {
    Entity::find()
        .filter(Column::Slug.eq(slug))
        .filter(Column::Public.eq(true))
        .one(conn)
        .await
}

/// A page of these listings, newest first.
pub async fn image_list(
    conn: &impl ConnectionTrait,
    listings: &[i64],
    page: Page,
) -> Result<Listed<Model>, DbErr> {
    let blocks = COUNTS.blocks(conn, listings).await?;
    let total = blocks::total(&blocks);
    let Some(place) = blocks::place(&blocks, page) else {
        return Ok(Listed {
            rows: Vec::new(),
            total,
        });
    };
    let rows = page_of(listings, &place, page.size).all(conn).await?;
    Ok(Listed { rows, total })
}

/// The ids come from the index alone; only the rows of the page are read.
fn page_of(listings: &[i64], place: &Place, size: u64) -> Select<Entity> {
    let ids = Query::select()
        .column(Column::Id)
        .from(Entity)
        .and_where(Column::Listing.is_in(listings.iter().copied()))
        .and_where(Column::Id.between(place.first_id, place.last_id))
        .order_by(Column::Id, Order::Desc)
        .offset(place.skip)
        .limit(size)
        .to_owned();
    Entity::find()
        .filter(Column::Id.in_subquery(ids))
        .order_by_desc(Column::Id)
}

/// A page of a team's images that carry its tag, the last tagged first. Only a team's own images carry its tags.
pub async fn image_list_tagged(
    conn: &impl ConnectionTrait,
    listings: &[i64],
    (team_id, tag): (i64, &str),
    page: Page,
) -> Result<Listed<Model>, DbErr> {
    if !listings.contains(&team_id) {
        return Ok(Listed {
            rows: Vec::new(),
            total: 0,
        });
    }
    let tagged = tagged_page(conn, team_id, tag, "image", page).await?;
    let ids: Vec<i64> = tagged.rows.iter().filter_map(|id| id.parse().ok()).collect();
    let found = Entity::find()
        .filter(Column::Id.is_in(ids.iter().copied()))
        .filter(Column::Listing.eq(team_id))
        .all(conn)
        .await?;
    let mut rows: HashMap<i64, Model> = found.into_iter().map(|row| (row.id, row)).collect();
    Ok(Listed {
        rows: ids.iter().filter_map(|id| rows.remove(id)).collect(),
        total: tagged.total,
    })
}

/// Of `ids`, those of images that a team has and did not delete. Until the transaction ends they stay so: whoever
/// deletes one waits, and then finds what it was given to.
pub async fn image_existing(
    conn: &impl ConnectionTrait,
    team_id: i64,
    ids: &[i64],
) -> Result<Vec<i64>, DbErr> {
    Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::Id.is_in(ids.iter().copied()))
        .filter(Column::Listing.eq(team_id))
        .lock_shared()
        .into_tuple()
        .all(conn)
        .await
}

/// Moves an image from `from` to another status; returns false where it was not in that one.
pub async fn image_set_status(
    conn: &impl ConnectionTrait,
    id: i64,
    from: Status,
    to: Status,
) -> Result<bool, DbErr> {
    let done = Entity::update_many()
        .col_expr(Column::Status, Expr::value(to.as_str()))
        .filter(Column::Id.eq(id))
        .filter(Column::Status.eq(from.as_str()))
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

/// Writes down what an import found out and stored; returns false where the image no longer is being imported. Its
/// status stays.
pub async fn image_keep(
    conn: &impl ConnectionTrait,
    id: i64,
    regions: &[String],
    found: Published,
) -> Result<bool, DbErr> {
    let done = Entity::update_many()
        .col_expr(Column::Regions, Expr::value(serde_json::json!(regions)))
        .col_expr(Column::MinDiskSize, Expr::value(found.min_disk_size))
        .col_expr(Column::SizeGigabytes, Expr::value(found.size_gigabytes))
        .col_expr(Column::VirtualBytes, Expr::value(found.virtual_bytes))
        .col_expr(Column::LogicalBytes, Expr::value(found.logical_bytes))
        .col_expr(Column::NewBytes, Expr::value(found.new_bytes))
        .col_expr(Column::Format, Expr::value(found.format))
        .col_expr(Column::Variant, Expr::value(found.variant))
        .col_expr(Column::Warnings, Expr::value(serde_json::json!(found.warnings)))
        .col_expr(Column::Sha256, Expr::value(found.sha256))
        .col_expr(Column::RootDigest, Expr::value(found.root_digest))
        .col_expr(Column::RootLevel, Expr::value(found.root_level))
        .col_expr(Column::RootDomain, Expr::value(found.root_domain))
        .col_expr(Column::SourceUrl, Expr::value(Option::<String>::None))
        .filter(Column::Id.eq(id))
        .filter(Column::Status.is_in([Status::New.as_str(), Status::Pending.as_str()]))
        .exec(conn)
        .await?;
    Ok(done.rows_affected == 1)
}

/// Every image whose import has not ended.
pub async fn image_list_importing(conn: &impl ConnectionTrait) -> Result<Vec<Model>, DbErr> {
    Entity::find()
        .filter(Column::Status.is_in([Status::New.as_str(), Status::Pending.as_str()]))
        .order_by_asc(Column::Id)
        .all(conn)
        .await
}

/// Counts every list anew.
pub async fn image_recount(conn: &impl ConnectionTrait) -> Result<(), DbErr> {
    let listed = Query::select()
        .columns([Column::Listing, Column::Id])
        .from(Entity)
        .and_where(Column::Listing.is_not_null())
        .to_owned();
    COUNTS.clear(conn).await?;
    COUNTS.count_all(conn, listed).await
}

/// Adds a region to those that an image is in; where it is in that one, nothing changes. The row is locked while it is
/// read: on PostgreSQL two transfers at once would otherwise take each other's region back.
pub async fn image_add_region(conn: &impl ConnectionTrait, id: i64, region: &str) -> Result<(), DbErr> {
    let locked = Entity::find_by_id(id).lock_exclusive().one(conn).await?;
    let Some(Json::Array(mut regions)) = locked.map(|row| row.regions) else {
        return Ok(());
    };
    if regions.iter().any(|known| known == region) {
        return Ok(());
    }
    regions.push(region.into());
    Entity::update_many()
        .col_expr(Column::Regions, Expr::value(Json::Array(regions)))
        .filter(Column::Id.eq(id))
        .exec(conn)
        .await?;
    Ok(())
}

pub async fn image_update(conn: &impl ConnectionTrait, id: i64, change: Change) -> Result<(), DbErr> {
    let row = ActiveModel {
        id: Set(id),
        name: change.name.map_or_else(Default::default, Set),
        distribution: change.distribution.map_or_else(Default::default, Set),
        description: change.description.map_or_else(Default::default, Set),
        protected: change.protected.map_or_else(Default::default, Set),
        ..Default::default()
    };
    if row.is_changed() {
        row.update(conn).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sea_orm::{DbBackend, QueryTrait};

    use super::*;
    use crate::platform::db::rows::sqlite_plan;
    use crate::platform::db::tests::fresh;

    /// What a sweep has listed may be restored, and deleted again, before it is removed.
    #[tokio::test]
    async fn what_a_sweep_has_listed_is_let_go_only_where_it_is_still_due() {
        let (db, _dir) = fresh().await;
        let (conn, now) = (db.conn(), crate::platform::clock::Clock::default().now());
        let new = NewRow {
            team_id: 1,
            kind: Kind::Custom,
            name: "n",
            distribution: "Debian",
            description: "",
            region: "nyc3",
            source: None,
            expected_sha256: None,
        };
        let row = image_insert(conn, now, &new).await.expect("inserts");
        let set = async |status: Status, disk: Option<&str>, purge_at: Time| {
            let changed = ActiveModel {
                id: Set(row.id),
                status: Set(status.as_str().to_owned()),
                root_digest: Set(disk.map(str::to_owned)),
                purge_at: Set(Some(purge_at)),
                ..Default::default()
            };
            changed.update(conn).await.expect("updates");
        };
        let later = now + chrono::TimeDelta::hours(1);
        set(Status::Deleted, Some("d"), later).await;
        let forget = async |due| image_forget_disk(conn, row.id, due).await.expect("updates");
        assert!(
            !forget(Some(now)).await,
            "deleted again: it can be restored for longer"
        );
        assert!(forget(Some(later)).await);

        let old = image_list_old(conn, later, 9).await.expect("reads");
        assert_eq!(old.len(), 1);
        set(Status::Available, Some("d"), later).await;
        image_remove(conn, later, &old).await.expect("deletes");
        assert!(image_get(conn, row.id).await.expect("reads").is_some());
        set(Status::Deleted, None, later).await;
        image_remove(conn, later, &old).await.expect("deletes");
        assert!(image_get(conn, row.id).await.expect("reads").is_none());
    }

    #[tokio::test]
    async fn no_list_reads_more_than_its_page_and_a_block() {
        let (db, _dir) = fresh().await;
        let place = Place {
            first_id: 4096,
            last_id: 8191,
            skip: 20,
        };
        // One listing comes in its order; of several, the ids of a block are sorted.
        for (listings, sorted) in [(vec![7], 0), (vec![7, 0, -1], 1)] {
            let statement = page_of(&listings, &place, 20).build(DbBackend::Sqlite);
            let plan = sqlite_plan(db.conn(), statement).await;
            let with = |word: &str| plan.iter().filter(|step| step.contains(word)).count();
            assert_eq!(with("SCAN"), 0, "{plan:?}");
            assert_eq!(with("TEMP B-TREE"), sorted, "{plan:?}");
            assert_eq!(with("COVERING INDEX"), 1, "{plan:?}");
            assert_eq!(with("(listing=? AND id>? AND id<?)"), 1, "{plan:?}");
        }
    }
}
