//! What can be done with tags.

use std::collections::{BTreeMap, HashMap};

use sea_orm::ConnectionTrait;
use serde_json::json;

use super::model::{MAX_RESOURCES, tag_key, tag_name_check};
use super::rows;
use crate::app::App;
use crate::platform::accounts::Caller;
use crate::platform::clock::Time;
use crate::platform::db::Tx;
use crate::platform::error::{Error, Result};
use crate::platform::events::{self, Event, Who};
use crate::platform::paging::{Listed, Page};
use crate::platform::resources::{Kind, Resource, resources_existing};

/// How many things of one kind carry a tag.
#[derive(Clone, Debug)]
pub struct Tagged {
    /// Which kind.
    pub kind: &'static Kind,
    /// How many.
    pub count: i64,
    /// The id of the last tagged one, and how late it was in comparison with other kinds.
    pub last: (i64, String),
}

/// A tag with its counts, only of what the caller may read; kinds without any are left out.
#[derive(Clone, Debug)]
pub struct Counted {
    /// As it was first written.
    pub name: String,
    /// By kind.
    pub counts: Vec<Tagged>,
}

/// Checks the names of tags that something is to carry.
pub fn tag_names_check(names: &[String]) -> Result<()> {
    names.iter().try_for_each(|name| tag_name_check(name))
}

/// The team's tags, oldest first.
pub async fn tag_list(app: &App, caller: &Caller, page: Page) -> Result<Listed<Counted>> {
    let listed = rows::tag_list(app.db.conn(), caller.team_id, page).await?;
    Ok(Listed {
        rows: counted(app.db.conn(), caller, listed.rows).await?,
        total: listed.total,
    })
}

/// A tag by its name as it was first written.
pub async fn tag_get(app: &App, caller: &Caller, name: &str) -> Result<Counted> {
    let Some(row) = rows::tag_get(app.db.conn(), caller.team_id, name).await? else {
        return Err(Error::NotFound);
    };
    counted(app.db.conn(), caller, vec![row])
        .await?
        .pop()
        .ok_or(Error::NotFound)
}

/// Makes a tag. One that exists is answered as it is, because clients make a tag before every use of it.
pub async fn tag_create(app: &App, caller: &Caller, name: &str) -> Result<Counted> {
    tag_name_check(name)?;
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let (row, is_new) = rows::tag_upsert(&*tx, now, caller.team_id, name).await?;
    if is_new {
        events::record_in_tx(
            &*tx,
            now,
            &caller.who,
            Event::done("tag.create", "tag", &row.name),
        )
        .await?;
    }
    tx.commit().await?;
    counted(app.db.conn(), caller, vec![row])
        .await?
        .pop()
        .ok_or(Error::NotFound)
}

/// Deletes a tag and takes it off everything.
pub async fn tag_delete(app: &App, caller: &Caller, name: &str) -> Result<()> {
    let now = app.clock.now();
    let tx = app.db.write().await?;
    let Some(row) = rows::tag_get(&*tx, caller.team_id, name).await? else {
        return Err(Error::NotFound);
    };
    if !rows::tag_delete(&*tx, row.id).await? {
        return Err(Error::NotFound);
    }
    events::record_in_tx(&*tx, now, &caller.who, Event::done("tag.delete", "tag", name)).await?;
    tx.commit().await
}

/// Puts a tag on things of the team, all or none.
pub async fn tag_resources(app: &App, caller: &Caller, name: &str, resources: &[Resource]) -> Result<()> {
    change_resources(app, caller, name, resources, true).await
}

/// Takes a tag off things of the team. One that does not carry it stays as it is.
pub async fn untag_resources(app: &App, caller: &Caller, name: &str, resources: &[Resource]) -> Result<()> {
    change_resources(app, caller, name, resources, false).await
}

async fn change_resources(
    app: &App,
    caller: &Caller,
    name: &str,
    resources: &[Resource],
    is_tagging: bool,
) -> Result<()> {
    if resources.len() > MAX_RESOURCES {
        return Err(Error::invalid(format!(
            "{MAX_RESOURCES} resources at most can be changed by one request; send several"
        )));
    }
    for kind in resources.iter().map(|resource| resource.kind) {
        kind.require(caller, "update")?;
    }
    let now = app.clock.now();
    let tx = app.db.write().await?;
    // The things before the tag: that is the order in which a deleted image gives up its tags.
    if is_tagging {
        existing_check(&tx, caller.team_id, resources).await?;
    }
    let Some(tag) = rows::tag_lock(&*tx, caller.team_id, name).await? else {
        return Err(Error::NotFound);
    };
    for Resource { kind, id } in resources {
        let is_changed = if is_tagging {
            rows::link_add(&*tx, now, tag.id, kind.name, id).await?
        } else {
            rows::link_remove(&*tx, tag.id, kind.name, id).await?
        };
        if is_changed {
            let what = if is_tagging { "tag.add" } else { "tag.remove" };
            let event = Event::done(what, kind.name, id).with(json!({ "tag": tag.name }));
            events::record_in_tx(&*tx, now, &caller.who, event).await?;
        }
    }
    tx.commit().await
}

async fn existing_check(tx: &Tx, team_id: i64, wanted: &[Resource]) -> Result<()> {
    let existing = resources_existing(tx, team_id, wanted).await?;
    if wanted.iter().all(|resource| existing.contains(resource)) {
        Ok(())
    } else {
        Err(Error::NotFound)
    }
}

/// Makes `names` the tags of a thing: what is missing is put on, and made where it is new; what is not named is taken
/// off. With no names the thing loses its tags, as it must when it is deleted. The caller has checked the names
/// ([`tag_names_check`]) and that the thing is the team's, and records the change.
pub async fn tags_set_in_tx(
    conn: &impl ConnectionTrait,
    now: Time,
    team_id: i64,
    names: &[String],
    resource_type: &str,
    resource_id: &str,
) -> Result<()> {
    let ids = [resource_id.to_owned()];
    let carried = rows::tags_on(conn, team_id, resource_type, &ids).await?;
    let wanted = tags_hold_in_tx(conn, now, team_id, names, &carried).await?;
    for tag_id in names.iter().filter_map(|name| wanted.get(&tag_key(name))) {
        rows::link_add(conn, now, *tag_id, resource_type, resource_id).await?;
    }
    for (_, tag_id, _) in carried {
        if !wanted.values().any(|id| *id == tag_id) {
            rows::link_remove(conn, tag_id, resource_type, resource_id).await?;
        }
    }
    Ok(())
}

/// Makes the tags of `names` that are not there, and locks them and those that a thing carries: in the order of their
/// keys, so that two transactions with the same tags do not wait for each other. The ids of `names`, by key.
async fn tags_hold_in_tx(
    conn: &impl ConnectionTrait,
    now: Time,
    team_id: i64,
    names: &[String],
    carried: &[(String, i64, String)],
) -> Result<HashMap<String, i64>> {
    let mut all: BTreeMap<String, (&str, bool)> = BTreeMap::new();
    for (_, _, name) in carried {
        all.insert(tag_key(name), (name, false));
    }
    // The first of two spellings is the one that is kept.
    for name in names.iter().rev() {
        all.insert(tag_key(name), (name, true));
    }
    let mut wanted = HashMap::new();
    for (key, (name, is_wanted)) in all {
        if !is_wanted {
            rows::tag_lock(conn, team_id, name).await?;
            continue;
        }
        let (tag, is_new) = rows::tag_upsert(conn, now, team_id, name).await?;
        if is_new {
            // Who did it is in the event of the change that this is a part of.
            let who = Who {
                team_id: Some(team_id),
                ..Who::default()
            };
            events::record_in_tx(conn, now, &who, Event::done("tag.create", "tag", &tag.name)).await?;
        }
        wanted.insert(key, tag.id);
    }
    Ok(wanted)
}

/// The tags of each of these things, in the order in which they were put on. Things without tags are left out.
pub async fn tags_of(
    conn: &impl ConnectionTrait,
    team_id: i64,
    resource_type: &str,
    ids: &[String],
) -> Result<HashMap<String, Vec<String>>> {
    let mut out: HashMap<String, Vec<String>> = HashMap::new();
    if ids.is_empty() {
        return Ok(out);
    }
    for (id, _, name) in rows::tags_on(conn, team_id, resource_type, ids).await? {
        out.entry(id).or_default().push(name);
    }
    Ok(out)
}

async fn counted(
    conn: &impl ConnectionTrait,
    caller: &Caller,
    tags: Vec<rows::tag::Model>,
) -> Result<Vec<Counted>> {
    let ids: Vec<i64> = tags.iter().map(|tag| tag.id).collect();
    let mut by_tag: HashMap<i64, Vec<Tagged>> = HashMap::new();
    for row in rows::counts_of(conn, &ids).await? {
        let Some(kind) = Kind::find(&row.resource_type).filter(|kind| kind.may(caller, "read")) else {
            continue;
        };
        let last = (row.last_link, row.last_id);
        by_tag.entry(row.tag_id).or_default().push(Tagged {
            kind,
            count: row.count,
            last,
        });
    }
    let counted = |tag: rows::tag::Model| Counted {
        name: tag.name,
        counts: by_tag.remove(&tag.id).unwrap_or_default(),
    };
    Ok(tags.into_iter().map(counted).collect())
}

/// Puts tags in order that were brought back from the journal.
pub async fn tags_settle_in_tx(tx: &Tx) -> Result<u64> {
    rows::count_all(&**tx).await?;
    Ok(0)
}
