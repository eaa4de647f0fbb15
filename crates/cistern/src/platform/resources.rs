//! What can carry a tag or belong to a project.
//!
//! The kinds and their names on the wire are DigitalOcean's, with `do:image:ID` as our addition. Whether a thing of a
//! kind exists only its product knows: it says so by an [`Owner`] in `app::resource_owners`. A kind without an owner
//! has no things, so that asking for one is asking for something that does not exist.

use std::collections::HashSet;

use futures::future::BoxFuture;

use super::accounts::Caller;
use super::db::Tx;
use super::error::Result;

/// A kind of thing, with its names.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// As in a tag's `resource_type`, and in URNs.
    pub name: &'static str,
    /// The key of its counts in a tag, for what can be tagged.
    pub tag_key: Option<&'static str>,
    /// Whether it can belong to a project.
    pub in_projects: bool,
    /// Its collection below `/v2/`.
    pub path: &'static str,
    /// What its scopes are called.
    pub scope: &'static str,
}

const fn kind(
    name: &'static str,
    tag_key: Option<&'static str>,
    in_projects: bool,
    path: &'static str,
    scope: &'static str,
) -> Kind {
    Kind {
        name,
        tag_key,
        in_projects,
        path,
        scope,
    }
}

/// Every kind: what `resources/tags` and `shared/attributes/urn.yml` of DigitalOcean's specification name, and images
/// in projects.
pub static KINDS: [Kind; 13] = [
    kind("droplet", Some("droplets"), true, "droplets", "droplet"),
    kind("image", Some("images"), true, "images", "image"),
    kind("volume", Some("volumes"), true, "volumes", "block_storage"),
    kind(
        "volume_snapshot",
        Some("volume_snapshots"),
        false,
        "snapshots",
        "block_storage_snapshot",
    ),
    kind("database", Some("databases"), false, "databases", "database"),
    kind("kubernetes", None, true, "kubernetes/clusters", "kubernetes"),
    kind("dbaas", None, true, "databases", "database"),
    kind("domain", None, true, "domains", "domain"),
    kind("floatingip", None, true, "floating_ips", "reserved_ip"),
    kind("loadbalancer", None, true, "load_balancers", "load_balancer"),
    kind("space", None, true, "spaces", "spaces"),
    kind("vpc", None, true, "vpcs", "vpc"),
    kind("reservedip", None, true, "reserved_ips", "reserved_ip"),
];

/// Of the ids, those that exist in the team of this id, as they were given. What cannot be an id does not exist.
pub type Existing = for<'a> fn(&'a Tx, i64, &'a [String]) -> BoxFuture<'a, Result<Vec<String>>>;

/// A product's answer to "which of these are the team's, and there".
#[derive(Clone, Copy)]
pub struct Owner {
    /// [`Kind::name`].
    pub kind: &'static str,
    /// Finds them.
    pub existing: Existing,
}

/// One thing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// What it is.
    pub kind: &'static Kind,
    /// Its id, as text.
    pub id: String,
}

impl Kind {
    /// The kind of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// Whether the caller may do `verb` with things of this kind.
    pub fn may(&self, caller: &Caller, verb: &str) -> bool {
        caller.may(&format!("{}:{verb}", self.scope))
    }

    /// Refuses with [`Error::Forbidden`](super::error::Error::Forbidden) a caller who may not.
    pub fn require(&self, caller: &Caller, verb: &str) -> Result<()> {
        caller.require(&format!("{}:{verb}", self.scope))
    }

    /// Where a thing of this kind is found, below `base_url`.
    pub fn url(&self, base_url: &str, id: &str) -> String {
        // A database in a project goes by another name than one with a tag, but it is found in one place.
        format!("{base_url}/v2/{}/{id}", self.path)
    }
}

impl std::hash::Hash for Kind {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// Of `wanted`, those that exist in the team.
pub async fn resources_existing(tx: &Tx, team_id: i64, wanted: &[Resource]) -> Result<HashSet<Resource>> {
    let mut out = HashSet::new();
    for owner in owners() {
        let ids: Vec<String> = wanted
            .iter()
            .filter(|r| r.kind.name == owner.kind)
            .map(|r| r.id.clone())
            .collect();
        let Some(kind) = Kind::find(owner.kind).filter(|_| !ids.is_empty()) else {
            continue;
        };
        let existing = (owner.existing)(tx, team_id, &ids).await?;
        out.extend(existing.into_iter().map(|id| Resource { kind, id }));
    }
    Ok(out)
}

#[cfg(not(test))]
fn owners() -> Vec<Owner> {
    crate::app::resource_owners()
}

/// In tests there are also databases, domains and vpcs, which Cistern does not have: every id that begins with the
/// team's number exists.
#[cfg(test)]
fn owners() -> Vec<Owner> {
    let planted = |kind| Owner {
        kind,
        existing: |_, team_id, ids| {
            let mine = |id: &&String| id.starts_with(&format!("{team_id}-"));
            let ids = ids.iter().filter(mine).cloned().collect();
            Box::pin(async move { Ok(ids) })
        },
    };
    let mut owners = crate::app::resource_owners();
    owners.extend(["database", "domain", "vpc"].map(planted));
    owners
}
