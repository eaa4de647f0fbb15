//! Rules of the service on a real database, and whole imports with a parser in a thread.

use std::time::Duration;

use serde_json::json;
use url::Url;

use super::model::Change;
use super::model::{Filter, ImportSource, ListKind, NewImport};
use super::rows::{self, Model};
use super::service;
use crate::app::App;
use crate::app::tests::app;
use crate::platform::accounts::{Caller, Role, Scopes};
use crate::platform::actions;
use crate::platform::error::Error;
use crate::platform::events::Who;
use crate::platform::paging::Page;

fn caller(team_id: i64) -> Caller {
    Caller {
        team_id,
        user_id: 1,
        token_id: None,
        role: Role::Owner,
        is_operator: false,
        scopes: Scopes::all(),
        who: Who {
            team_id: Some(team_id),
            ..Who::default()
        },
    }
}

fn new(source: ImportSource) -> NewImport {
    NewImport {
        name: "web".into(),
        distribution: Some("Debian".into()),
        description: None,
        region: "nyc3".into(),
        tags: Vec::new(),
        source,
        expected_sha256: None,
    }
}

fn from_url(url: &str) -> NewImport {
    new(ImportSource::Url {
        url: Url::parse(url).expect("a URL"),
    })
}

/// A row that waits for an engine that nobody started.
async fn waiting(app: &App) -> Model {
    let made = service::image_import(
        app,
        &caller(1),
        &from_url("https://u:s3cret@host.example/a.img?sig=s3cret"),
    )
    .await;
    made.expect("starts").0
}

/// An available image without a job: a raw disk that was handed over and imported.
async fn imported(app: &App, disk: &[u8]) -> Model {
    let mut wanted = new(handed(app, disk));
    wanted.tags = vec!["prod".into()];
    let (row, _) = import(app, wanted).await;
    assert_eq!(row.status, "available", "{:?}", row.error_message);
    row
}

fn handed(app: &App, bytes: &[u8]) -> ImportSource {
    use std::io::Write;
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("writes");
    ImportSource::Local {
        id: app.handed.put(file),
    }
}

async fn import(app: &App, new: NewImport) -> (Model, actions::rows::Model) {
    let (row, action) = service::image_import(app, &caller(1), &new)
        .await
        .expect("starts");
    let engine = app.engine_start().await.expect("starts");
    let action = ended(app, action.id).await;
    engine.stop().await;
    (get(app, row.id).await, action)
}

/// The action, once its job has ended.
async fn ended(app: &App, action: i64) -> actions::rows::Model {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let wait = async {
        loop {
            pace.tick().await;
            let row = actions::rows::action_get(app.db.conn(), 1, action).await;
            let row = row.expect("reads").expect("is there");
            if row.status != actions::IN_PROGRESS {
                return row;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(2), wait)
        .await
        .expect("ends in time")
}

async fn get(app: &App, id: i64) -> Model {
    service::image_get(app, &caller(1), &id.to_string())
        .await
        .expect("is there")
}

/// A raw disk with a partition table and some data.
fn disk(mib: usize) -> Vec<u8> {
    let mut disk = vec![0; mib << 20];
    let sectors = u32::try_from((mib << 11) - 2048).expect("small");
    disk[446] = 0x80;
    disk[450] = 0x83;
    disk[454..458].copy_from_slice(&2048u32.to_le_bytes());
    disk[458..462].copy_from_slice(&sectors.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (byte, value) in disk[1 << 20..(1 << 20) + 300_000]
        .iter_mut()
        .zip((0..=252).cycle())
    {
        *byte = value;
    }
    disk
}

async fn list(app: &App, team: i64, filter: &Filter) -> Vec<i64> {
    let page = Page { number: 1, size: 20 };
    let listed = service::image_list(app, &caller(team), filter, page)
        .await
        .expect("lists");
    assert_eq!(listed.total, listed.rows.len() as u64);
    listed.rows.into_iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn a_new_import_is_a_row_an_action_and_a_job_without_a_secret() {
    let (app, _dir) = app().await;
    let row = waiting(&app).await;
    assert_eq!((row.status.as_str(), row.regions.clone()), ("NEW", json!([])));
    assert_eq!(row.source.as_deref(), Some("https://host.example/a.img?redacted"));
    let job = row.job_id.expect("a job");
    let job = crate::platform::jobs::rows::job_get(app.db.conn(), job)
        .await
        .expect("reads")
        .expect("is there");
    assert!(!job.payload.to_string().contains("s3cret"));
    assert_eq!(job.action_id, row.action_id);
    let page = Page { number: 1, size: 20 };
    let actions = service::image_actions(&app, &caller(1), row.id, page)
        .await
        .expect("lists");
    assert_eq!(actions.rows[0].row.kind, "create");
    assert_eq!(actions.rows[0].row.resource_id, Some(row.id));
}

#[tokio::test]
async fn what_cannot_be_fetched_is_refused_at_once() {
    let (app, _dir) = app().await;
    for url in [
        "ftp://host/a",
        "http://127.0.0.1/a",
        "http://[fd00::1]/a",
        "http://169.254.169.254/",
    ] {
        let refused = service::image_import(&app, &caller(1), &from_url(url)).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{url}");
    }
    let mut unnamed = from_url("https://host.example/a");
    unnamed.name = " ".into();
    assert!(matches!(
        service::image_import(&app, &caller(1), &unnamed).await,
        Err(Error::Invalid(_))
    ));
    assert!(list(&app, 1, &Filter::default()).await.is_empty());
}

#[tokio::test]
async fn a_disk_is_imported_and_what_is_known_of_it_is_shown() {
    let (app, _dir) = app().await;
    let disk = disk(8);
    let mut wanted = new(handed(&app, &disk));
    wanted.expected_sha256 = Some(hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&disk)));
    let (row, action) = import(&app, wanted.clone()).await;
    assert_eq!(row.status, "available", "{:?}", row.error_message);
    assert_eq!(action.status, actions::COMPLETED);
    assert_eq!((row.virtual_bytes, row.min_disk_size), (Some(8 << 20), Some(1)));
    assert_eq!(
        (row.format.as_deref(), row.regions),
        (Some("raw"), json!(["nyc3"]))
    );
    assert_eq!(row.sha256, wanted.expected_sha256);
    let root = app
        .store
        .root_get("image", &row.id.to_string())
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!(Some(root.tree.digest.to_string()), row.root_digest);
    assert_eq!(root.tree.virtual_bytes, 8 << 20);
}

#[tokio::test]
async fn a_compressed_disk_is_unwrapped_and_its_working_files_go() {
    let (app, _dir) = app().await;
    let packed = zstd::stream::encode_all(disk(8).as_slice(), 1).expect("compresses");
    let row = imported(&app, &packed).await;
    assert_eq!(row.virtual_bytes, Some(8 << 20));
    let left: Vec<_> = std::fs::read_dir(app.data.join("spool"))
        .expect("is there")
        .flatten()
        .collect();
    assert!(left.iter().all(|entry| entry.path().is_dir()), "{left:?}");
}

#[tokio::test]
async fn a_failed_import_is_a_tombstone_that_says_why() {
    let (app, _dir) = app().await;
    let mut wrong = new(handed(&app, &disk(2)));
    wrong.expected_sha256 = Some("0".repeat(64));
    for (new, word) in [(wrong, "SHA-256"), (new(handed(&app, &[1; 4096])), "")] {
        let (row, action) = import(&app, new).await;
        assert_eq!((row.status.as_str(), row.regions), ("deleted", json!([])));
        let reason = row.error_message.expect("a reason");
        assert!(reason.contains(word) && reason.ends_with('.'), "{reason}");
        assert_eq!(action.error.as_deref(), Some(reason.as_str()));
    }
    assert!(list(&app, 1, &Filter::default()).await.is_empty());
}

#[tokio::test]
async fn deleting_hides_restoring_brings_back_and_purging_is_final() {
    let (app, _dir) = app().await;
    let row = imported(&app, &disk(2)).await;
    let (me, id) = (caller(1), row.id);
    service::image_delete(&app, &me, id, false)
        .await
        .expect("deletes");
    assert!(list(&app, 1, &Filter::default()).await.is_empty());
    let tagged = Filter {
        tag_name: Some("prod".into()),
        ..Filter::default()
    };
    assert!(list(&app, 1, &tagged).await.is_empty());
    let deleted = Filter {
        deleted: true,
        ..Filter::default()
    };
    assert_eq!(list(&app, 1, &deleted).await, [id]);
    assert!(list(&app, 2, &deleted).await.is_empty(), "not another team's");
    assert_eq!(get(&app, id).await.status, "deleted");
    let again = service::image_delete(&app, &me, id, false)
        .await
        .expect_err("is deleted already");
    assert_eq!(
        again.to_string(),
        "Image Can not delete an already deleted image."
    );
    assert_eq!(
        service::image_restore(&app, &me, id)
            .await
            .expect("restores")
            .status,
        "available"
    );
    assert_eq!(list(&app, 1, &Filter::default()).await, [id]);
    assert!(list(&app, 1, &deleted).await.is_empty());
    let tagged = Filter {
        tag_name: Some("prod".into()),
        ..Filter::default()
    };
    assert_eq!(list(&app, 1, &tagged).await, [id], "tags come back too");

    service::image_delete(&app, &me, id, false)
        .await
        .expect("deletes");
    service::image_delete(&app, &me, id, true)
        .await
        .expect("purges what is deleted");
    assert!(service::image_restore(&app, &me, id).await.is_err());
    assert!(
        app.store
            .root_get("image", &id.to_string())
            .await
            .expect("reads")
            .is_none()
    );
    assert!(service::image_delete(&app, &me, id, true).await.is_err());
}

#[tokio::test]
async fn after_a_day_the_sweeper_lets_the_data_go_and_later_the_row() {
    let (app, _dir) = app().await;
    let id = imported(&app, &disk(2)).await.id;
    service::image_delete(&app, &caller(1), id, false)
        .await
        .expect("deletes");
    app.clock.advance(chrono::TimeDelta::hours(23));
    service::image_sweep(&app).await.expect("sweeps");
    assert!(get(&app, id).await.root_digest.is_some());
    app.clock.advance(chrono::TimeDelta::hours(2));
    service::image_sweep(&app).await.expect("sweeps");
    assert!(get(&app, id).await.root_digest.is_none());
    assert!(
        app.store
            .root_get("image", &id.to_string())
            .await
            .expect("reads")
            .is_none()
    );
    app.clock.advance(chrono::TimeDelta::days(31));
    service::image_sweep(&app).await.expect("sweeps");
    let gone = service::image_get(&app, &caller(1), &id.to_string()).await;
    assert!(matches!(gone, Err(Error::NotFound)));
    let deleted = Filter {
        deleted: true,
        ..Filter::default()
    };
    assert!(list(&app, 1, &deleted).await.is_empty());
}

#[tokio::test]
async fn a_purge_gives_up_what_was_deleted_while_the_clock_was_ahead() {
    let (app, _dir) = app().await;
    let id = imported(&app, &disk(2)).await.id;
    assert!(!service::deleted_is_any(&app).await.expect("looks"));
    app.clock.advance(chrono::TimeDelta::days(365));
    service::image_delete(&app, &caller(1), id, false)
        .await
        .expect("deletes");
    app.clock.advance(chrono::TimeDelta::days(-365));
    assert!(service::deleted_is_any(&app).await.expect("looks"));
    let foreseen = service::deleted_list(&app).await.expect("lists");
    let given_up = service::deleted_purge(&app).await.expect("purges");
    assert_eq!(given_up, foreseen);
    assert_eq!(given_up.iter().map(|one| one.id).collect::<Vec<_>>(), [id]);
    assert!(get(&app, id).await.root_digest.is_none());
    assert!(!service::deleted_is_any(&app).await.expect("looks"));
    let again = service::deleted_purge(&app).await.expect("purges");
    assert_eq!(again, []);
}

#[tokio::test]
async fn what_is_protected_cannot_be_deleted() {
    let (app, _dir) = app().await;
    let id = waiting(&app).await.id;
    let protect = |on| Change {
        protected: Some(on),
        ..Change::default()
    };
    service::image_update(&app, &caller(1), id, protect(true))
        .await
        .expect("updates");
    let refused = service::image_delete(&app, &caller(1), id, true)
        .await
        .expect_err("is protected");
    assert!(refused.to_string().contains("protected"));
    service::image_update(&app, &caller(1), id, protect(false))
        .await
        .expect("updates");
    service::image_delete(&app, &caller(1), id, true)
        .await
        .expect("deletes");
}

#[tokio::test]
async fn deleting_what_is_being_imported_cancels_the_job() {
    let (app, _dir) = app().await;
    let row = waiting(&app).await;
    service::image_delete(&app, &caller(1), row.id, false)
        .await
        .expect("deletes");
    let engine = app.engine_start().await.expect("starts");
    let action = ended(&app, row.action_id.expect("an action")).await;
    engine.stop().await;
    assert_eq!(action.status, actions::ERRORED);
    let row = get(&app, row.id).await;
    let message = row.error_message.as_deref();
    assert_eq!(
        (row.status.as_str(), row.source_url, message),
        ("deleted", None, Some("The import was cancelled."))
    );
}

#[tokio::test]
async fn a_transfer_adds_its_region_once_and_is_done_at_once() {
    let (app, _dir) = app().await;
    let (me, id) = (caller(1), imported(&app, &disk(2)).await.id);
    for (region, expected) in [
        ("lon1", json!(["nyc3", "lon1"])),
        ("ams3", json!(["nyc3", "lon1", "ams3"])),
        ("lon1", json!(["nyc3", "lon1", "ams3"])),
        ("nyc3", json!(["nyc3", "lon1", "ams3"])),
    ] {
        let done = service::image_act(&app, &me, id, "transfer", Some(region)).await;
        let action = done.expect("transfers").row;
        assert_eq!(
            (action.kind.as_str(), action.status.as_str(), action.resource_id),
            ("transfer", actions::COMPLETED, Some(id))
        );
        assert_eq!(action.region.as_deref(), Some(region));
        assert!(action.completed_at.is_some(), "Terraform waits for it");
        assert_eq!(get(&app, id).await.regions, expected, "after {region}");
    }
    let page = Page { number: 1, size: 20 };
    let listed = service::image_actions(&app, &me, id, page).await.expect("lists");
    assert_eq!(listed.total, 5, "the import and four transfers");

    service::image_delete(&app, &me, id, false)
        .await
        .expect("deletes");
    let deleted = service::image_act(&app, &me, id, "transfer", Some("fra1")).await;
    assert!(matches!(deleted, Err(Error::NotFound)));
    let back = service::image_restore(&app, &me, id).await.expect("restores");
    assert_eq!(back.regions, json!(["nyc3", "lon1", "ams3"]));
}

#[tokio::test]
async fn transfers_at_once_lose_no_region() {
    let (app, _dir) = app().await;
    let id = imported(&app, &disk(2)).await.id;
    let wanted = ["ams3", "blr1", "fra1", "lon1", "sfo3", "sgp1", "syd1", "tor1"];
    let mut tasks = tokio::task::JoinSet::new();
    for region in wanted {
        let app = app.clone();
        tasks.spawn(async move { service::image_act(&app, &caller(1), id, "transfer", Some(region)).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic").expect("transfers");
    }
    let mut regions: Vec<String> = serde_json::from_value(get(&app, id).await.regions).expect("a list");
    regions.sort();
    let mut all = [wanted.as_slice(), &["nyc3"]].concat();
    all.sort_unstable();
    assert_eq!(regions, all);
}

#[tokio::test]
async fn another_team_finds_nothing() {
    let (app, _dir) = app().await;
    let id = waiting(&app).await.id;
    let other = caller(2);
    assert!(list(&app, 2, &Filter::default()).await.is_empty());
    assert!(matches!(
        service::image_get(&app, &other, &id.to_string()).await,
        Err(Error::NotFound)
    ));
    assert!(matches!(
        service::image_delete(&app, &other, id, true).await,
        Err(Error::NotFound)
    ));
    assert!(matches!(
        service::image_restore(&app, &other, id).await,
        Err(Error::NotFound)
    ));
    let change = service::image_update(&app, &other, id, Change::default()).await;
    assert!(matches!(change, Err(Error::NotFound)));
}

#[tokio::test]
async fn lists_follow_their_filters_and_pages_their_totals() {
    let (app, _dir) = app().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(waiting(&app).await.id);
    }
    ids.reverse();
    let private = Filter {
        private: true,
        ..Filter::default()
    };
    assert_eq!(list(&app, 1, &private).await, ids);
    let applications = Filter {
        kind: Some(ListKind::Application),
        ..Filter::default()
    };
    assert!(list(&app, 1, &applications).await.is_empty());
    service::image_delete(&app, &caller(1), ids[1], true)
        .await
        .expect("deletes");
    let page = Page { number: 2, size: 2 };
    let listed = rows::image_list(app.db.conn(), &[1, 0, -1], page)
        .await
        .expect("lists");
    assert_eq!(listed.total, 4);
    assert_eq!(listed.rows.iter().map(|r| r.id).collect::<Vec<_>>(), ids[3..]);
}
