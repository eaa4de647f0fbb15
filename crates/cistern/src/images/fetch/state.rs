//! What is known of a half-finished download.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue, IF_RANGE, RANGE};
use serde::{Deserialize, Serialize};
use store::owner;

use super::response::Body;
use super::{FetchError, blocking};
use crate::images::workfile::{SpoolKey, WorkFile};

async fn length_of(path: &Path, key: Option<&SpoolKey>) -> std::io::Result<u64> {
    let (path, key) = (path.to_owned(), key.cloned());
    blocking(move || WorkFile::open(File::open(path)?, key.as_ref())?.length()).await
}

/// What stands beside the working file, and how much of the file there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The machine's boot in which the file was written.
    boot: String,
    /// Names exactly these bytes on the server: a strong `ETag` or `Last-Modified`.
    pub(super) validator: Option<String>,
    /// Bytes in all, where the server said so.
    pub(super) total: Option<u64>,
    /// The file's length, once it is complete.
    pub(super) complete: Option<u64>,
    /// Bytes in the file; taken from it.
    #[serde(skip)]
    pub(super) length: u64,
}

impl State {
    /// What an earlier download left, where it can be used.
    pub(super) async fn load(path: &Path, key: Option<&SpoolKey>) -> Self {
        let fresh = Self {
            boot: boot().await,
            ..Self::default()
        };
        let (Ok(text), Ok(file)) = (tokio::fs::read(beside(path)).await, length_of(path, key).await) else {
            return fresh;
        };
        let Ok(state) = serde_json::from_slice::<Self>(&text) else {
            return fresh;
        };
        let is_whole = state.complete.is_none_or(|length| length == file);
        if state.boot != fresh.boot || fresh.boot.is_empty() || !is_whole {
            return fresh;
        }
        Self {
            length: file,
            ..state
        }
    }

    /// Writes what is needed to go on after a crash.
    pub(super) async fn save(&self, path: &Path) -> Result<(), FetchError> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let (new, known) = (beside(path).with_extension("new"), beside(path));
        let write = move || {
            let mut file = owner::file_open(&new)?;
            file.set_len(0)?;
            file.write_all(&text)?;
            std::fs::rename(&new, known)
        };
        let written = blocking(write).await;
        written.map_err(|error| super::local(&error))
    }

    /// Forgets the file's contents.
    pub(super) fn reset(&mut self) {
        *self = Self {
            boot: std::mem::take(&mut self.boot),
            ..Self::default()
        };
    }

    /// Whether a request can ask for the rest only.
    pub(super) fn is_resumable(&self) -> bool {
        self.length > 0 && self.validator.is_some()
    }

    /// A new file comes in.
    pub(super) fn begin(&mut self, body: &Body) {
        self.length = 0;
        self.validator.clone_from(&body.validator);
        self.total = body.total;
        self.complete = None;
    }

    pub(super) fn request_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        // A compressed image must come as it is, not wrapped once more.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let range = HeaderValue::from_str(&format!("bytes={}-", self.length));
        let validator = self.validator.as_deref().map(HeaderValue::from_str);
        if let (true, Ok(range), Some(Ok(validator))) = (self.is_resumable(), range, validator) {
            headers.insert(RANGE, range);
            headers.insert(IF_RANGE, validator);
        }
        headers
    }
}

/// The file beside the working file.
pub(super) fn beside(path: &Path) -> PathBuf {
    path.with_extension("meta")
}

/// The kernel's name for this boot, new at each; empty where it cannot be read.
async fn boot() -> String {
    let text = tokio::fs::read_to_string("/proc/sys/kernel/random/boot_id").await;
    text.map(|t| t.trim().to_owned()).unwrap_or_default()
}
