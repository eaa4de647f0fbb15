//! The tables `tag`, `tag_link` and `tag_count`.

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{ExprTrait, OnConflict};
use sea_orm::{JoinType, QueryOrder, QuerySelect, Select, Set};

use super::model::tag_key;
use crate::platform::clock::Time;
use crate::platform::paging::{Listed, Page};

/// A tag of a team.
pub mod tag {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "tag")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub team_id: i64,
        pub name: String,
        pub name_key: String,
        pub created_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A thing that carries a tag. The ids rise, so the newest link is the last tagged thing.
pub mod link {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "tag_link")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub tag_id: i64,
        pub resource_type: String,
        pub resource_id: String,
        pub tagged_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {
        #[sea_orm(
            belongs_to = "super::tag::Entity",
            from = "Column::TagId",
            to = "super::tag::Column::Id"
        )]
        Tag,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// How many things of a kind carry a tag, and which was tagged last.
pub mod count {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "tag_count")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub tag_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub resource_type: String,
        pub count: i64,
        pub last_link: i64,
        pub last_id: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The team's tag of this name, made where there is none; also whether it was made. On PostgreSQL nobody else changes
/// what carries it, or deletes it, until the transaction ends.
pub async fn tag_upsert(
    conn: &impl ConnectionTrait,
    now: Time,
    team_id: i64,
    name: &str,
) -> Result<(tag::Model, bool), DbErr> {
    let row = tag::ActiveModel {
        team_id: Set(team_id),
        name: Set(name.to_owned()),
        name_key: Set(tag_key(name)),
        created_at: Set(now),
        ..Default::default()
    };
    let ours = OnConflict::columns([tag::Column::TeamId, tag::Column::NameKey])
        .do_nothing()
        .to_owned();
    // Again only where another transaction deleted it between the two statements.
    loop {
        let inserted = tag::Entity::insert(row.clone())
            .on_conflict(ours.clone())
            .exec_without_returning(conn)
            .await?;
        let found = tag::Entity::find()
            .filter(tag::Column::TeamId.eq(team_id))
            .filter(tag::Column::NameKey.eq(tag_key(name)))
            .lock_exclusive()
            .one(conn)
            .await?;
        if let Some(tag) = found {
            return Ok((tag, inserted == 1));
        }
    }
}

/// The team's tag of exactly this name, capitals included.
pub async fn tag_get(
    conn: &impl ConnectionTrait,
    team_id: i64,
    name: &str,
) -> Result<Option<tag::Model>, DbErr> {
    named(team_id, name).one(conn).await
}

/// The same; on PostgreSQL nobody else changes what carries it, or deletes it, until the transaction ends.
pub async fn tag_lock(
    conn: &impl ConnectionTrait,
    team_id: i64,
    name: &str,
) -> Result<Option<tag::Model>, DbErr> {
    named(team_id, name).lock_exclusive().one(conn).await
}

fn named(team_id: i64, name: &str) -> Select<tag::Entity> {
    tag::Entity::find()
        .filter(tag::Column::TeamId.eq(team_id))
        .filter(tag::Column::NameKey.eq(tag_key(name)))
        .filter(tag::Column::Name.eq(name))
}

/// Oldest first.
pub async fn tag_list(
    conn: &impl ConnectionTrait,
    team_id: i64,
    page: Page,
) -> Result<Listed<tag::Model>, DbErr> {
    let select = tag::Entity::find().filter(tag::Column::TeamId.eq(team_id));
    let total = select.clone().count(conn).await?;
    let rows = select
        .order_by_asc(tag::Column::Id)
        .offset(page.offset())
        .limit(page.size)
        .all(conn)
        .await?;
    Ok(Listed { rows, total })
}

/// Deletes a tag with its links and counts.
pub async fn tag_delete(conn: &impl ConnectionTrait, id: i64) -> Result<bool, DbErr> {
    Ok(tag::Entity::delete_by_id(id).exec(conn).await?.rows_affected == 1)
}

/// The counts of these tags.
pub async fn counts_of(conn: &impl ConnectionTrait, tags: &[i64]) -> Result<Vec<count::Model>, DbErr> {
    count::Entity::find()
        .filter(count::Column::TagId.is_in(tags.iter().copied()))
        .filter(count::Column::Count.gt(0))
        .all(conn)
        .await
}

/// Puts a tag on a thing; returns false where it was there already.
pub async fn link_add(
    conn: &impl ConnectionTrait,
    now: Time,
    tag_id: i64,
    resource_type: &str,
    resource_id: &str,
) -> Result<bool, DbErr> {
    let row = link::ActiveModel {
        tag_id: Set(tag_id),
        resource_type: Set(resource_type.to_owned()),
        resource_id: Set(resource_id.to_owned()),
        tagged_at: Set(now),
        ..Default::default()
    };
    let once = OnConflict::columns([
        link::Column::TagId,
        link::Column::ResourceType,
        link::Column::ResourceId,
    ])
    .do_nothing()
    .to_owned();
    if link::Entity::insert(row)
        .on_conflict(once)
        .exec_without_returning(conn)
        .await?
        == 0
    {
        return Ok(false);
    }
    let newest = link_newest(conn, tag_id, resource_type).await?;
    let (last_link, last_id) = newest.map_or((0, String::new()), |l| (l.id, l.resource_id));
    let count = count::ActiveModel {
        tag_id: Set(tag_id),
        resource_type: Set(resource_type.to_owned()),
        count: Set(1),
        last_link: Set(last_link),
        last_id: Set(last_id),
    };
    let more = OnConflict::columns([count::Column::TagId, count::Column::ResourceType])
        .value(
            count::Column::Count,
            Expr::col((count::Entity, count::Column::Count)).add(1),
        )
        .update_columns([count::Column::LastLink, count::Column::LastId])
        .to_owned();
    count::Entity::insert(count)
        .on_conflict(more)
        .exec_without_returning(conn)
        .await?;
    Ok(true)
}

/// Takes a tag off a thing; returns false where it was not there.
pub async fn link_remove(
    conn: &impl ConnectionTrait,
    tag_id: i64,
    resource_type: &str,
    resource_id: &str,
) -> Result<bool, DbErr> {
    let deleted = link::Entity::delete_many()
        .filter(link::Column::TagId.eq(tag_id))
        .filter(link::Column::ResourceType.eq(resource_type))
        .filter(link::Column::ResourceId.eq(resource_id))
        .exec(conn)
        .await?;
    if deleted.rows_affected == 0 {
        return Ok(false);
    }
    let newest = link_newest(conn, tag_id, resource_type).await?;
    let (last_link, last_id) = newest.map_or((0, String::new()), |l| (l.id, l.resource_id));
    count::Entity::update_many()
        .col_expr(count::Column::Count, Expr::col(count::Column::Count).sub(1))
        .col_expr(count::Column::LastLink, Expr::value(last_link))
        .col_expr(count::Column::LastId, Expr::value(last_id))
        .filter(count::Column::TagId.eq(tag_id))
        .filter(count::Column::ResourceType.eq(resource_type))
        .exec(conn)
        .await?;
    Ok(true)
}

/// Counts what carries each tag anew.
pub async fn count_all(conn: &impl ConnectionTrait) -> Result<(), DbErr> {
    count::Entity::delete_many().exec(conn).await?;
    let sql = "INSERT INTO tag_count (tag_id, resource_type, count, last_link, last_id)
        SELECT c.tag_id, c.resource_type, c.links, c.last, l.resource_id
        FROM (SELECT tag_id, resource_type, COUNT(*) AS links, MAX(id) AS last
            FROM tag_link GROUP BY tag_id, resource_type) c
        JOIN tag_link l ON l.id = c.last";
    conn.execute_unprepared(sql).await.map(drop)
}

async fn link_newest(
    conn: &impl ConnectionTrait,
    tag_id: i64,
    resource_type: &str,
) -> Result<Option<link::Model>, DbErr> {
    link::Entity::find()
        .filter(link::Column::TagId.eq(tag_id))
        .filter(link::Column::ResourceType.eq(resource_type))
        .order_by_desc(link::Column::Id)
        .one(conn)
        .await
}

/// `(resource id, tag id, tag name)` of the tags on these things, in the order in which they were put on.
pub async fn tags_on(
    conn: &impl ConnectionTrait,
    team_id: i64,
    resource_type: &str,
    ids: &[String],
) -> Result<Vec<(String, i64, String)>, DbErr> {
    link::Entity::find()
        .select_only()
        .column(link::Column::ResourceId)
        .column(link::Column::TagId)
        .column(tag::Column::Name)
        .join(JoinType::InnerJoin, link::Relation::Tag.def())
        .filter(link::Column::ResourceType.eq(resource_type))
        .filter(link::Column::ResourceId.is_in(ids.iter().map(String::as_str)))
        .filter(tag::Column::TeamId.eq(team_id))
        .order_by_asc(link::Column::Id)
        .into_tuple()
        .all(conn)
        .await
}

/// For other rooms' `rows.rs`: a page of the ids of a team's things of one kind that carry a tag, the last tagged
/// first. A name that is no tag of the team gives none. The total is the one that is kept with the tag.
pub async fn tagged_page(
    conn: &impl ConnectionTrait,
    team_id: i64,
    name: &str,
    resource_type: &str,
    page: Page,
) -> Result<Listed<String>, DbErr> {
    let tag = tag::Entity::find()
        .filter(tag::Column::TeamId.eq(team_id))
        .filter(tag::Column::NameKey.eq(tag_key(name)))
        .one(conn)
        .await?;
    let mut listed = Listed {
        rows: Vec::new(),
        total: 0,
    };
    let Some(tag) = tag else { return Ok(listed) };
    let count = count::Entity::find_by_id((tag.id, resource_type.to_owned()))
        .one(conn)
        .await?;
    listed.total = count.map_or(0, |count| u64::try_from(count.count).unwrap_or(0));
    if page.offset() < listed.total {
        listed.rows = tagged(tag.id, resource_type, page).into_tuple().all(conn).await?;
    }
    Ok(listed)
}

fn tagged(tag_id: i64, resource_type: &str, page: Page) -> Select<link::Entity> {
    link::Entity::find()
        .select_only()
        .column(link::Column::ResourceId)
        .filter(link::Column::TagId.eq(tag_id))
        .filter(link::Column::ResourceType.eq(resource_type))
        .order_by_desc(link::Column::Id)
        .offset(page.offset())
        .limit(page.size)
}

/// All links there are.
#[cfg(test)]
pub async fn link_count(conn: &impl ConnectionTrait) -> Result<u64, DbErr> {
    link::Entity::find().count(conn).await
}

#[cfg(test)]
mod tests {
    use sea_orm::{DbBackend, QueryTrait};

    use super::*;
    use crate::platform::db::rows::sqlite_plan;
    use crate::platform::db::tests::fresh;

    #[tokio::test]
    async fn a_page_of_what_carries_a_tag_comes_from_an_index_in_its_order() {
        let (db, _dir) = fresh().await;
        let page = Page { number: 3, size: 20 };
        let plan = sqlite_plan(db.conn(), tagged(1, "image", page).build(DbBackend::Sqlite)).await;
        assert_eq!(plan.len(), 1, "{plan:?}");
        assert!(
            plan[0].starts_with("SEARCH tag_link USING")
                && plan[0].contains("(tag_id=? AND resource_type=?)"),
            "{plan:?}"
        );
    }
}
