//! Imports as a test drives them.

use serde_json::{Value, json};

use super::api::Api;
use super::until;

/// Starts an import by URL and returns the image's id.
pub(crate) async fn import(api: &Api, name: &str, url: &str) -> i64 {
    let body = json!({ "name": name, "url": url, "region": "nyc3", "distribution": "Debian" });
    let answer = api.post("/v2/images", &body).await.expect(202);
    answer["image"]["id"].as_i64().expect("an image has an id")
}

/// Waits until the image is `available` or `deleted` and returns it.
pub(crate) async fn settled(api: &Api, id: i64) -> Value {
    until(&format!("image {id} to settle"), 120, || async {
        let image = api.get(&format!("/v2/images/{id}")).await.expect(200)["image"].take();
        matches!(image["status"].as_str(), Some("available" | "deleted")).then_some(image)
    })
    .await
}

/// Imports and waits; fails the test unless the image becomes available.
pub(crate) async fn imported(api: &Api, name: &str, url: &str) -> Value {
    let id = import(api, name, url).await;
    let image = settled(api, id).await;
    assert_eq!(image["status"], "available", "{image:#}");
    image
}

/// The whole image in a format.
pub(crate) async fn downloaded(api: &Api, id: i64, format: &str) -> bytes::Bytes {
    let answer = api
        .get(&format!("/v2/images/{id}/download?format={format}"))
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.bytes
}
