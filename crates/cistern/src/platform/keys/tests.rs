use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use store::{KeyKind, RecoveryKey, World};

use super::service::{key_from_command, key_from_file, key_from_or_into_file, key_load};
use crate::app::App;
use crate::config::Config;

fn mode_set(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the mode is set");
}

#[test]
fn a_key_file_that_everybody_reads_is_refused_and_a_new_one_is_its_owners() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("store.key");
    let error = key_from_file(&path).expect_err("is not there").to_string();
    assert!(error.contains("look at `key_file`"), "{error}");
    assert_eq!(
        key_from_or_into_file(dir.path(), &path)
            .expect("is made")
            .0
            .kind(),
        KeyKind::KeyFile
    );
    let text = std::fs::read(&path).expect("is there");
    let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
    assert_eq!((text.len(), mode & 0o777), (45, 0o600));
    key_from_or_into_file(dir.path(), &path).expect("is read");
    assert_eq!(
        std::fs::read(&path).expect("is there"),
        text,
        "and not made again"
    );
    mode_set(&path, 0o640);
    key_from_file(&path).expect("a group may");
    mode_set(&path, 0o604);
    let error = key_from_file(&path).expect_err("everybody may not").to_string();
    assert!(error.contains("chmod 600"), "{error}");
    mode_set(&path, 0o600);
    std::fs::write(&path, "short").expect("writes");
    let error = key_from_file(&path).expect_err("is too short").to_string();
    assert!(error.contains("32 bytes at least"), "{error}");
}

#[tokio::test]
async fn a_key_command_gives_what_it_prints() {
    let printed = key_from_command("printf '%s' 0123456789012345678901234567890123456789").await;
    assert_eq!(printed.expect("is a key").kind(), KeyKind::KeyCommand);
    for (line, said) in [
        ("exit 3", "exit status: 3"),
        ("true", "is no key"),
        ("cat", "is no key"),
    ] {
        let error = key_from_command(line).await.expect_err("no key").to_string();
        assert!(error.contains(said), "{line}: {error}");
    }
    assert!(key_load(&Config::default()).await.expect("none").is_none());
}

#[tokio::test]
async fn keys_that_are_added_at_once_are_all_kept() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let key_file = dir.path().join("store.key");
    key_from_or_into_file(dir.path(), &key_file).expect("is made");
    let config = Config {
        key_file: Some(key_file),
        ..Config::for_data(dir.path().join("data"))
    };
    let app = App::open_encrypted(config).await.expect("is made");
    let add = async || {
        let key = RecoveryKey::draw(&World::system());
        let _alone = app.keys_alone().await.expect("waits");
        app.store.key_add(&key.wrapping()).await.expect("adds").key.id
    };
    let (one, two, three) = tokio::join!(add(), add(), add());
    let kept = app.store.key_list().await.expect("lists");
    let kept: Vec<&str> = kept.iter().map(|key| key.id.as_str()).collect();
    for id in [one, two, three] {
        assert!(kept.contains(&id.as_str()), "{id} is lost: {kept:?}");
    }
}
