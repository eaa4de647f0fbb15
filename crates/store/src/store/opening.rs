//! Making a store and opening it: backend and database have to belong together.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};

use futures::TryStreamExt as _;
use sea_orm::DatabaseConnection;
use tokio::sync::RwLock;
use uuid::Uuid;

use super::{Inner, Opening, Options, Store};
use crate::backend::Backend;
use crate::digest::Keys;
use crate::doubt::Doubt;
use crate::error::{Error, Kind, Result};
use crate::header::{FEATURE_ENCRYPTED, FEATURES_WRITE, Found, Header, header_load};
use crate::keyring;
use crate::keys::WrappedKey;
use crate::memory::Memory;
use crate::reader::ahead::Budget;
use crate::reader::leaves::Leaves;
use crate::rebuild::{is_being_rebuilt, unfinished};
use crate::rows;
use crate::seal::StoreKey;
use crate::{CHUNK_BYTES, FORMAT};

/// What is left of a store without its headers, or copied of it so far, is no empty place: a new store there would take
/// all of it for garbage.
async fn remains_refuse(backend: &dyn Backend) -> Result<()> {
    let Some(key) = remains(backend).await? else {
        return Ok(());
    };
    let text = format!(
        "`{}` is not empty: it holds objects of a store (`{key}`) without its headers (`h/`). Finish the copy that brought \
         them, or bring the headers back; for a new store name an empty place",
        backend.describe()
    );
    Err(Error::new(Kind::Exists, text))
}

/// An object of a store in a place that has no header, if there is one.
async fn remains(backend: &dyn Backend) -> Result<Option<String>> {
    for prefix in ["p/", "b/", "j/"] {
        if let Some(item) = backend.list(prefix).try_next().await? {
            return Ok(Some(item.key));
        }
    }
    Ok(None)
}

/// Of a place that has objects of a store and no header: what is missing, and what to do.
pub(crate) async fn headers_missing(backend: &dyn Backend) -> Result<Option<Error>> {
    let key = remains(backend).await?;
    Ok(key.map(|key| {
        let text = format!(
            "`{}` holds objects of a store (`{key}`), but its headers (`h/`) are missing: put the objects below `h/` back from a copy \
             of the folder or bucket, they are few and small. Nothing else of the store is hurt by that. Where it is being copied, \
             finish that first",
            backend.describe()
        );
        Error::new(Kind::HeadersDamaged, text)
    }))
}

/// Why a backend without a header cannot be opened.
async fn nothing_there(backend: &dyn Backend, db: &DatabaseConnection) -> Result<Error> {
    if let Some(error) = headers_missing(backend).await? {
        return Ok(error);
    }
    let place = backend.describe();
    let text = match meta_list(db).await?.first() {
        Some(row) => format!(
            "`{place}` does not hold the store {} that the database knows, nor any other: it is not mounted, or not wholly \
             copied, or another place is meant",
            row.store_id
        ),
        None => format!("`{place}` holds no store: make one with `cistern init`"),
    };
    Ok(Error::new(Kind::NotFound, text))
}

impl Store {
    /// Makes a store in an empty backend and its row in the database. Fails with [`Kind::Exists`] when the
    /// backend holds a store already. After a crash in the middle, the same call finishes the work.
    pub async fn init(backend: Arc<dyn Backend>, db: &DatabaseConnection, options: Options) -> Result<Self> {
        let begun = meta_list(db).await?.into_iter().next();
        if let Some(row) = begun.as_ref().filter(|row| row.ready) {
            let text = format!("the database already has the store {}", row.store_id);
            return Err(Error::new(Kind::Exists, text));
        }
        if begun.as_ref().is_some_and(is_being_rebuilt) {
            return Err(unfinished());
        }
        let found = header_load(&*backend).await?;
        let store_id = match (&begun, &found) {
            (Some(row), Some(Found { header, .. })) if header.store_id == row.store_id => row.store_id,
            (_, Some(Found { header, .. })) => {
                let text = format!(
                    "`{}` already holds the store {}",
                    backend.describe(),
                    header.store_id
                );
                return Err(Error::new(Kind::Exists, text));
            }
            (Some(row), None) => row.store_id,
            (None, None) => options.world.uuid(),
        };
        if found.is_none() {
            remains_refuse(&*backend).await?;
        }
        if begun.is_none() {
            meta_create(db, store_id, &options).await?;
        }
        let header = match found {
            Some(found) => found.header,
            None => header_create(&*backend, store_id, &options).await?,
        };
        rows::meta_ready(db, 1, &header.digest_key_id)
            .await
            .map_err(|error| Error::db("cannot finish the new store", error))?;
        Self::open(backend, db, options).await
    }

    /// Opens the store that backend and database hold together.
    pub async fn open(backend: Arc<dyn Backend>, db: &DatabaseConnection, options: Options) -> Result<Self> {
        Self::open_for(backend, db, options, Opening::Use).await
    }

    pub(crate) async fn open_for(
        backend: Arc<dyn Backend>,
        db: &DatabaseConnection,
        options: Options,
        opening: Opening,
    ) -> Result<Self> {
        let Some(found) = header_load(&*backend).await? else {
            return Err(nothing_there(&*backend, db).await?);
        };
        let keys = found.unlock(options.key.as_ref())?;
        let header = found.header;
        let row = meta_find(db, &*backend, &header, &options, opening).await?;
        if keys.id() != row.digest_key_id || header.digest_key_id != row.digest_key_id {
            let text = format!(
                "store {} has another digest key than the database expects",
                header.store_id
            );
            return Err(Error::new(Kind::Incompatible, text));
        }
        if header.is_encrypted() && row.header_last.cast_unsigned() > header.number {
            let (newest, found) = (
                Header::key(row.header_last.cast_unsigned()),
                Header::key(header.number),
            );
            tracing::warn!(
                newest,
                found,
                "the store's header is not the last that was begun: if a key was added or removed since, an older copy of \
                 `h/` lies there, and `cistern key list` shows the keys as they were"
            );
        }
        let number = row.id;
        let db = rows::Database::new(db.clone(), options.world.clone(), options.write_turn.clone());
        Ok(Self::on(backend, db, options, (header, keys, number)))
    }

    /// A store of which nothing is in memory yet.
    fn on(
        backend: Arc<dyn Backend>,
        db: rows::Database,
        options: Options,
        (header, keys, number): (Header, Keys, i32),
    ) -> Self {
        let inner = Inner {
            backend,
            db,
            memory: Arc::new(Memory::new(options.decoded_bytes)),
            options,
            newest_header: Mutex::new(header.clone()),
            header_claimed: AtomicU32::new(0),
            header,
            keys,
            number,
            read_ahead: Budget::default(),
            leaves: Leaves::default(),
            has_nowait: AtomicBool::new(true),
            damage_is_stale: AtomicBool::new(false),
            doubt: Doubt::default(),
            there_looked: Mutex::default(),
            unproven: RwLock::default(),
            damage_recorded: Mutex::default(),
            cache: OnceLock::new(),
            writers: AtomicUsize::new(0),
            objects: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The same store as it lies in another place: a copy, read with the keys and the index of this one, whatever keys
    /// its own header has. Fails where no store or another one is there.
    pub(crate) async fn elsewhere(&self, backend: Arc<dyn Backend>) -> Result<Self> {
        let place = backend.describe();
        let Some(found) = header_load(&*backend).await? else {
            return Err(Error::new(Kind::NotFound, format!("`{place}` holds no store")));
        };
        if found.header.store_id != self.id() {
            let text = format!(
                "`{place}` is a copy of another store ({}) than this one ({}): nothing of this can come back from there; name a copy of \
                 this store",
                found.header.store_id,
                self.id()
            );
            return Err(Error::new(Kind::Incompatible, text));
        }
        let own = &self.inner;
        let known = (own.header.clone(), own.keys.clone(), own.number);
        Ok(Self::on(backend, own.db.clone(), own.options.clone(), known))
    }

    /// Opens the store, or makes it where neither backend nor database has one.
    pub async fn open_or_init(
        backend: Arc<dyn Backend>,
        db: &DatabaseConnection,
        options: Options,
    ) -> Result<Self> {
        let known = meta_list(db).await?;
        if known.iter().any(|row| row.ready) || (known.is_empty() && header_load(&*backend).await?.is_some())
        {
            return Self::open(backend, db, options).await;
        }
        Self::init(backend, db, options).await
    }
}

async fn meta_list(db: &DatabaseConnection) -> Result<Vec<rows::meta::Model>> {
    rows::meta_list(db)
        .await
        .map_err(|error| Error::db("cannot read the store's row", error))
}

/// The database's row of the store with this header. To be rebuilt, a store needs none, and gets one.
async fn meta_find(
    db: &DatabaseConnection,
    backend: &dyn Backend,
    header: &Header,
    options: &Options,
    opening: Opening,
) -> Result<rows::meta::Model> {
    let rows = meta_list(db).await?;
    let is_other = !rows.is_empty();
    if let Some(row) = rows.into_iter().find(|row| row.store_id == header.store_id) {
        if row.ready || opening == Opening::Rebuild {
            return Ok(row);
        }
        if is_being_rebuilt(&row) {
            return Err(unfinished());
        }
    } else if opening == Opening::Rebuild && !is_other {
        let row = rows::meta::Model {
            digest_key_id: header.digest_key_id.clone(),
            ..meta_new(header.store_id, options)
        };
        let written = rows::meta_insert(db, row.clone()).await;
        return written
            .map(|()| row)
            .map_err(|error| Error::db("cannot write the store's row", error));
    }
    let text = format!(
        "the database does not know the store {} in `{}`: where the database was lost, `cistern recover` makes a new one \
         from the store; otherwise put its newest copy back, or point --database and --objects at things that belong \
         together",
        header.store_id,
        backend.describe()
    );
    Err(Error::new(Kind::Incompatible, text))
}

async fn meta_create(db: &DatabaseConnection, store_id: Uuid, options: &Options) -> Result<()> {
    rows::meta_insert(db, meta_new(store_id, options))
        .await
        .map_err(|error| Error::db("cannot write the store's row", error))
}

fn meta_new(store_id: Uuid, options: &Options) -> rows::meta::Model {
    rows::meta::Model {
        id: 1,
        store_id,
        ready: false,
        format: FORMAT.cast_signed(),
        digest_key_id: String::new(),
        epoch: 1,
        gc_fence: None,
        created_us: options.world.now_us(),
        header_number: 0,
        header_last: 0,
    }
}

/// Writes the first header; that of an encrypted store with a new key, wrapped.
async fn header_create(backend: &dyn Backend, store_id: Uuid, options: &Options) -> Result<Header> {
    let world = &options.world;
    let digest_key = options.digest_key.unwrap_or_else(|| world.secret());
    let key = options.encrypt.then(|| StoreKey::new(world.secret()));
    let wrapped_keys = match (&key, &options.key) {
        (None, None) => Vec::new(),
        (Some(key), Some(wrapping)) => vec![WrappedKey::new(world, store_id, wrapping, key)?],
        (Some(_), None) => return Err(Error::new(Kind::Invalid, "an encrypted store needs a key")),
        (None, Some(_)) => {
            let text = "a key is given, but there is no store yet: make an encrypted one with `cistern init --encrypt`";
            return Err(Error::new(Kind::Incompatible, text));
        }
    };
    let mut header = Header {
        number: 0,
        store_id,
        format: FORMAT,
        chunk_bytes: CHUNK_BYTES,
        digest: "blake3-keyed".into(),
        digest_key_id: Keys::new(&digest_key).id(),
        digest_key: None,
        sealed_digest_key: None,
        wrapped_keys,
        features_read: key.as_ref().map_or(0, |_| FEATURE_ENCRYPTED),
        features_write: FEATURES_WRITE,
        dedup_domain: options.dedup_domain,
        created_us: world.now_us(),
    };
    header.digest_key_set(&digest_key, key.as_ref(), world.salt())?;
    keyring::headers_put(backend, &mut header, key.as_ref()).await?;
    Ok(header)
}
