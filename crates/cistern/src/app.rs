//! The running service: what every request and job is given.

mod objects;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use sea_orm_migration::MigrationTrait;
use store::{Store, WrappingKey, owner};

use self::objects::{backend_make, objects_failed, store_open};
pub use self::objects::{backend_open, backend_open_at, backend_open_to_read, objects_shown, store_is_there};
use crate::config::{self, Config};
use crate::images::workfile::SpoolKey;
use crate::images::{self, download::Downloads, handed::Handed, uploads::turns::Turns};
use crate::platform::accounts::{SignIns, service as accounts};
use crate::platform::clock::Clock;
use crate::platform::command::quoted;
use crate::platform::data_lock::{keys_lock, keys_lock_now, objects_check};
use crate::platform::db::{self, Db, Place};
use crate::platform::error::{Context, Error, Result};
use crate::platform::events::Refusals;
use crate::platform::fresh::Fresh;
use crate::platform::jobs::{self, Engine, Queue, Registry};
use crate::platform::journal;
use crate::platform::reserve::Reserve;
use crate::platform::resources::Owner;
use crate::platform::secrets::{self, Secrets};
use crate::platform::storage::gc::model::GivenUp;
use crate::platform::storage::mend::Looked;
use crate::platform::{actions, keys, projects, random, ssh_keys, tags};

/// Shared by every request and job; clones are cheap.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

/// The parts of the service.
pub struct Inner {
    /// The settings.
    pub config: Config,
    /// The data folder; it exists.
    pub data: PathBuf,
    /// This server's name in leases: kept in the data folder, so that two servers on one database differ.
    pub node: String,
    /// The database.
    pub db: Db,
    /// Seals secrets in the database.
    pub secrets: Secrets,
    /// Disks, by content.
    pub store: Store,
    /// Room on the disk of the objects, where that is another than the database's.
    objects_reserve: Option<Reserve>,
    /// Where the time comes from.
    pub clock: Clock,
    /// Wakes the job engine when work was enqueued.
    pub queue: Queue,
    /// Encrypts working files, where the store is encrypted.
    pub spool_key: Option<SpoolKey>,
    /// Open files that wait for their import.
    pub handed: Handed,
    /// Who writes which upload.
    pub turns: Turns,
    /// Bounds what one caller takes by downloading.
    pub downloads: Downloads,
    /// Guards signing in.
    pub sign_ins: SignIns,
    /// Bounds how many refusals are written.
    pub refusals: Refusals,
    /// Writes the catalogue journal.
    pub journal: journal::Writer,
    /// When headers and journal were last read.
    pub looked: Looked,
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

/// The file in the data folder with [`Inner::node`].
const NODE: &str = "node";
/// How long is waited for other servers on PostgreSQL where there is another time.
const KEYS_WAIT: Duration = Duration::from_secs(5);

/// What a store is opened with.
#[derive(Debug, Default)]
struct Unlock {
    key: Option<WrappingKey>,
    /// Whether one that has to be made is encrypted.
    encrypt: bool,
}

/// Held while the store's keys are changed.
pub struct KeysAlone {
    _tx: Option<db::Tx>,
    _file: Option<fs::File>,
}

impl KeysAlone {
    fn of_servers(tx: db::Tx) -> Self {
        Self {
            _tx: Some(tx),
            _file: None,
        }
    }

    fn of_folder(file: fs::File) -> Self {
        Self {
            _tx: None,
            _file: Some(file),
        }
    }
}

/// What [`App::open_telling`] is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The database, which may have to wait for another server's start, or be migrated.
    Database,
    /// The place of the objects.
    Objects,
}

impl App {
    /// Opens the installation that `config` describes, making it where there is none: data folder, database, store.
    /// No job runs until [`App::engine_start`].
    pub async fn open(config: Config) -> Result<Self> {
        Self::open_telling(config, &|_| ()).await
    }

    /// The same, and `tell` hears what is being opened.
    pub async fn open_telling(config: Config, tell: &(dyn Fn(Opening) + Sync)) -> Result<Self> {
        let key = keys::service::key_load(&config).await?;
        let unlock = Unlock { key, encrypt: false };
        Self::open_guarded(config, tell, unlock).await
    }

    /// The same, and a store that has to be made is encrypted with the settings' key.
    pub async fn open_encrypted(config: Config) -> Result<Self> {
        let key = keys::service::key_load(&config).await?;
        let unlock = Unlock { key, encrypt: true };
        let app = Self::open_guarded(config, &|_| (), unlock).await?;
        if app.store.is_encrypted() {
            return Ok(app);
        }
        Err(Error::Precondition(format!(
            "the installation at {} is there already and not encrypted, which is chosen when it is made; make another \
             with `cistern init --encrypt`, and bring the images over with `cistern image export` and `import`",
            app.data.display()
        )))
    }

    /// Opens an existing installation with this key in place of the settings'.
    pub async fn open_existing_with(config: Config, key: Option<WrappingKey>) -> Result<Self> {
        existing_open(&config).await?;
        let unlock = Unlock { key, encrypt: false };
        Self::open_guarded(config, &|_| (), unlock).await
    }

    /// Opens a database that a recovery has not made the store's yet.
    pub async fn open_unguarded(config: Config, key: Option<WrappingKey>) -> Result<Self> {
        let unlock = Unlock { key, encrypt: false };
        Self::open_with(config, &|_| (), unlock, backend_of).await
    }

    /// Opens, and asks whether the database is the store's.
    async fn open_guarded(config: Config, tell: &(dyn Fn(Opening) + Sync), unlock: Unlock) -> Result<Self> {
        let app = Self::open_with(config, tell, unlock, backend_of).await?;
        journal::open(&app).await?;
        Ok(app)
    }

    /// The same without asking, with the objects where `objects` says.
    async fn open_with(
        config: Config,
        tell: &(dyn Fn(Opening) + Sync),
        unlock: Unlock,
        objects: impl FnOnce(&Config, bool) -> Result<Arc<dyn store::Backend>>,
    ) -> Result<Self> {
        tell(Opening::Database);
        store_refuse(&config)?;
        let data = folder_create(&config.data)?;
        if let Some(path) = config.sqlite() {
            refuse_unfit(&path)?;
        }
        let _alone = Db::start_alone(&place(&config)).await?;
        let fresh = fresh_look(&config, &data);
        let db = Db::open(&place(&config), config.database_max_connections).await?;
        let opening = Self::open_on(config.clone(), data, db.clone(), tell, unlock, objects);
        let opened = Box::pin(opening).await;
        if let (Err(error), Some(fresh)) = (&opened, fresh)
            && is_useless(&config, &db, error).await
        {
            db.close().await?;
            fresh.remove();
        }
        opened
    }

    /// The same on a database that answers.
    async fn open_on(
        config: Config,
        data: PathBuf,
        db: Db,
        tell: &(dyn Fn(Opening) + Sync),
        unlock: Unlock,
        objects: impl FnOnce(&Config, bool) -> Result<Arc<dyn store::Backend>>,
    ) -> Result<Self> {
        if let Some(copy) = db::migrate::run(&db, Some(&data)).await? {
            tracing::info!(copy = %copy.display(), "the database was copied aside before it was migrated");
        }
        let node = node_name(&data)?;
        let secrets = secrets::service::open((&data, &config.secrets_key_file()), &db, |secrets, tx| {
            Box::pin(images::service::source_urls_seal(secrets, tx))
        })
        .await?;
        tell(Opening::Objects);
        let objects = objects(&config, db.has_whole_store().await?)?;
        let store = store_open(&config, objects, &db, unlock).await?;
        let spool_key = SpoolKey::open(&images::spool::folder(&data), &store)?;
        let objects_reserve = objects::reserve_of(&config);
        let (clock, queue) = (Clock::default(), Queue::default());
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                data,
                node,
                db,
                secrets,
                store,
                objects_reserve,
                clock,
                queue,
                spool_key,
                handed: Handed::default(),
                turns: Turns::default(),
                downloads: Downloads::default(),
                sign_ins: SignIns::default(),
                refusals: Refusals::default(),
                journal: journal::Writer::default(),
                looked: Looked::default(),
            }),
        })
    }

    /// Opens an installation for a local command: refuses where there is none, and changes nothing of it.
    pub async fn open_existing(config: Config) -> Result<Self> {
        existing_open(&config).await?;
        Self::open(config).await
    }

    /// Tests that the objects' place does what the store relies on, and refuses one that does not. A full one is no
    /// reason not to start: what it holds can be read, and deleted.
    pub async fn objects_test(&self) -> Result<()> {
        match self.store.probe_backend().await {
            Ok(probe) => {
                tracing::info!(
                    place = self.store.describe(),
                    exclusive_create = probe.exclusive_create,
                    "the objects' place does what it should"
                );
                Ok(())
            }
            Err(error) if error.kind() == store::Kind::NoSpace => {
                tracing::warn!(%error, "the objects' place is full: images can be read, but not imported");
                Ok(())
            }
            Err(error) => Err(objects_failed(&self.config, error)),
        }
    }

    /// Keeps two changes of the store's keys apart, as long as what it returns is there. Servers on PostgreSQL need not
    /// share a folder; with SQLite there is no lock of a start, but everybody has the folder.
    pub async fn keys_alone(&self) -> Result<KeysAlone> {
        if let Some(tx) = Db::start_alone(&place(&self.config)).await? {
            return Ok(KeysAlone::of_servers(tx));
        }
        let data = self.data.clone();
        let locked = tokio::task::spawn_blocking(move || keys_lock(&data)).await;
        let file = locked.context("the lock of the keys was not waited for")??;
        Ok(KeysAlone::of_folder(file))
    }

    /// The same, where it can be had soon.
    pub async fn keys_alone_now(&self) -> Result<Option<KeysAlone>> {
        let Ok(started) = tokio::time::timeout(KEYS_WAIT, Db::start_alone(&place(&self.config))).await else {
            return Ok(None);
        };
        if let Some(tx) = started? {
            return Ok(Some(KeysAlone::of_servers(tx)));
        }
        Ok(keys_lock_now(&self.data)?.map(KeysAlone::of_folder))
    }

    /// Forgets which key the secrets in the database are sealed with; false where there was none. For when it is lost.
    pub async fn secrets_reset(config: Config) -> Result<bool> {
        secrets::service::reset(&existing_open(&config).await?).await
    }

    /// The domain that a team's data is deduplicated in.
    pub fn dedup_domain(&self, team_id: i64) -> i64 {
        if self.has_domains() { team_id } else { 0 }
    }

    /// Whether teams share no stored data.
    pub fn has_domains(&self) -> bool {
        self.store.header().dedup_domain == store::DedupDomain::Team
    }

    /// Starts the workers; none where nothing may be written.
    pub async fn engine_start(&self) -> Result<Engine> {
        if self.db.refusal().is_some() {
            return Ok(Engine::idle());
        }
        Engine::start(self, job_kinds(), &self.node, self.config.jobs.workers).await
    }

    /// On the very first start makes the first owner, who is also the operator, and their team; later `None`.
    pub async fn first_start(&self) -> Result<Option<accounts::FirstStart>> {
        if self.db.refusal().is_some() {
            return Ok(None);
        }
        let _alone = Db::start_alone(&place(&self.config)).await?;
        accounts::first_start(self).await
    }
}

/// Refuses a data folder that is a store, or a copy of one, itself: an installation would be made inside of it.
fn store_refuse(config: &Config) -> Result<()> {
    let is_objects = matches!(config.objects(), config::Objects::Folder(objects) if objects == config.data);
    let is_installed = config.sqlite().is_some_and(|path| path.exists());
    if is_objects || is_installed || !config.data.join("h").is_dir() || !config.data.join("p").is_dir() {
        return Ok(());
    }
    Err(store_in_place(config))
}

/// The refusal of a data folder that is a store itself.
pub fn store_in_place(config: &Config) -> Error {
    let place = config.data.display();
    Error::Precondition(format!(
        "{place} is a store itself, or a copy of one, and no data folder. To bring an installation back from it: `cistern \
         store copy {place} NEW/store`, then `cistern recover --data NEW` and `cistern serve --data NEW`"
    ))
}

/// The database of an installation, for a local command: refuses where there is none, or an older one.
pub async fn existing_open(config: &Config) -> Result<Db> {
    if let Some(path) = config.sqlite()
        && !path.try_exists().map_err(|error| {
            Error::Precondition(format!(
                "cannot look into {}: {error}; run this as the user that the server runs as, or as root",
                config.data.display()
            ))
        })?
    {
        db::sqlite::link_refuse(&path)?;
        if store_is_there(config).await? {
            return Err(Error::Precondition(database_lost(config, &path)));
        }
        store_refuse(config)?;
        return Err(Error::Precondition(format!(
            "there is no Cistern at {}; this command works in the data folder itself, on the server's machine: name it with \
             --data (`cistern serve --data {0}` begins a new one)",
            config.data.display()
        )));
    }
    objects_check(&config.data, &objects_shown(config))?;
    // Migrating is for the server: it may be running, and be older than this command.
    let db = Db::open(&place(config), 1).await?;
    if !db::migrate::is_current(&db).await? {
        return Err(Error::Precondition(
            "this installation's database is empty, or older than this version of Cistern; start `cistern serve` once \
             with this version, which brings it up to date"
                .into(),
        ));
    }
    Ok(db)
}

/// What to do where the database is missing and the store is there.
pub fn database_lost(config: &Config, path: &Path) -> String {
    format!(
        "the database {} is missing, and the store that it belongs to is there, so that no server starts: put the newest database \
         back, or run `cistern recover --data {}`, which makes a new one from the store",
        path.display(),
        quoted(&config.data.display().to_string())
    )
}

/// The place of the objects, made where the database knows of no store that has to be there.
fn backend_of(config: &Config, is_made: bool) -> Result<Arc<dyn store::Backend>> {
    if is_made {
        return backend_open(config);
    }
    backend_make(config)
}

/// Where the rows are.
pub fn place(config: &Config) -> Place {
    match config.database() {
        config::Database::Sqlite(path) => Place::Sqlite(path),
        config::Database::Postgres(url) => Place::Postgres(url.expose().to_owned()),
    }
}

/// Every kind of job this server runs.
pub fn job_kinds() -> Registry {
    Registry::default()
        .with(images::jobs::import_kind())
        .with(images::checksum::kind())
        .with(crate::platform::storage::jobs::verify_kind())
        .with(crate::platform::storage::gc::jobs::gc_kind())
        .with(crate::platform::storage::scrub::jobs::scrub_kind())
}

/// Who knows whether a thing that is to be tagged or put into a project exists: one owner for each kind of thing.
pub fn resource_owners() -> Vec<Owner> {
    vec![images::service::resource_owner()]
}

/// What rooms do with their rows after these were brought back from the journal, in this order.
pub fn settles() -> Vec<journal::Settle> {
    vec![
        |app, tx| Box::pin(images::service::images_settle_in_tx(app, tx)),
        |app, tx| Box::pin(actions::service::actions_settle_in_tx(app, tx)),
        |_, tx| Box::pin(tags::service::tags_settle_in_tx(tx)),
    ]
}

/// A product's disks that are kept only so that what was deleted can be restored.
pub struct Purger {
    /// Whether there are any.
    pub is_any: for<'a> fn(&'a App) -> BoxFuture<'a, Result<bool>>,
    /// Which ones they are.
    pub list: for<'a> fn(&'a App) -> BoxFuture<'a, Result<Vec<GivenUp>>>,
    /// Gives them up; gives which they were.
    pub purge: for<'a> fn(&'a App) -> BoxFuture<'a, Result<Vec<GivenUp>>>,
}

/// What gives up restorable disks, one for each product that keeps any.
pub fn purgers() -> Vec<Purger> {
    vec![Purger {
        is_any: |app| Box::pin(images::service::deleted_is_any(app)),
        list: |app| Box::pin(images::service::deleted_list(app)),
        purge: |app| Box::pin(images::service::deleted_purge(app)),
    }]
}

/// Every migration of every room. They are applied in this order, and a released one keeps its name.
pub fn migrations() -> Vec<Box<dyn MigrationTrait>> {
    let mut list: Vec<Box<dyn MigrationTrait>> = vec![
        Box::new(db::migration::Platform),
        Box::new(ssh_keys::migration::SshKeys),
        Box::new(tags::migration::Tags),
        Box::new(projects::migration::Projects),
        Box::new(images::migration::Images),
        Box::new(images::uploads::migration::Uploads),
        Box::new(images::checksum::migration::Checksums),
        Box::new(jobs::migration::JobLines),
        Box::new(actions::migration::ActionCounts),
        Box::new(images::migration::DeletedListing),
        Box::new(journal::migration::Journal),
        Box::new(jobs::migration::JobKinds),
        Box::new(secrets::migration::SecretsKey),
        Box::new(journal::migration::JournalBefore),
    ];
    list.extend(store::migrations());
    list
}

/// What a start on an empty folder makes there before the store is opened.
fn fresh_look(config: &Config, data: &Path) -> Option<Fresh> {
    let path = config.sqlite()?;
    Fresh::look(&path, &[data.join(NODE), config.secrets_key_file()])
}

/// Whether nothing would be lost with a database that was made by a start that failed like this. Where a store was
/// begun in it, the header may be written, or be on its way still: then it is kept, and the next start goes on. A
/// refusal comes before anything is written.
async fn is_useless(config: &Config, db: &Db, error: &Error) -> bool {
    match db.has_store().await {
        Ok(false) => true,
        Ok(true) => {
            matches!(error, Error::Precondition(_)) && matches!(store_is_there(config).await, Ok(false))
        }
        Err(_) => false,
    }
}

/// SQLite loses data on network file systems.
fn refuse_unfit(database: &Path) -> Result<()> {
    match store::folder::filesystem_kind(database)?.database_refusal(database) {
        Some(sentence) => Err(Error::Precondition(sentence)),
        None => Ok(()),
    }
}

/// Makes the data folder, readable by its owner only, and returns its absolute path.
fn folder_create(path: &Path) -> Result<PathBuf> {
    let what = format!("could not make the data folder {}", path.display());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .context(&what)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).context(&what)?;
    path.canonicalize().context(&what)
}

/// The name this folder's server goes by, drawn at the first start.
fn node_name(data: &Path) -> Result<String> {
    let path = data.join(NODE);
    if let Ok(name) = fs::read_to_string(&path)
        && !name.trim().is_empty()
    {
        return Ok(name.trim().to_owned());
    }
    let name = random::uuid().to_string();
    let written = owner::file_open(&path).and_then(|mut file| file.write_all(name.as_bytes()));
    written.map_err(|error| {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Error::Precondition(format!(
                "the disk of {} is full; free or add space, then start again",
                data.display()
            ));
        }
        Error::internal(
            format!("could not write this server's name into {}", path.display()),
            error,
        )
    })?;
    Ok(name)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A service with its objects in `backend`, without workers.
    pub async fn app_on(config: Config, backend: Arc<dyn store::Backend>) -> Result<App> {
        let app = App::open_with(config, &|_| (), Unlock::default(), |_, _| Ok(backend)).await?;
        journal::open(&app).await?;
        Ok(app)
    }

    /// A service of its own in a temporary folder, without workers.
    pub async fn app() -> (App, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = Config::for_data(dir.path().join("data"));
        (App::open(config).await.expect("a new installation opens"), dir)
    }
}
