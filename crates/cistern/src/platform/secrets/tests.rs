use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::platform::db::Db;
use crate::platform::db::tests::fresh;

async fn open(path: &Path, db: &Db) -> Result<Secrets> {
    let data = path.parent().expect("lies in a folder");
    service::open((data, path), db, |_, _| Box::pin(async { Ok(()) })).await
}

const PLACE: Place = Place {
    table: "image",
    column: "source_url",
    id: 7,
};

#[test]
fn a_secret_opens_with_its_key_in_its_place_only() {
    let secrets = Secrets::new([1; 32]);
    let sealed = secrets.seal(PLACE, "https://a:b@c").expect("seals");
    assert!(is_sealed(&sealed) && !sealed.contains("a:b"));
    assert!(!is_sealed("https://a:b@c"));
    assert_eq!(secrets.open(PLACE, &sealed).expect("opens"), "https://a:b@c");
    let elsewhere = [
        Place { id: 8, ..PLACE },
        Place {
            column: "name",
            ..PLACE
        },
        Place {
            table: "job",
            ..PLACE
        },
    ];
    for place in elsewhere {
        assert!(secrets.open(place, &sealed).is_err(), "{place:?}");
    }
    assert!(Secrets::new([2; 32]).open(PLACE, &sealed).is_err());
    assert!(secrets.open(PLACE, "https://a:b@c").is_err(), "in clear");
}

#[tokio::test]
async fn the_key_is_made_once_kept_to_its_owner_and_no_other_is_taken() {
    let (db, dir) = fresh().await;
    let path = dir.path().join("secrets.key");
    let first = open(&path, &db).await.expect("is made");
    let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = open(&path, &db).await.expect("is read");
    assert_eq!(first.key, again.key);

    let said = async |what: &str| {
        let error = open(&path, &db).await.expect_err("is refused").to_string();
        assert!(error.contains(what), "{error}");
    };
    std::fs::write(&path, hex::encode([3; 32])).expect("writes");
    said("is not the one that the secrets in this database are sealed with").await;
    std::fs::write(&path, "nonsense").expect("writes");
    said("64 hexadecimal digits").await;
    std::fs::remove_file(&path).expect("removes");
    said("cistern key reset-secrets").await;
    assert!(!path.exists(), "none is made in place of one that is missing");

    assert!(service::reset(&db).await.expect("resets"));
    let other = open(&path, &db).await.expect("is made anew");
    assert_ne!(first.key, other.key);
}
