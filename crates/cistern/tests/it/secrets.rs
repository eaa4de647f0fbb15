//! No token, password or URL credential reaches a log, an error body, an event, a metric or the database in clear.

use sea_orm::DbBackend;
use serde_json::json;

use crate::harness::Server;
use crate::harness::disks;
use crate::harness::files::Files;
use crate::harness::images::{import, settled};
use crate::harness::process::{run, run_ok};
use crate::harness::server::Setup;
use crate::migrate::{database, texts};

/// Words that stand for secrets; whatever carries one leaks.
const URL_PASSWORD: &str = "canary-url-password";
const URL_QUERY: &str = "canary-url-signature";
const PASSWORD: &str = "canary-password-of-a-person";
const WRONG_TOKEN: &str = "dop_v1_ca9a57ca9a57ca9a57ca9a57ca9a57ca9a57ca9a57ca9a57ca9a57ca9a57ca9a";

#[tokio::test]
async fn canaries_stay_where_they_are() {
    // The most talkative log there is.
    let server = Setup::default().env("CISTERN_LOG__LEVEL", "trace").start();
    let files = Files::start().await;
    let api = server.api();
    let mut bodies: Vec<bytes::Bytes> = Vec::new();

    let plain = files.put("disk.img", disks::raw(1, 1));
    let secret =
        plain.replace("http://", &format!("http://someone:{URL_PASSWORD}@")) + "?signature=" + URL_QUERY;
    let broken = secret.replace("disk.img", "missing.img");
    for url in [&secret, &broken] {
        let answer = api
            .post(
                "/v2/images",
                &json!({ "name": "canary", "url": url, "region": "nyc3" }),
            )
            .await;
        bodies.push(answer.bytes.clone());
        if let Some(id) = answer.json["image"]["id"].as_i64() {
            bodies.push(settled(&api, id).await.to_string().into());
            bodies.push(api.get(&format!("/v2/images/{id}/actions")).await.bytes);
        }
    }
    bodies.push(api.with_token(WRONG_TOKEN).get("/v2/account").await.bytes);
    bodies.push(
        api.get(&format!("/v2/images/{URL_PASSWORD}?x={URL_QUERY}"))
            .await
            .bytes
            .slice(..0),
    );
    let id = import(&api, "good", &plain).await;
    settled(&api, id).await;
    server.password_set(PASSWORD);
    sign_in(&server, &format!("{PASSWORD}-mistyped"), 401, &mut bodies).await;
    let session = sign_in(&server, PASSWORD, 303, &mut bodies).await;
    bodies.push(api.get("/metrics").await.bytes);
    bodies.push(api.get("/v2/events?all=true").await.bytes);

    let events = run(&mut server.local(&["events", "--json"]));
    bodies.push([events.stdout, events.stderr].concat().into());
    bodies.push(server.log_text().into());
    let all = [
        URL_PASSWORD,
        URL_QUERY,
        PASSWORD,
        WRONG_TOKEN,
        server.token.as_str(),
    ];
    assert!(
        bodies.iter().any(|text| find(text, "canary")),
        "the search finds what is there"
    );
    for (n, text) in bodies.iter().enumerate() {
        for word in all {
            assert!(!find(text, word), "{word} is in text {n}: {}", around(text, word));
        }
    }
    rows_hold_none(&server, &session).await;
    // Also the database's files: the address of an import is sealed, and secrets of accounts are never kept in clear.
    for entry in std::fs::read_dir(server.data())
        .expect("the data folder")
        .map(|e| e.expect("readable").path())
    {
        let text = if entry.is_file() {
            std::fs::read(&entry).unwrap_or_default()
        } else {
            Vec::new()
        };
        for word in all {
            assert!(!find(&text, word), "{word} is in {}", entry.display());
        }
    }
}

/// Signs in as the first owner; gives the session's secret, where there is one, and adds the answer to `bodies`.
async fn sign_in(server: &Server, password: &str, expected: u16, bodies: &mut Vec<bytes::Bytes>) -> String {
    let request = server.api().with_token("").request(reqwest::Method::POST, "/");
    let answer = request
        .header("content-type", "application/x-www-form-urlencoded")
        .header("origin", &server.api_url)
        .body(format!("email=owner%40localhost&password={password}"))
        .send()
        .await
        .expect("answers");
    assert_eq!(answer.status(), expected, "the form was read");
    let cookie = answer
        .headers()
        .get("set-cookie")
        .map(|c| c.to_str().expect("text"));
    let secret = cookie
        .and_then(|c| c.split(['=', ';']).nth(1))
        .unwrap_or_default();
    let secret = secret.to_owned();
    bodies.push(answer.bytes().await.expect("a body"));
    secret
}

/// What signs somebody in is kept as a hash, and an address without its secrets once it was fetched.
async fn rows_hold_none(server: &Server, session: &str) {
    run_ok(&mut server.local(&["user", "create", "linked@example.com"]));
    let link = run_ok(&mut server.local(&["user", "link", "linked@example.com", "--json"]));
    let (_, link) = link.split_once("/sign-in/").expect("a link to sign in with");
    let link = link.split('"').next().unwrap_or_default();
    let rows = dump(server).await;
    assert!(rows.len() > 20, "every table was read");
    let is_found = rows.iter().any(|(_, text)| holds(text, "linked@example.com"));
    assert!(is_found, "the search finds what is there");
    let token = server.token.as_str();
    let bare = &token["dop_v1_".len()..];
    for word in [
        URL_PASSWORD,
        URL_QUERY,
        PASSWORD,
        WRONG_TOKEN,
        session,
        link,
        token,
        bare,
    ] {
        assert!(word.len() >= 16, "`{word}` is a secret");
        for (table, text) in &rows {
            assert!(!holds(text, word), "{word} is in the table {table}");
        }
    }
}

/// Every table of the server's database with everything in it, as text; bytes as hex.
pub(crate) async fn dump(server: &Server) -> Vec<(String, String)> {
    let db = database(server).await;
    let is_sqlite = db.get_database_backend() == DbBackend::Sqlite;
    let tables = if is_sqlite {
        "SELECT name FROM sqlite_master WHERE type = 'table'"
    } else {
        "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()"
    };
    let mut out = Vec::new();
    for table in texts(&db, tables).await {
        let row = if is_sqlite {
            let columns = texts(&db, &format!("SELECT name FROM pragma_table_info('{table}')")).await;
            let columns: Vec<_> = columns
                .iter()
                .map(|c| format!("hex(CAST(\"{c}\" AS BLOB))"))
                .collect();
            format!("SELECT {} FROM \"{table}\"", columns.join(" || ' ' || "))
        } else {
            format!("SELECT t::text FROM \"{table}\" t")
        };
        out.push((table, texts(&db, &row).await.join("\n").to_lowercase()));
    }
    out
}

/// Whether a dump has this text, as it is or as its bytes.
pub(crate) fn holds(dump: &str, word: &str) -> bool {
    dump.contains(&word.to_lowercase()) || dump.contains(&hex::encode(word))
}

fn find(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|window| window == word.as_bytes())
}

fn around(text: &[u8], word: &str) -> String {
    let at = text
        .windows(word.len())
        .position(|w| w == word.as_bytes())
        .unwrap_or(0);
    String::from_utf8_lossy(&text[at.saturating_sub(200)..(at + word.len() + 60).min(text.len())])
        .into_owned()
}
