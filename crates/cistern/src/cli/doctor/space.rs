//! Room on the disks of data folder and objects, judged as a server judges it (`disk.*`).

use std::path::Path;

use store::room::Space;

use super::{Check, failed, nearest, ok, warning};
use crate::cli::output::bytes as shown;
use crate::config::{Config, Objects};
use crate::platform::storage::space::{Disk, is_one_disk};

/// One line a disk.
pub(super) fn checks(config: &Config) -> Vec<Check> {
    let data = nearest(&config.data);
    let Objects::Folder(objects) = config.objects() else {
        return vec![check(config, "space", "data", &data)];
    };
    let objects = nearest(&objects);
    if is_one_disk(&data, &objects) {
        return vec![check(config, "space", "objects", &data)];
    }
    vec![
        check(config, "space", "data", &data),
        check(config, "space objects", "objects", &objects),
    ]
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
                "{text}: below {} (`disk.refuse_below_percent`) no image is taken in; delete images and run `cistern gc --now \
                 --purge`, or add space",
                shown(disk.refuses_below(refuse))
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
        "objects" => "deleted images are given up before their day is over",
        _ => "the cache of packs is emptied",
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
        for (disk, part) in [("data", "cache of packs"), ("objects", "deleted images")] {
            let low = state(disk, 6 << 10, 100 << 10);
            assert_eq!(low.state, State::Warning);
            assert!(low.text.contains(part), "{}", low.text);
            let full = state(disk, 4 << 10, 100 << 10);
            assert_eq!(full.state, State::Failed);
            assert!(full.text.contains("refuse_below_percent"), "{}", full.text);
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
}
