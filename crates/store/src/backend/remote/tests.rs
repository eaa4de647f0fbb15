//! URLs, and what a service says or does not say.

use super::*;

#[test]
fn urls_are_taken_apart() {
    let settings = Settings::from([("secret_access_key".to_owned(), "sesame".to_owned())]);
    let url = "s3://bucket/a/b/?endpoint=http%3A%2F%2F127.0.0.1:9&region=x";
    let place = Place::parse(url, &settings).unwrap();
    assert_eq!((place.bucket.as_str(), place.prefix.as_str()), ("bucket", "/a/b"));
    assert_eq!(place.get("endpoint"), "http://127.0.0.1:9");
    let remote = Remote::open(url, &settings).unwrap();
    assert_eq!(remote.describe(), "s3://bucket/a/b");
    assert!(
        Remote::open("ftp://x/y", &settings)
            .unwrap_err()
            .to_string()
            .contains("not a kind of store")
    );
    assert!(Remote::open("s3://", &settings).is_err());
}

#[tokio::test]
async fn a_listing_that_does_not_go_on_ends() {
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = Settings::from([
        ("access_key_id".to_owned(), "a".to_owned()),
        ("secret_access_key".to_owned(), "b".to_owned()),
        (
            "endpoint".to_owned(),
            format!("http://{}", deaf.local_addr().unwrap()),
        ),
    ]);
    let mut remote = Remote::open("s3://bucket", &settings).unwrap();
    remote.patience = Duration::from_millis(50);
    let listed = remote.list("p/").try_collect::<Vec<_>>();
    let listed = tokio::time::timeout(Duration::from_secs(10), listed).await;
    let error = listed.expect("it ends by itself").unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
}

/// Answers every request so, and closes the connection.
fn answering(status: &'static str) -> String {
    use std::io::{Read as _, Write as _};

    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("http://{}", server.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    at
}

#[tokio::test]
async fn an_answer_that_says_nothing_of_the_bytes_is_no_damage() {
    for status in [
        "403 Forbidden",
        "401 Unauthorized",
        "418 Teapot",
        "400 Bad Request",
    ] {
        let settings = Settings::from([
            ("access_key_id".to_owned(), "a".to_owned()),
            ("secret_access_key".to_owned(), "b".to_owned()),
            ("endpoint".to_owned(), answering(status)),
        ]);
        let mut remote = Remote::open("s3://bucket", &settings).unwrap();
        remote.pause = Duration::from_millis(1);
        let whole = remote.get("p/aa/x").await.unwrap_err();
        let range = remote.get_range("p/aa/x", 0..9).await.unwrap_err();
        for error in [whole, range] {
            assert!(!crate::verify::damaging(&error), "{status}: {error:?}");
        }
    }
}

#[tokio::test]
async fn an_unreachable_server_is_a_passing_failure_that_tells_no_secret() {
    let settings = Settings::from([
        ("access_key_id".to_owned(), "AKIDEXAMPLE".to_owned()),
        ("secret_access_key".to_owned(), "opensesame".to_owned()),
        ("endpoint".to_owned(), "http://127.0.0.1:1".to_owned()),
    ]);
    let mut remote = Remote::open("s3://bucket", &settings).unwrap();
    remote.pause = Duration::from_millis(1);
    let error = remote.get("p/aa/x").await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert_eq!(error.kind(), Kind::Unavailable, "{text}");
    assert!(
        !text.contains("opensesame") && !text.contains("AKIDEXAMPLE"),
        "{text}"
    );
}
