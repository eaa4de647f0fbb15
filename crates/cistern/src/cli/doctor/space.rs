//! Room on the disks of data folder, objects and SQLite's file, judged as a server judges it (`disk.*`).

use std::path::{Path, PathBuf};

use store::room::Space;

use super::{Check, failed, nearest, ok, warning};
use crate::cli::output::bytes as shown;
use crate::config::{Config, Objects};
use crate::platform::db::sqlite;
use crate::platform::storage::space::{Disk, is_one_disk};

/// One line a disk.
pub(super) fn checks(config: &Config) -> Vec<Check> {
    let data = nearest(&config.data);
    let objects = match config.objects() {
        Objects::Folder(folder) => Some(nearest(&folder)),
        Objects::S3(_) => None,
    };
    let is_apart = |place: &PathBuf| !is_one_disk(&data, place);
    let holds_objects = objects.as_ref().is_some_and(|place| !is_apart(place));
    let objects = objects.filter(is_apart);
    let is_told = |place: &Path| objects.as_deref().is_some_and(|told| is_one_disk(told, place));
    let database = config.sqlite().map(|file| nearest(&sqlite::real_folder(&file)));
    let database = database.filter(|place| is_apart(place) && !is_told(place));
    let name = if holds_objects { "objects" } else { "data" };
    let mut checks = vec![check(config, "space", name, &data)];
    checks.extend(objects.map(|place| check(config, "space objects", "objects", &place)));
    checks.extend(database.map(|place| check(config, "space database", "database", &place)));
    checks
}

fn check(config: &Config, name: &'static str, disk: &'static str, place: &Path) -> Check {
    match Space::of(place) {
        Ok(space) => judged(config, name, Disk { name: disk, space }, place),
        Err(_) => warning(name, format!("{} cannot be looked at", place.display())),
    }
}

fn judged(config: &Config, name: &'static str, disk: Disk, place: &Path) -> Check {
    let text = format!("{} free at {}", shown(disk.space.free), place.display());
    let (refuse, purge) = (config.disk.refuse_below_percent, config.disk.purge_below_percent);
    if disk.is_low(refuse) {
        return failed(
            name,
            format!(
                "{text}: below {} (`disk.refuse_below_percent`) no image is taken in; {}",
                shown(disk.refuses_below(refuse)),
                disk.way_out()
            ),
        );
    }
    if disk.space.usable() == 0 {
        return failed(name, format!("{text}: the disk is full; free or add space"));
    }
    if !disk.is_below(purge) {
        return ok(name, text);
    }
    let happens = match disk.name {
        "objects" => "deleted images are given up before their day is over".to_owned(),
        "database" => format!(
            "there is nothing on it to give up, and below {} no image is taken in",
            shown(disk.refuses_below(refuse))
        ),
        _ => "the cache of packs is emptied".to_owned(),
    };
    warning(
        name,
        format!("{text}: below {purge} percent (`disk.purge_below_percent`) {happens}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::State;

    #[test]
    fn a_disk_is_judged_by_its_share_as_a_server_does() {
        let config = Config::for_data("/d");
        let state = |disk, free: u64, total: u64| {
            let space = Space {
                free: free << 20,
                total: total << 20,
            };
            judged(&config, "space", Disk { name: disk, space }, Path::new("/d"))
        };
        assert_eq!(state("data", 63, 64).state, State::Ok, "small, and empty");
        assert_eq!(state("data", 5 << 10, 100 << 10).state, State::Warning);
        for (disk, part, helps) in [
            ("data", "cache of packs", "gc --now"),
            ("objects", "deleted images", "gc --now"),
            ("database", "no image is taken in", "move away what else"),
        ] {
            let low = state(disk, 6 << 10, 100 << 10);
            assert_eq!(low.state, State::Warning);
            assert!(low.text.contains(part), "{}", low.text);
            let full = state(disk, 4 << 10, 100 << 10);
            assert_eq!(full.state, State::Failed);
            assert!(full.text.contains("refuse_below_percent"), "{}", full.text);
            assert!(full.text.contains(helps), "{}", full.text);
        }
        let config = Config {
            disk: crate::config::Disk {
                refuse_below_percent: 0,
                purge_below_percent: 0,
            },
            ..Config::for_data("/d")
        };
        let space = Space {
            free: 0,
            total: 100 << 30,
        };
        let disk = Disk { name: "data", space };
        assert_eq!(
            judged(&config, "space", disk, Path::new("/d")).state,
            State::Failed
        );
    }

    /// procfs is another disk on every machine.
    #[test]
    fn a_disk_has_one_line_also_that_of_a_linked_database() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let names = |config: &Config| -> Vec<&str> {
            let checks = checks(config);
            checks.iter().map(|check| check.name).collect()
        };
        let mut config = Config::for_data(dir.path());
        assert_eq!(names(&config), ["space"]);
        std::os::unix::fs::symlink("/proc/version", dir.path().join("cistern.sqlite")).expect("links");
        assert_eq!(names(&config), ["space", "space database"]);
        config.objects = Some("s3://bucket".to_owned());
        assert_eq!(names(&config), ["space", "space database"]);
        config.objects = Some("/proc/fs".to_owned());
        assert_eq!(names(&config), ["space", "space objects"]);
    }
}
