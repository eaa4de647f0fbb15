//! The main job: a disk goes in, is listed, and comes out again equal.

use serde_json::json;

use crate::harness::files::Files;
use crate::harness::images::{downloaded, import, imported, settled};
use crate::harness::{Server, disks};

#[tokio::test]
async fn a_disk_goes_in_by_url_and_comes_out_equal() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    let disk = disks::raw(24, 1);
    let image = imported(&api, "first", &files.put("disk.img", disk.clone())).await;
    assert_eq!(image["type"], "custom");
    assert_eq!(image["public"], false);
    assert_eq!(image["distribution"], "Debian");
    assert_eq!(image["regions"], json!(["nyc3"]));
    let id = image["id"].as_i64().expect("an id");
    assert!(
        downloaded(&api, id, "raw").await == disk,
        "the raw download differs"
    );

    let actions = api.get(&format!("/v2/images/{id}/actions")).await.expect(200);
    assert_eq!(actions["actions"][0]["status"], "completed");
    let list = api.get("/v2/images?private=true").await.expect(200);
    assert_eq!(list["meta"]["total"], 1);
    assert_eq!(list["images"][0]["id"], id);
}

#[tokio::test]
async fn a_changed_version_shares_what_is_the_same() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    let first = disks::raw(32, 7);
    let second = disks::changed(&first, 8, 99);
    imported(&api, "v1", &files.put("v1.img", first)).await;
    let before = stats(&server);
    let image = imported(&api, "v2", &files.put("v2.img", second.clone())).await;
    let after = stats(&server);
    let added = after["stored_bytes"].as_u64().expect("a number")
        - before["stored_bytes"].as_u64().expect("a number");
    assert!(
        added < 2 << 20,
        "8 blocks of 64 KiB were changed, {added} bytes were added"
    );
    assert!(downloaded(&api, image["id"].as_i64().expect("an id"), "raw").await == second);
}

fn stats(server: &Server) -> serde_json::Value {
    let text = crate::harness::process::run_ok(&mut server.local(&["store", "stats", "--json"]));
    serde_json::from_str(&text).expect("one JSON document")
}

#[tokio::test]
async fn ranges_are_parts_of_the_whole() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    let disk = disks::raw(8, 3);
    let id = imported(&api, "ranged", &files.put("d.img", disk.clone())).await["id"]
        .as_i64()
        .expect("an id");
    let path = format!("/v2/images/{id}/download?format=raw");
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=65530-65545", 65530, 65546),
        ("bytes=-700", disk.len() - 700, disk.len()),
    ] {
        let response = api
            .request(reqwest::Method::GET, &path)
            .header("range", range)
            .send()
            .await
            .expect("answers");
        assert_eq!(response.status(), 206, "{range}");
        let expected = format!("bytes {from}-{}/{}", to - 1, disk.len());
        assert_eq!(response.headers()["content-range"], expected.as_str());
        assert!(
            response.bytes().await.expect("a body") == disk[from..to],
            "{range}"
        );
    }
    let beyond = api
        .request(reqwest::Method::GET, &path)
        .header("range", "bytes=99999999-")
        .send()
        .await
        .expect("answers");
    assert_eq!(beyond.status(), 416);
}

#[tokio::test]
async fn what_is_not_a_disk_is_refused_with_a_sentence_and_leaves_a_tombstone() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    let cases: [(&str, Vec<u8>, &str); 4] = [
        ("text", b"hello\n".repeat(1000), "partition"),
        ("empty", Vec::new(), "empty"),
        ("iso", iso(), "ISO"),
        ("ext4", bare_ext4(), "file system"),
    ];
    for (name, content, word) in cases {
        let id = import(&api, name, &files.put(name, content)).await;
        let image = settled(&api, id).await;
        assert_eq!(image["status"], "deleted", "{name}");
        let reason = image["error_message"].as_str().expect("a reason");
        assert!(reason.contains(word), "{name}: {reason}");
        let actions = api.get(&format!("/v2/images/{id}/actions")).await.expect(200);
        assert_eq!(actions["actions"][0]["status"], "errored");
        let list = api.get("/v2/images?private=true").await.expect(200);
        assert_eq!(list["meta"]["total"], 0, "a failed import is not listed");
    }
}

fn iso() -> Vec<u8> {
    let mut image = vec![0; 1 << 20];
    image[0x8001..0x8006].copy_from_slice(b"CD001");
    image
}

fn bare_ext4() -> Vec<u8> {
    let mut image = vec![0; 1 << 20];
    image[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
    image
}

#[tokio::test]
async fn addresses_inside_are_not_fetched_unless_allowed() {
    let server = crate::harness::server::Setup::strict().start();
    let files = Files::start().await;
    let api = server.api();
    let url = files.put("disk.img", disks::raw(1, 1));
    let with_port = url.trim_start_matches("http://127.0.0.1");
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "2130706433",
    ] {
        let body = json!({ "name": "inside", "url": format!("http://{host}{with_port}"), "region": "nyc3" });
        let answer = api.post("/v2/images", &body).await;
        if answer.status == 202 {
            let image = settled(&api, answer.json["image"]["id"].as_i64().expect("an id")).await;
            assert_eq!(image["status"], "deleted", "{host}");
        } else {
            assert_eq!(answer.status, 422, "{host}");
        }
    }
    for metadata in [
        "http://169.254.169.254/latest/meta-data",
        "http://[fd00:ec2::254]/",
        "http://10.0.0.1/x",
        "file:///etc/passwd",
    ] {
        let answer = api
            .post(
                "/v2/images",
                &json!({ "name": "x", "url": metadata, "region": "nyc3" }),
            )
            .await;
        assert_eq!(answer.status, 422, "{metadata}: {answer:?}");
    }
}

#[tokio::test]
async fn deleting_hides_and_purging_forgets() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    let url = files.put("d.img", disks::raw(4, 5));
    let id = imported(&api, "goes", &url).await["id"].as_i64().expect("an id");
    api.delete(&format!("/v2/images/{id}")).await.expect(204);
    assert_eq!(
        api.get("/v2/images?private=true").await.expect(200)["meta"]["total"],
        0
    );
    assert_eq!(
        api.get(&format!("/v2/images/{id}/download?format=raw"))
            .await
            .status,
        404
    );
    let id = imported(&api, "goes too", &url).await["id"]
        .as_i64()
        .expect("an id");
    api.delete(&format!("/v2/images/{id}?purge=true"))
        .await
        .expect(204);
}

#[tokio::test]
async fn another_team_sees_nothing_of_it() {
    let (server, files) = (Server::start(), Files::start().await);
    let api = server.api();
    crate::harness::process::run_ok(&mut server.local(&["team", "create", "others"]));
    let others = server.api_with(&["--team", "others"]);
    let id = imported(&api, "ours", &files.put("d.img", disks::raw(4, 5))).await["id"]
        .as_i64()
        .expect("an id");
    for path in ["", "/actions", "/download?format=raw"] {
        assert_eq!(
            others.get(&format!("/v2/images/{id}{path}")).await.status,
            404,
            "{path}"
        );
    }
    others.delete(&format!("/v2/images/{id}")).await.expect(404);
    others
        .put(&format!("/v2/images/{id}"), &json!({ "name": "theirs" }))
        .await
        .expect(404);
    assert_eq!(
        others.get("/v2/images?private=true").await.expect(200)["meta"]["total"],
        0
    );
}
