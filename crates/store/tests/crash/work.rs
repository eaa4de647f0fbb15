//! What the traced process does: imports, incremental ones, whole objects, deletions, garbage collections, a restart.
//! What it is about to do, and what it has acknowledged, it says, a line a call.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use store::Result;

use crate::place::{Clock, OBJECTS, Place, START_US};

/// A file, of which each line is one call of `write`.
#[derive(Clone)]
pub(crate) struct Voice(Arc<Mutex<File>>);

impl Voice {
    pub(crate) fn to(path: &Path) -> Self {
        let file = File::options().append(true).create(true).open(path);
        Self(Arc::new(Mutex::new(file.expect("can be made"))))
    }

    pub(crate) fn say(&self, words: &str) {
        let line = format!("{words}\n");
        let mut file = self.0.lock().expect("nobody panics");
        file.write_all(line.as_bytes()).expect("is written");
    }
}

struct Work {
    place: Place,
    voice: Voice,
}

impl Work {
    async fn open(folder: &Path, voice: &Voice, clock: Clock) -> Result<Self> {
        Ok(Self {
            place: Place::open(folder, 6, clock).await?,
            voice: voice.clone(),
        })
    }

    async fn disk(&self, name: &str, spec: &str, parent: Option<(&str, &str)>) -> Result<()> {
        self.voice.say(&format!("begin disk {name} {spec}"));
        self.place.disk_import(name, spec, parent).await?;
        self.voice.say(&format!("done disk {name} {spec}"));
        Ok(())
    }

    async fn object(&self, name: &str, spec: &str) -> Result<()> {
        self.voice.say(&format!("begin object {name} {spec}"));
        self.place.object_put(name, spec).await?;
        self.voice.say(&format!("done object {name} {spec}"));
        Ok(())
    }

    async fn delete(&self, what: &str, name: &str) -> Result<()> {
        let kind = if what == "disk" { "image" } else { "blob" };
        self.voice.say(&format!("begin delete-{what} {name} -"));
        self.place.delete(kind, name).await?;
        self.voice.say(&format!("done delete-{what} {name} -"));
        Ok(())
    }
}

/// A folder that a killed server has made and not synced: the next one finds it there.
fn folder_left(folder: &Path) {
    for name in ["p", "p/00"] {
        std::fs::create_dir(folder.join(OBJECTS).join(name)).expect("is not there yet");
    }
}

/// Chunks `from..=to` in steps of two: all odd or all even.
fn chunks(from: u64, to: u64) -> String {
    let tokens: Vec<_> = (from..=to).step_by(2).map(|n| n.to_string()).collect();
    tokens.join(",")
}

/// The whole of it.
pub(crate) async fn work(folder: &Path, voice: &Voice) -> Result<()> {
    let clock = Clock::at(START_US);
    let work = Work::open(folder, voice, clock.clone()).await?;
    voice.say("done open - -");
    folder_left(folder);
    let base = format!("{},0,{}", chunks(2, 24), chunks(101, 103));
    let (one, two, late) = (chunks(2, 12), chunks(30, 60), chunks(200, 216));
    tokio::try_join!(
        work.disk("base", &base, None),
        work.disk("one", &one, None),
        work.disk("two", &two, None),
        work.object("small", "70000:3"),
        work.object("tiny", "10:4"),
    )?;
    let child = base.replacen("2,4,", "70,72,", 1);
    tokio::try_join!(
        work.disk("child", &child, Some(("base", &base))),
        work.delete("disk", "one"),
        work.object("large", "8400000:5"),
    )?;
    // What it shares with `two` is all that is left of its pack.
    work.disk("rest", &chunks(30, 34), None).await?;
    work.delete("disk", "two").await?;
    tokio::try_join!(work.delete("object", "small"), work.delete("object", "large"))?;
    work.place.gc().await?;
    work.disk("again", &two, None).await?;
    work.delete("disk", "base").await?;
    work.place.gc().await?;
    // A restart: the log is folded into the file and removed, and begun anew.
    work.place.close().await?;
    let work = Work::open(folder, voice, clock).await?;
    let session = work.place.store.session_open("given up").await?;
    let mut ingest = session.ingest(1 << 20, None).await?;
    ingest.extent_data(crate::content::disk("81,83")).await?;
    drop(ingest);
    session.abort().await?;
    tokio::try_join!(
        work.disk("late", &late, None),
        work.object("late", "100000:6"),
        work.delete("object", "tiny"),
    )?;
    work.delete("disk", "again").await?;
    work.place.gc().await?;
    work.disk("last", "300,0,302", Some(("rest", &chunks(30, 34))))
        .await
    // It ends as one that is killed.
}
