//! Whose it is what root's commands make in a data folder of another user, and who may read it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use crate::harness::files::Files;
use crate::harness::images::imported;
use crate::harness::process::{cistern, reason, run, run_ok};
use crate::harness::server::Setup;
use crate::harness::small::SmallDisk;
use crate::harness::world::{self, Place};
use crate::harness::{disks, process};

/// A user and a group that nothing of this machine belongs to.
const OWNER: (u32, u32) = (54_321, 54_322);

/// A data folder that is a service user's, before anything is in it.
struct Own {
    setup: Setup,
    data: PathBuf,
    _dir: tempfile::TempDir,
}

impl Own {
    /// None, with the reason printed, where nothing can be made for another user, or lies elsewhere.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            process::skip("only root makes files for another user");
            return None;
        }
        if world::name() != "sqlite+folder" {
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let data = dir.path().join("own");
        std::fs::create_dir(&data).expect("makes it");
        chown(&data, Some(OWNER.0), Some(OWNER.1)).expect("root may");
        Some(Self {
            setup: Setup::default(),
            data,
            _dir: dir,
        })
    }

    fn made() -> Option<Self> {
        let own = Self::new()?;
        own.does(&["init"]);
        Some(own)
    }

    fn does(&self, words: &[&str]) {
        run_ok(&mut self.setup.command(&self.data, words));
    }

    fn runs(&self, words: &[&str]) {
        self.does(words);
        self.check(&words.join(" "));
    }

    /// Everything there is the owner's, and nobody else's to read.
    fn check(&self, after: &str) {
        for path in all_below(&self.data) {
            let found = std::fs::symlink_metadata(&path).expect("is there");
            let shown = path.display();
            assert_eq!((found.uid(), found.gid()), OWNER, "{shown} after `{after}`");
            let mode = found.permissions().mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{shown} has {mode:o} after `{after}`");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }
}

/// Files and folders.
fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("lists") {
        let path = entry.expect("lists").path();
        if path.is_dir() {
            found.extend(all_below(&path));
        }
        found.push(path);
    }
    found
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("is there").permissions().mode() & 0o777
}

#[test]
fn what_root_makes_in_a_data_folder_is_its_owners() {
    let Some(own) = Own::new() else { return };
    own.runs(&["init"]);
    for gone in ["cistern.lock", "node", "secrets.key"] {
        let _ = std::fs::remove_file(own.path(gone));
    }
    own.runs(&["store", "rebuild-index"]);
    own.runs(&["recover"]);
    let database = own.path("cistern.sqlite");
    std::fs::remove_file(&database).expect("is there");
    let _ = std::fs::remove_file(own.path("cistern.lock"));
    own.runs(&["recover"]);
    own.runs(&["gc"]);
    // What an older version left there is root's: the new one is not.
    chown(&database, Some(0), Some(0)).expect("root may");
    own.does(&["recover"]);
    let new = std::fs::metadata(&database).expect("is there");
    assert_eq!((new.uid(), new.gid()), OWNER);
}

#[test]
fn a_key_file_that_root_makes_in_a_data_folder_is_its_owners() {
    let Some(own) = Own::new() else { return };
    let [first, second] = ["store.key", "new.key"].map(|name| own.path(name).display().to_string());
    own.runs(&["init", "--encrypt", "--key-file", &first]);
    own.runs(&["key", "add", "--unlock-key-file", &first, "--key-file", &second]);
    own.runs(&["recover", "--key-file", &second]);
    // Elsewhere it is the caller's.
    let folder = own.data.with_file_name("elsewhere");
    std::fs::create_dir(&folder).expect("makes it");
    chown(&folder, Some(OWNER.0), Some(OWNER.1)).expect("root may");
    let third = folder.join("third.key").display().to_string();
    own.runs(&["key", "add", "--unlock-key-file", &first, "--key-file", &third]);
    assert_eq!(std::fs::metadata(&third).expect("is there").uid(), 0);
}

#[test]
fn a_recovered_database_is_as_closed_as_the_one_before() {
    let Some(own) = Own::made() else { return };
    let database = own.path("cistern.sqlite");
    assert_eq!(mode(&database), 0o600);
    std::fs::set_permissions(&database, PermissionsExt::from_mode(0o640)).expect("may");
    own.does(&["recover"]);
    assert_eq!(mode(&database), 0o640);
    // Beside one that a user has in a folder of root's.
    let other = own.data.with_file_name("db.sqlite");
    let place = format!("sqlite:{}", other.display());
    let recover = ["recover", "--replace-database", "--database", &place];
    own.does(&recover);
    assert_eq!(mode(&other), 0o600);
    assert_eq!(std::fs::metadata(&other).expect("is there").uid(), 0);
    chown(&other, Some(OWNER.0), Some(OWNER.1)).expect("root may");
    own.does(&recover);
    let found = std::fs::metadata(&other).expect("is there");
    assert_eq!(
        (found.uid(), found.gid(), mode(&other)),
        (OWNER.0, OWNER.1, 0o600)
    );
}

#[test]
fn root_makes_nothing_where_a_link_leads() {
    let Some(own) = Own::new() else { return };
    let outside = own.data.with_file_name("outside");
    std::fs::create_dir(&outside).expect("makes it");
    for name in ["node", "cistern.sqlite", "cistern.lock", "secrets.key"] {
        let target = outside.join(name);
        let _ = std::fs::remove_file(own.path(name));
        symlink(&target, own.path(name)).expect("links");
        let output = run(&mut own.setup.command(&own.data, &["init"]));
        assert_eq!(output.status.code(), Some(1), "{name}");
        let said = reason(&output);
        assert!(said.contains(name), "{name}: {said}");
        let _ = std::fs::remove_file(own.path(name));
    }
    assert_eq!(all_below(&outside), [""; 0].map(PathBuf::from));
    own.runs(&["init"]);
}

#[test]
fn a_store_that_is_copied_from_gets_no_folder() {
    let Some(own) = Own::made() else { return };
    let store = own.path("store");
    std::fs::remove_dir(store.join("tmp")).expect("is there, and empty");
    let copy = own.data.with_file_name("copy");
    run_ok(cistern().args(["store", "copy"]).arg(&store).arg(&copy));
    assert!(!store.join("tmp").exists());
    std::fs::remove_dir(copy.join("tmp")).expect("is there, and empty");
    run_ok(own.setup.command(&own.data, &["store", "heal"]).arg(&copy));
    assert!(!copy.join("tmp").exists());
}

/// What did not fit must not take the room that the next try needs.
#[tokio::test]
async fn a_copy_that_fails_on_a_full_disk_leaves_nothing_unfinished() {
    let Some(small) = SmallDisk::tmpfs(7) else { return };
    let server = Setup::default().at(Place::default()).start();
    let (api, files) = (server.api(), Files::start().await);
    for seed in 0..6 {
        let name = format!("{seed}");
        imported(&api, &name, &files.put(&name, disks::raw(8, 70 + seed))).await;
    }
    let store = server.objects();
    let words = small.enter();
    for n in 0..6 {
        let name = format!("copy-{n}");
        let mut copy = process::command(&words[0]);
        copy.args(&words[1..])
            .arg(env!("CARGO_BIN_EXE_cistern"))
            .args(["store", "copy"])
            .args([&store, &small.inside().join(&name)])
            .env_clear();
        let output = run(&mut copy);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(reason(&output).contains("space"), "{output:?}");
        let copied = small.root().join(&name);
        let left = all_below(&copied.join("tmp"));
        assert!(left.is_empty(), "{n}: {left:?}");
        std::fs::remove_dir_all(&copied).expect("is there");
    }
}
