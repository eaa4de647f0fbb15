//! What earlier versions wrote (tests/fixtures, made by scripts/fixture.sh): with the database that belongs to it, and
//! from the objects alone, this version opens, reads, verifies, writes to and collects it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::api::Api;
use crate::harness::files::Files;
use crate::harness::images::{downloaded, imported};
use crate::harness::process::{command, document, find, run_ok};
use crate::harness::server::{Server, Setup};
use crate::harness::world::{self, Place};
use crate::harness::{disks, files_below};
use crate::migrate::{database, execute};

/// A store as it was committed.
struct Fixture {
    folder: PathBuf,
    content: Value,
}

impl Fixture {
    fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let entries = std::fs::read_dir(folder).expect("the fixtures are there");
        let mut folders: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
        folders.retain(|folder| folder.is_dir());
        folders.sort();
        let open = |folder: PathBuf| {
            let content = std::fs::read(folder.join("content.json")).expect("it says what it holds");
            Self {
                content: serde_json::from_slice(&content).expect("JSON"),
                folder,
            }
        };
        folders.into_iter().map(open).collect()
    }

    /// Those whose database can be loaded in this run's world.
    fn of_this_world() -> Vec<Self> {
        let is_postgres = world::name().starts_with("postgres");
        let mut all = Self::all();
        all.retain(|one| one.name().ends_with("-postgres") == is_postgres);
        assert!(!all.is_empty());
        all
    }

    fn name(&self) -> &str {
        self.folder
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name")
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Copies a file with a key, if there is one; only its owner may read such files, and git keeps no modes.
    fn key_copy(&self, name: &str, to: &Path) -> Option<String> {
        use std::os::unix::fs::PermissionsExt as _;
        let from = self.folder.join(name);
        let to = to.join(name);
        from.exists().then(|| {
            std::fs::copy(&from, &to).expect("copies");
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).expect("its mode changes");
            to.display().to_string()
        })
    }

    /// An installation that has its objects, the key to its secrets and the key to its store; no database.
    fn installed(&self) -> (Server, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut setup = Setup::default()
            // How full this machine's disk is decides about nothing here.
            .env("CISTERN_DISK__PURGE_BELOW_PERCENT", "0");
        if let Some(key) = self.key_copy("store.key", dir.path()) {
            setup = setup.env("CISTERN_KEY_FILE", &key);
        }
        let place: Place = world::place();
        let server = setup.at(place.clone()).stopped();
        std::fs::create_dir_all(server.data()).expect("makes the data folder");
        self.key_copy("secrets.key", &server.data()).expect("it is there");
        let folder = server.data().join("store").display().to_string();
        let to = place.objects.unwrap_or(folder);
        document(&mut server.local(&["store", "copy", &self.path("objects"), &to]));
        (server, dir)
    }

    /// Brings the database back as it was.
    async fn database_load(&self, server: &Server) {
        if world::name().starts_with("postgres") {
            let psql = find("psql")
                .expect("psql comes with PostgreSQL")
                .display()
                .to_string();
            let words = [
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-f",
                &self.path("database.sql"),
                &server.database_url(),
            ];
            run_ok(command(&psql).args(words));
            return;
        }
        let made = std::fs::File::create(server.data().join("cistern.sqlite"));
        drop(made.expect("makes the file"));
        let db = database(server).await;
        let dump = std::fs::read_to_string(self.path("database.sql")).expect("readable");
        execute(&db, &dump).await;
        db.close().await.expect("closes");
    }

    fn api(&self, server: &Server) -> Api {
        let token = format!("dop_v1_{}", self.content["token_hex"].as_str().expect("a token"));
        Api::new(&server.api_url, &token)
    }

    fn images(&self) -> impl Iterator<Item = (i64, &str, bool)> {
        let list = self.content["images"].as_array().expect("a list");
        list.iter().map(|image| {
            let sha256 = image["sha256"].as_str().expect("a digest");
            (
                image["id"].as_i64().expect("a number"),
                sha256,
                image["deleted"] == true,
            )
        })
    }
}

async fn sha256(api: &Api, id: i64) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(downloaded(api, id, "raw").await))
}

/// The whole objects of a store, with their bytes.
fn blobs(server: &Server) -> Vec<(PathBuf, Vec<u8>)> {
    let files = files_below(&server.objects().join("b"));
    files
        .into_iter()
        .map(|file| (file.clone(), std::fs::read(file).expect("readable")))
        .collect()
}

/// What was in it is in it, and everything that can be done with a store can be done with it.
async fn assert_lives(fixture: &Fixture, server: &Server) {
    let (api, files) = (fixture.api(server), Files::start().await);
    let blob = blobs(server);
    assert_eq!(blob.len(), 1, "{blob:?}");
    // Those in clear were made with one.
    assert_eq!(files_below(&server.objects().join("h")).len(), 2, "headers");
    for (id, expected, is_deleted) in fixture.images() {
        if !is_deleted {
            assert_eq!(sha256(&api, id).await, expected, "image {id}");
        }
    }
    api.get("/v2/tags/kept").await.expect(200);
    run_ok(&mut server.local(&["store", "verify", "--read-data"]));

    // Nothing of what it holds is stored again.
    let (first, _, _) = fixture.images().next().expect("one");
    let again = files.put("again", downloaded(&api, first, "raw").await.to_vec());
    let again = imported(&api, "again", &again).await;
    assert_eq!(again["new_bytes"], 0, "{again:#}");
    imported(&api, "new", &files.put("new", disks::raw(3, 9))).await;

    // What was deleted is freed, the rest stays.
    let last = fixture
        .images()
        .find(|(_, _, is_deleted)| *is_deleted)
        .expect("one")
        .0;
    run_ok(&mut server.local(&["gc", "--now", "--purge"]));
    api.get(&format!("/v2/images/{last}/download")).await.expect(404);
    let packs = |folder: &Path| -> BTreeSet<_> {
        let files = files_below(&folder.join("p"));
        files
            .iter()
            .filter_map(|file| Some(file.file_name()?.to_owned()))
            .collect()
    };
    let (was, is) = (packs(&fixture.folder.join("objects")), packs(&server.objects()));
    assert_eq!(was.difference(&is).count(), 1, "of {was:?} one goes: {is:?}");
    assert_eq!(blobs(server), blob, "the whole object is kept");
    for (id, expected, is_deleted) in fixture.images() {
        if !is_deleted {
            assert_eq!(sha256(&api, id).await, expected, "image {id} after a gc");
        }
    }
    run_ok(&mut server.local(&["store", "verify", "--read-data"]));
}

#[tokio::test]
async fn a_store_of_every_earlier_format_lives_on_with_its_database() {
    for fixture in Fixture::of_this_world() {
        eprintln!("{}", fixture.name());
        let (mut server, _dir) = fixture.installed();
        fixture.database_load(&server).await;
        server.start_again();
        assert_lives(&fixture, &server).await;
    }
}

#[tokio::test]
async fn a_store_of_every_earlier_format_is_recovered_without_its_database() {
    for fixture in Fixture::all() {
        eprintln!("{}", fixture.name());
        let (mut server, _dir) = fixture.installed();
        let told = document(&mut server.local(&["recover"]));
        assert_eq!(told["recovered"]["gaps"], serde_json::json!([]), "{told:#}");
        server.start_again();
        assert_lives(&fixture, &server).await;
    }
}
