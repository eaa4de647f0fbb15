//! An upload whose connection hangs: the client connects again and finishes it at once.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Server, until};

#[tokio::test]
async fn a_second_connection_finishes_an_upload_whose_first_one_hangs() {
    let server = Server::start();
    let api = server.api();
    let tus = |method: Method, path: &str| api.request(method, path).header("tus-resumable", "1.0.0");
    let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let begun = tus(Method::POST, "/v2/uploads").header("upload-length", bytes.len());
    let begun = begun.send().await.expect("answers");
    let path = begun.headers()["location"].to_str().expect("ASCII").to_owned();

    let half = bytes.len() / 2;
    let address = server.api_url.trim_start_matches("http://");
    let mut hanging = TcpStream::connect(address).await.expect("connects");
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ntus-resumable: 1.0.0\r\n\
         upload-offset: 0\r\ncontent-type: application/offset+octet-stream\r\ncontent-length: {}\r\n\r\n",
        server.token,
        bytes.len()
    );
    hanging.write_all(head.as_bytes()).await.expect("writes");
    hanging.write_all(&bytes[..half]).await.expect("writes");

    // It goes on hanging for 300 seconds, after which the server would cut it off.
    until("what came to be promised", 30, || async {
        let head = tus(Method::HEAD, &path).send().await.expect("answers");
        (head.headers()["upload-offset"] == half.to_string().as_str()).then_some(())
    })
    .await;
    let rest = tus(Method::PATCH, &path)
        .header("upload-offset", half)
        .header("content-type", "application/offset+octet-stream")
        .timeout(Duration::from_secs(30))
        .body(bytes[half..].to_vec());
    let rest = rest.send().await.expect("answers in time");
    assert_eq!(rest.status(), StatusCode::NO_CONTENT);
    assert_eq!(rest.headers()["upload-offset"], bytes.len().to_string().as_str());

    let mut said = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(30), hanging.read(&mut said));
    let length = read
        .await
        .expect("the first hears something")
        .expect("and can read it");
    let said = String::from_utf8_lossy(&said[..length]);
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
    assert!(said.contains("took over"), "{said}");
    let id = path.rsplit('/').next().expect("an id");
    let file = std::fs::read(server.data().join("spool/uploads").join(id)).expect("is there");
    assert!(file == bytes);
}
