//! Disks that fill: nothing new is taken in before they are full, and what can be freed is freed.
//!
//! Shares are of at most 200 GiB: a larger disk is treated as one of that size, because a share of a very large one
//! would be much. What the very last of a disk is kept for is said in `store::room`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use store::room::Space;

use super::cache;
use super::gc::service::{gc_urgent, is_restorable};
use crate::app::App;
use crate::config::{Config, Objects};
use crate::platform::db::sqlite;
use crate::platform::error::{Error, Result};

/// The largest disk that shares are taken of.
const SHARED_BYTES: u64 = 200 << 30;
/// What has to be left of a disk beside its reserve for anything new to be taken in: on one below 5 GiB that is as
/// large as the share, and no pack could be written any more.
const PACK_BYTES: u64 = 16 << 20;
/// How often the disks are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After how many looks what nobody reads any more goes from memory: a minute.
const TIDY_EVERY: u64 = 6;

/// A disk that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// `data` (working files, and SQLite's file), `objects`, or `database` where SQLite's file is on a disk of its own.
    pub name: &'static str,
    /// Its room.
    pub space: Space,
}

impl Disk {
    /// Whether less than so many percent are free.
    pub fn is_below(&self, percent: u8) -> bool {
        self.space.free < self.share(percent)
    }

    fn share(&self, percent: u8) -> u64 {
        self.space.total.min(SHARED_BYTES) / 100 * u64::from(percent)
    }

    /// How much has to be free for anything new to be taken in, where that is at so many percent; 0 is never.
    pub fn refuses_below(&self, percent: u8) -> u64 {
        if percent == 0 || self.space.total == 0 {
            return 0;
        }
        self.share(percent).max(self.space.reserve() + PACK_BYTES)
    }

    /// Whether nothing new is taken in.
    pub fn is_low(&self, percent: u8) -> bool {
        self.space.free < self.refuses_below(percent)
    }

    /// What gives it room. A file of SQLite's does not shrink by what is deleted from it.
    pub fn way_out(&self) -> &'static str {
        match self.name {
            "database" => "add space to it, or move away what else is on it",
            _ => "delete images and run `cistern gc --now --purge`, or add space",
        }
    }
}

/// Whether two paths lie on one disk. What cannot be looked at lies on another.
pub fn is_one_disk(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    device(one).is_some_and(|of| device(other) == Some(of))
}

/// The folder of SQLite's file, where that is on another disk than the data folder: the settings name it there, or it
/// is a link that leads there.
pub fn database_apart(config: &Config, data: &Path) -> Option<PathBuf> {
    let folder = sqlite::real_folder(&config.sqlite()?);
    (!is_one_disk(&folder, data)).then_some(folder)
}

/// The disks of this installation that can be looked at: a bucket has no end that is known.
pub fn disks(app: &App) -> Vec<Disk> {
    let mut disks = file_disks(app);
    if let Some(folder) = database_apart(&app.config, &app.data)
        && let Ok(space) = Space::of(&folder)
    {
        disks.push(Disk {
            name: "database",
            space,
        });
    }
    disks
}

/// Those of working files and objects alone: the journal takes no room of the disk where SQLite's file is.
pub fn file_disks(app: &App) -> Vec<Disk> {
    let mut disks = Vec::new();
    if let Ok(space) = Space::of(&app.data) {
        disks.push(Disk { name: "data", space });
    }
    if let Objects::Folder(folder) = app.config.objects()
        && let Ok(space) = Space::of(&folder)
    {
        disks.push(Disk {
            name: "objects",
            space,
        });
    }
    disks
}

/// The disk that has too little left for anything new, if there is one.
pub fn low(app: &App) -> Option<Disk> {
    let percent = app.config.disk.refuse_below_percent;
    disks(app).into_iter().find(|disk| disk.is_low(percent))
}

/// Refuses what would need room where there is too little.
pub fn room_check(app: &App) -> Result<()> {
    let Some(disk) = low(app) else { return Ok(()) };
    Err(Error::Unavailable(format!(
        "Only {} MiB of the disk of the {} are free, and below {} MiB nothing is taken in: {}.",
        disk.space.free >> 20,
        disk.name,
        disk.refuses_below(app.config.disk.refuse_below_percent) >> 20,
        disk.way_out()
    )))
}

/// Looks at the disks until it is aborted, and frees what can be freed where little is left.
pub async fn watch(app: App) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let mut is_owed = true;
    for look in 0_u64.. {
        ticks.tick().await;
        cache::tell(&app);
        if look.is_multiple_of(TIDY_EVERY) {
            app.store.memory_tidy();
        }
        cache_yield(&app);
        is_owed = free(&app, is_urgent(&app), is_owed).await;
    }
}

/// Whether the disk of the objects is nearly full.
fn is_urgent(app: &App) -> bool {
    let percent = app.config.disk.purge_below_percent;
    disks(app)
        .iter()
        .any(|disk| disk.name == "objects" && disk.is_below(percent))
}

/// Frees what can be freed where it is urgent: once when it becomes so (`is_owed`, also where the run could not be
/// begun at once), and whenever something was deleted since. A run that could free nothing more would not do so at the
/// next look. Gives what is owed at the next look.
pub(super) async fn free(app: &App, is_urgent: bool, is_owed: bool) -> bool {
    // A database that refuses to be written takes no job either.
    if !is_urgent || app.db.refusal().is_some() {
        return true;
    }
    match gc_begin(app, is_owed).await {
        Ok(()) => false,
        Err(error) => {
            tracing::error!(error = error.chain(), "could not begin gc");
            is_owed
        }
    }
}

async fn gc_begin(app: &App, is_owed: bool) -> Result<()> {
    if !is_owed && !is_restorable(app).await? {
        return Ok(());
    }
    if gc_urgent(app).await? {
        tracing::warn!(
            "the disk of the objects is nearly full: deleted images are given up, and gc frees all it can"
        );
    }
    Ok(())
}

/// The cache of packs gives way before anything is refused for want of room.
fn cache_yield(app: &App) {
    let percent = app.config.disk.purge_below_percent;
    let is_low = |disk: &Disk| disk.name == "data" && disk.is_below(percent);
    if app.store.cache_stats().is_some_and(|cache| cache.bytes > 0) && disks(app).iter().any(is_low) {
        tracing::warn!("the disk of the data folder is nearly full: the cache of packs is emptied");
        app.store.cache_clear();
    }
}

/// Tells the metrics how full the disks are; to be called every second or so.
pub fn tell(app: &App) {
    let percent = app.config.disk.refuse_below_percent;
    for disk in disks(app) {
        let gauge = |name, value: u64| {
            #[expect(clippy::cast_precision_loss, reason = "a gauge needs no single bytes")]
            metrics::gauge!(name, "disk" => disk.name).set(value as f64);
        };
        gauge("cistern_disk_free_bytes", disk.space.free);
        gauge("cistern_disk_total_bytes", disk.space.total);
        gauge("cistern_disk_low", u64::from(disk.is_low(percent)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_share_is_of_two_hundred_gigabytes_at_most() {
        let disk = |free: u64, total: u64| Disk {
            name: "objects",
            space: Space {
                free: free << 30,
                total: total << 30,
            },
        };
        assert!(disk(4, 100).is_below(5) && !disk(6, 100).is_below(5));
        assert!(disk(9, 10_000).is_below(5) && !disk(11, 10_000).is_below(5));
        assert!(!disk(0, 100).is_below(0), "0 is never");
        assert!(!disk(0, 0).is_below(50), "a file system that does not say");
        assert_eq!(disk(0, 100).refuses_below(5), 5 << 30);
        assert!(!disk(0, 100).is_low(0) && !disk(0, 0).is_low(50));
    }

    /// procfs is another disk on every machine.
    #[test]
    fn a_database_is_apart_where_it_really_is_on_another_disk() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let own = dir.path().join("cistern.sqlite");
        let apart = |database: Option<&str>| {
            let config = Config {
                database: database.map(Secret::new),
                ..Config::for_data(dir.path())
            };
            database_apart(&config, dir.path())
        };
        assert_eq!(apart(None), None, "before the first start");
        std::fs::write(&own, "").expect("writes");
        assert_eq!(apart(None), None);
        assert_eq!(apart(Some("postgres://db/rows")), None, "which has its own");
        let proc = Some(PathBuf::from("/proc"));
        assert_eq!(apart(Some("sqlite:/proc/version")), proc);
        std::fs::remove_file(&own).expect("is there");
        std::os::unix::fs::symlink("/proc/version", &own).expect("links");
        assert_eq!(apart(None), proc);
    }

    /// On a small disk writing stops at the share itself: it has to be refused before.
    #[test]
    fn nothing_is_taken_in_where_no_pack_could_be_written() {
        let disk = |free: u64| Disk {
            name: "objects",
            space: Space {
                free: free << 20,
                total: 300 << 20,
            },
        };
        assert!(disk(30).is_low(5) && !disk(30).is_below(5));
        assert!(!disk(32).is_low(5));
        assert_eq!(disk(0).refuses_below(20), 60 << 20);
    }
}
