//! The place of the objects: opened, named, and what is said where it does not answer.

use std::sync::Arc;

use futures::TryStreamExt as _;
use store::Store;
use url::Url;

use super::{App, Unlock};
use crate::config::{self, Config};
use crate::platform::db::{Db, sqlite};
use crate::platform::error::{Error, Result, chain_of};
use crate::platform::net::place_shown;
use crate::platform::reserve::Reserve;
use crate::platform::storage::space::is_one_disk;

/// The place of the objects that the settings name, which has to hold a store already: where none is, nothing is made.
pub fn backend_open(config: &Config) -> Result<Arc<dyn store::Backend>> {
    let place = place_of(config);
    Ok(store::backend_open_existing(&place, &settings(config))?)
}

/// The same, for the store that a first start makes: a folder is made where there is none, and belongs to the owner of
/// the one that it lies in, which is the data folder unless the settings say otherwise.
pub(super) fn backend_make(config: &Config) -> Result<Arc<dyn store::Backend>> {
    Ok(store::backend_open_within(&place_of(config), &settings(config))?)
}

fn place_of(config: &Config) -> String {
    match config.objects() {
        config::Objects::Folder(path) => path.display().to_string(),
        config::Objects::S3(url) => url,
    }
}

/// Whether the place of the objects that the settings name holds a store. Makes nothing.
pub async fn store_is_there(config: &Config) -> Result<bool> {
    let backend = backend_open(config)?;
    let listed = backend.list("h/").try_next().await;
    listed
        .map(|first| first.is_some())
        .map_err(|error| objects_failed(config, error))
}

/// The reserve of the objects, where they lie on another disk than SQLite's file, which has its own, and its folder.
pub(super) fn reserve_of(config: &Config) -> Option<Reserve> {
    let config::Objects::Folder(objects) = config.objects() else {
        return None;
    };
    let is_shared = match config.database() {
        config::Database::Sqlite(path) => is_one_disk(&sqlite::real_folder(&path), &objects),
        config::Database::Postgres(_) => false,
    };
    (!is_shared).then(|| Reserve::of_objects(&objects))
}

impl App {
    /// Gives the room of all reserves away whose disks are nearly full; whether there was any.
    pub fn reserves_release(&self) -> bool {
        let of_objects = self
            .objects_reserve
            .as_ref()
            .is_some_and(Reserve::release_if_short);
        self.db.reserve_release() || of_objects
    }

    /// Looks after the objects' reserve; to be called every second or so.
    pub async fn objects_reserve_look(&self) {
        if let Some(reserve) = &self.objects_reserve {
            reserve.tend(Reserve::keep).await;
        }
    }
}

/// Another place of objects, which is only read: nothing is made there.
pub fn backend_open_to_read(config: &Config, place: &str) -> Result<Arc<dyn store::Backend>> {
    Ok(store::backend_open_to_read(place, &settings(config))?)
}

/// Another place of objects, a folder or a bucket, with the keys that the settings have. A folder is made where there
/// is none, and is the caller's: whoever owns the one that it lies in gets no copy of a store by that.
pub fn backend_open_at(config: &Config, place: &str) -> Result<Arc<dyn store::Backend>> {
    Ok(store::backend_open(place, &settings(config))?)
}

fn settings(config: &Config) -> store::Settings {
    let mut settings = store::Settings::new();
    for (name, value) in [
        ("access_key_id", &config.objects_access_key),
        ("secret_access_key", &config.objects_secret_key),
    ] {
        if let Some(secret) = value {
            settings.insert(name.to_owned(), secret.expose().to_owned());
        }
    }
    settings
}

/// Opens the store, making it at the first start.
pub(super) async fn store_open(
    config: &Config,
    backend: Arc<dyn store::Backend>,
    db: &Db,
    unlock: Unlock,
) -> Result<Store> {
    let options = store::Options {
        dedup_domain: config.dedup_domain,
        encrypt: unlock.encrypt,
        key: unlock.key,
        write_turn: db.write_turn(),
        decoded_bytes: config.cache.memory_mib.saturating_mul(1 << 20),
        ..store::Options::default()
    };
    let opened = Store::open_or_init(backend, db.conn(), options).await;
    let store = opened.map_err(|error| objects_failed(config, error))?;
    let made = store.header().dedup_domain;
    // The default may just not have been set.
    if made != config.dedup_domain && config.dedup_domain != store::DedupDomain::default() {
        return Err(Error::Precondition(
            "`dedup_domain` is `team`, but this store was made with `installation`, which cannot be changed any more; take \
             the setting away, or begin with an empty folder and database"
                .into(),
        ));
    }
    Ok(store)
}

/// Why the objects' place cannot be used. At a start nobody is there who could try again: what is to be looked at is
/// said. The error holds no secret (`store::Backend::describe`).
pub(super) fn objects_failed(config: &Config, error: store::Error) -> Error {
    match error.kind() {
        store::Kind::Unavailable => {}
        // Another format, store or key: what to do is said.
        store::Kind::Incompatible => return Error::Precondition(error.to_string()),
        _ => return error.into(),
    }
    let at = match config.objects() {
        config::Objects::Folder(_) => String::new(),
        config::Objects::S3(url) => format!(" at {}", endpoint_shown(&url)),
    };
    Error::Unavailable(format!(
        "the objects' place{at} does not answer: {}; check that it runs and can be reached from here, and the setting \
         `objects`",
        chain_of(&error)
    ))
}

/// Where a bucket is, without credentials.
fn endpoint_shown(objects: &str) -> String {
    let endpoint = Url::parse(objects).ok().and_then(|url| {
        let mut pairs = url.query_pairs();
        let (_, endpoint) = pairs.find(|(name, _)| name == "endpoint")?;
        Url::parse(&endpoint).ok()
    });
    endpoint.map_or_else(|| "the endpoint of `objects`".to_owned(), |url| place_shown(&url))
}

/// Where the objects lie, for people, and to compare two settings: a folder, or a bucket and its service, without
/// whatever is a secret.
pub fn objects_shown(config: &Config) -> String {
    match config.objects() {
        config::Objects::Folder(path) => {
            let path = std::path::absolute(&path).unwrap_or(path);
            path.canonicalize().unwrap_or(path).display().to_string()
        }
        config::Objects::S3(url) => {
            let bucket = url.split('?').next().unwrap_or_default().trim_end_matches('/');
            format!("{bucket} at {}", endpoint_shown(&url))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_services_have_two_buckets_of_one_name() {
        let shown = |objects: &str| {
            objects_shown(&Config {
                objects: Some(objects.into()),
                ..Config::for_data("/x")
            })
        };
        let one = "s3://images/a?endpoint=http://s3.example.com:9000&secret_access_key=sesame";
        assert_eq!(shown(one), "s3://images/a at http://s3.example.com:9000");
        assert_ne!(
            shown(one),
            shown("s3://images/a?endpoint=http://other.example.com")
        );
        assert_eq!(shown("/nowhere/a"), "/nowhere/a");
    }
}
