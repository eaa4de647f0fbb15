//! Open files that `cistern image import` on this machine handed to this process, until their import takes them.
//!
//! They live in memory alone: an import that is cut off by the end of this process cannot get at its file again, and
//! says so.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use crate::platform::random;

/// The files; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Handed {
    files: Arc<Mutex<HashMap<Uuid, File>>>,
}

impl Handed {
    /// Keeps a file and gives it a name for [`super::model::ImportSource::Local`].
    pub fn put(&self, file: File) -> Uuid {
        let id = random::uuid();
        self.lock().insert(id, file);
        id
    }

    /// The file, for one attempt. It shares its position with every other clone.
    pub fn get(&self, id: Uuid) -> io::Result<Option<File>> {
        self.lock().get(&id).map(File::try_clone).transpose()
    }

    /// Closes the file; none being there is fine.
    pub fn remove(&self, id: Uuid) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, File>> {
        self.files.lock().expect("never held over a panic")
    }
}
