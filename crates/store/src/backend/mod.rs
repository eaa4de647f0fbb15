//! Where objects are kept. A backend knows keys and bytes and nothing of what they mean.
//!
//! What the store relies on, and what `Store::probe_backend` tests: an object is visible whole or not at all; when
//! `put_new` has answered, it survives power loss and every later `get`, `stat` and `list` sees it.
//! Exclusive creation is used where the backend has it, but nothing depends on it: no key is used twice.

pub(crate) mod faulty;
pub mod folder;
pub(crate) mod probe;
mod remote;
mod requests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::error::{Error, Kind, Result};

pub use faulty::{Fault, Faulty};
pub use folder::Folder;
pub use probe::Probe;
pub(crate) use probe::probe;
pub use remote::Remote;
pub use requests::Requests;

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The object's whole key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written, as the backend says, in microseconds since 1970 (UTC); 0 where it does not say.
    pub modified_us: i64,
}

/// An object being written.
#[async_trait]
pub trait Put: Send {
    /// Adds bytes at the end.
    async fn write(&mut self, data: Bytes) -> Result<()>;

    /// Makes it durable and visible, as [`Backend::put_new`] does.
    async fn finish(self: Box<Self>) -> Result<()>;

    /// Gives it up.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// A place for objects: a folder, or a bucket.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// Stores a new object durably. Fails with [`Kind::Exists`] and changes nothing where the backend can
    /// tell that the key is taken.
    async fn put_new(&self, key: &str, data: Bytes) -> Result<()>;

    /// Begins an object whose size is not known yet. It is not there until [`Put::finish`] has answered, and whatever
    /// was written is gone when that is never called.
    async fn put_begin(&self, key: &str) -> Result<Box<dyn Put>>;

    /// Begins an object that takes the place of one that is damaged: until [`Put::finish`] has answered that one stays
    /// as it is, and whoever reads meanwhile sees either of the two whole. Where that fails, either may be there.
    async fn put_replace(&self, key: &str) -> Result<Box<dyn Put>>;

    /// The whole object; [`Kind::NotFound`] when there is none.
    async fn get(&self, key: &str) -> Result<Bytes>;

    /// Exactly these bytes of an object; [`Kind::Damaged`] when it is shorter.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes>;

    /// Size of the object, or `None` when there is none.
    async fn stat(&self, key: &str) -> Result<Option<u64>>;

    /// Every object whose key begins with `prefix` (which ends in `/` or is empty), in no order.
    /// An error in the middle means that the listing is not whole.
    fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed>>;

    /// Those of [`Backend::list`] whose keys are greater than `after`, which begins with `prefix`: for one request
    /// where there are many before and none behind.
    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'_, Result<Listed>> {
        let after = after.to_owned();
        let later = self.list(prefix);
        let later = later.try_filter(move |item| std::future::ready(item.key > after));
        later.boxed()
    }

    /// Removes an object. That it was not there is no error.
    async fn delete(&self, key: &str) -> Result<()>;

    /// Removes what writers that crashed have left and no listing shows, once it is so old that no living writer has
    /// it. Gives how many bytes that were.
    async fn leftovers_clear(&self) -> Result<u64> {
        Ok(0)
    }

    /// Names the place for people. Never holds a credential.
    fn describe(&self) -> String;

    /// The folder whose files the objects are, where they are files: they may be read without asking the backend.
    fn folder(&self) -> Option<&Path> {
        None
    }

    /// What was asked of a service since it was opened; `None` where there is none that counts, or bills.
    fn requests(&self) -> Option<Requests> {
        None
    }
}

/// Credentials and details that do not belong into a URL: `access_key_id`, `secret_access_key`,
/// `session_token`, `region`, `endpoint`, `credential` (gcs), `account_name`, `account_key` (azblob),
/// `application_key_id`, `application_key`, `bucket_id` (b2). They win over the URL's query.
pub type Settings = BTreeMap<String, String>;

/// Opens a backend: a folder's path (made if absent, and then the caller's), or the URL of a bucket.
pub fn backend_open(url_or_path: &str, settings: &Settings) -> Result<Arc<dyn Backend>> {
    open_with(url_or_path, settings, Folder::open)
}

/// The same for an installation's store: a folder that root makes belongs to the owner of the one that it lies in.
pub fn backend_open_within(url_or_path: &str, settings: &Settings) -> Result<Arc<dyn Backend>> {
    open_with(url_or_path, settings, Folder::open_within)
}

/// The same for a store that is only read: nothing is made there.
pub fn backend_open_to_read(url_or_path: &str, settings: &Settings) -> Result<Arc<dyn Backend>> {
    open_with(url_or_path, settings, Folder::open_to_read)
}

/// The same for a store that has to be there: where none is, nothing is made.
pub fn backend_open_existing(url_or_path: &str, settings: &Settings) -> Result<Arc<dyn Backend>> {
    open_with(url_or_path, settings, Folder::open_existing)
}

fn open_with(
    url_or_path: &str,
    settings: &Settings,
    folder: fn(&Path) -> Result<Folder>,
) -> Result<Arc<dyn Backend>> {
    if url_or_path.contains("://") && !url_or_path.starts_with("file://") {
        return Ok(Arc::new(Remote::open(url_or_path, settings)?));
    }
    let path = url_or_path.strip_prefix("file://").unwrap_or(url_or_path);
    Ok(Arc::new(folder(Path::new(path))?))
}

/// A key is made of the characters that every backend keeps as they are.
pub(crate) fn key_check(key: &str) -> Result<()> {
    let fine = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if key.split('/').all(fine) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        format!("`{key}` cannot be an object key"),
    ))
}
