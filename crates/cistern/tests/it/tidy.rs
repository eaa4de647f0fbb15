//! The house rules that no compiler keeps: who imports whom, and where SQL, axum, processes, the clock, randomness
//! and the environment may occur. ARCHITECTURE.md says why; each rule is shown to fail on a planted violation.

use std::fs;
use std::path::{Path, PathBuf};

/// The six products and what uses them. They reach each other through `service` (and the types in `model`) only.
const PRODUCTS: [&str; 9] = [
    "images",
    "snapshots",
    "backups",
    "snapshooter",
    "marketplace",
    "registry",
    "droplets",
    "volumes",
    "kubernetes",
];

/// A word that may occur only in some places.
struct Confined {
    words: &'static [&'static str],
    places: &'static [&'static str],
    why: &'static str,
}

const CONFINED: [Confined; 8] = [
    Confined {
        words: &[
            "EntityTrait",
            "QueryFilter",
            "QuerySelect",
            "QueryOrder",
            "sea_query",
            "ActiveModel",
            "Statement::from",
            "Entity::find",
            "execute_unprepared",
            "query_all_raw",
            "query_one_raw",
            "execute_raw",
            "sqlx::query",
            "\"SELECT ",
            "\"INSERT INTO ",
            "\"DELETE FROM ",
        ],
        places: &["/rows.rs", "/rows/", "/migration.rs", "/migrations/"],
        why: "SQL lives in rows.rs",
    },
    Confined {
        words: &["axum::", "use axum"],
        places: &[
            "/api.rs",
            "/api/",
            "_api.rs",
            "/pages.rs",
            "/pages/",
            "src/registry/oci",
            "src/serve/",
            "src/routes.rs",
        ],
        why: "only api, pages, registry/oci and serve speak HTTP",
    },
    Confined {
        words: &["process::Command", "Command::new", "posix_spawn", "libc::fork"],
        places: &["src/platform/command.rs"],
        why: "processes are started in platform/command.rs",
    },
    Confined {
        words: &["Utc::now", "Local::now", "SystemTime::now"],
        places: &["platform/clock.rs", "store/src/world.rs"],
        why: "the clock is read in one place",
    },
    Confined {
        words: &["rand::", "new_v4", "now_v7", "getrandom::", "OsRng"],
        places: &["platform/random.rs", "store/src/world.rs"],
        why: "randomness is drawn in one place",
    },
    Confined {
        words: &["env::var", "env::set_var", "env!(\"HOME"],
        places: &["src/config/"],
        why: "the environment is read in config",
    },
    Confined {
        words: &["std::fs", "std::net", "tokio::", "sea_orm", "axum"],
        places: &["crates/cistern/", "crates/store/"],
        why: "the disk crate does no I/O of its own",
    },
    Confined {
        words: &["reqwest", "hyper", "tower", "crate::platform", "utoipa"],
        places: &["crates/cistern/"],
        why: "the engines know no HTTP and no product",
    },
];

/// What a file of one role must not import from its own product: the arrows point the other way.
const ROLES: [(&str, &[&str]); 7] = [
    ("model", &["service", "rows", "api", "jobs", "pages", "cli"]),
    ("rows", &["service", "api", "jobs", "pages", "cli"]),
    ("service", &["api", "pages", "cli"]),
    ("jobs", &["api", "pages", "cli"]),
    ("api", &["pages", "cli"]),
    ("pages", &["api", "cli"]),
    ("cli", &["pages"]),
];

/// Files of these roles translate: they may name a row's type, and never ask for one.
const TRANSLATORS: [&str; 3] = ["api", "pages", "cli"];

/// Checks one statement or line of one file; `path` is from the repository's root.
fn violation(path: &str, line: &str) -> Option<String> {
    let code = line.trim_start();
    if code.starts_with("//") {
        return None;
    }
    let paths = imports(code).unwrap_or_else(|| vec![code.to_owned()]);
    confined(path, code).or_else(|| paths.iter().find_map(|code| direction(path, code)))
}

/// Every path that a `use` names, with its braces taken apart; none where it is no `use`.
fn imports(code: &str) -> Option<Vec<String>> {
    let at = code.find("use ").filter(|at| {
        let before = code[..*at].trim();
        before.is_empty() || before.starts_with("pub")
    })?;
    let tree: String = code[at + 4..].trim_end().trim_end_matches(';').to_owned();
    let mut out = Vec::new();
    expand("", &tree, &mut out);
    Some(out)
}

fn expand(prefix: &str, tree: &str, out: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        if !tree.is_empty() {
            out.push(format!("{prefix}{tree}"));
        }
        return;
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let prefix = format!("{prefix}{}", head.trim());
    let (mut depth, mut start) = (0_i32, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &inner[start..at], out);
                start = at + 1;
            }
            _ => {}
        }
    }
    expand(&prefix, &inner[start..], out);
}

fn confined(path: &str, code: &str) -> Option<String> {
    let rule = CONFINED.iter().find(|rule| {
        let allowed = rule.places.iter().any(|place| path.contains(place));
        !allowed && rule.words.iter().any(|word| contains_word(code, word))
    })?;
    Some(rule.why.to_owned())
}

/// Whether `word` occurs in `code` and is not the end of a longer name (`operand::` is not `rand::`).
fn contains_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn direction(path: &str, code: &str) -> Option<String> {
    let inside = path.strip_prefix("crates/cistern/src/")?;
    let (top, _) = inside.split_once('/')?;
    for product in PRODUCTS.iter().filter(|product| **product != top) {
        let Some((_, rest)) = code.split_once(&format!("crate::{product}")) else {
            continue;
        };
        let is_name = rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        if is_name || matches!(top, "cli" | "serve") {
            continue;
        }
        if top == "platform" {
            return Some(format!("platform knows no product, not even {product}"));
        }
        if !rest.starts_with("::service") && !rest.starts_with("::model") {
            return Some(format!("{top} reaches {product} only through its service"));
        }
    }
    let (role, room, depth) = role_of(inside)?;
    let calls = |code: &str| {
        let rest = code.split_once("rows::").map(|(_, rest)| rest);
        let word = rest.and_then(|rest| rest.split('(').next().filter(|word| word.len() < rest.len()));
        let name = word.and_then(|word| word.rsplit("::").next());
        name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    if TRANSLATORS.contains(&role) && calls(code) {
        return Some(format!("{role} asks its service, not rows"));
    }
    let (_, forbidden) = ROLES.iter().find(|(name, _)| *name == role)?;
    let (near, far) = ("super::".repeat(depth), format!("crate::{room}::"));
    let target = forbidden.iter().find(|target| {
        [&near, &far].into_iter().any(|prefix| {
            let found = code.find(&format!("{prefix}{target}"));
            found.is_some_and(|at| {
                let rest = &code[at + prefix.len() + target.len()..];
                let is_further_out = code[..at].ends_with("super::");
                !is_further_out && !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            })
        })
    })?;
    Some(format!("{role} must not know {target}"))
}

/// The role of a file below `src`, its room's path, and how many `super::` lead from the file to its room. A room
/// inside `platform` is a room of its own, and a role that grew is a folder.
fn role_of(inside: &str) -> Option<(&str, String, usize)> {
    let parts: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
    // `platform/jobs` and `platform/api` are rooms, and `src/cli` is no role of a room.
    let first = if parts[0] == "platform" { 2 } else { 1 };
    let is_role = |part: &&str| ROLES.iter().any(|(role, _)| role == part);
    let at = first + parts.iter().skip(first).position(is_role)?;
    let room = parts[..at].join("::");
    let is_root = parts.last() == Some(&"mod");
    Some((parts[at], room, parts.len() - at - usize::from(is_root)))
}

/// The statements and lines of a text, with their line numbers; a `use` over several lines is one.
fn statements(text: &str) -> Vec<(usize, String)> {
    let mut out: Vec<(usize, String)> = Vec::new();
    let mut is_open = false;
    for (n, line) in text.lines().enumerate() {
        let code = line.trim();
        if is_open {
            let (_, last) = out.last_mut().expect("one is open");
            last.push(' ');
            last.push_str(code);
        } else {
            let starts = code.starts_with("use ") || code.starts_with("pub") && code.contains(" use ");
            out.push((n + 1, code.to_owned()));
            is_open = starts;
        }
        is_open &= !code.ends_with(';');
    }
    out
}

/// The part of a file before its test module.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ")
        .or_else(|| text.find("#[cfg(test)]\npub mod "))
        .map_or(text, |at| &text[..at])
}

fn sources(root: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut folders = vec![
        root.join("crates/cistern/src"),
        root.join("crates/disk/src"),
        root.join("crates/store/src"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)
            .expect("a folder of sources")
            .map(|e| e.expect("readable").path())
        {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs") && !is_test(&entry) {
                out.push(entry);
            }
        }
    }
    out
}

fn is_test(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    name == "tests.rs"
        || name.ends_with("_tests.rs")
        || path
            .components()
            .any(|c| c.as_os_str() == "tests" || c.as_os_str() == "testing")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the repository")
}

#[test]
fn the_house_is_tidy() {
    let root = root();
    let mut found = Vec::new();
    let files = sources(&root);
    assert!(files.len() > 30, "the sources were found");
    for file in files {
        let path = file.strip_prefix(&root).expect("inside").display().to_string();
        let text = fs::read_to_string(&file).expect("readable");
        for (n, line) in statements(without_tests(&text)) {
            if let Some(why) = violation(&path, &line) {
                found.push(format!("{path}:{n}: {why}: {line}"));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Each must be found.
const PLANTED: &[(&str, &str)] = &[
    (
        "crates/cistern/src/images/service.rs",
        "use sea_orm::{EntityTrait, QueryFilter};",
    ),
    (
        "crates/cistern/src/images/service.rs",
        "image::Entity::find().all(conn)",
    ),
    ("crates/cistern/src/images/service.rs", "use axum::Json;"),
    (
        "crates/cistern/src/platform/jobs/engine.rs",
        "let r: axum::Router = x;",
    ),
    (
        "crates/cistern/src/images/sandbox/mod.rs",
        "std::process::Command::new(\"ls\")",
    ),
    (
        "crates/cistern/src/images/jobs.rs",
        "let now = chrono::Utc::now();",
    ),
    ("crates/store/src/session.rs", "let id = uuid::Uuid::new_v4();"),
    (
        "crates/cistern/src/images/model.rs",
        "let n: u8 = rand::random();",
    ),
    (
        "crates/cistern/src/images/fetch.rs",
        "std::env::var(\"HTTP_PROXY\")",
    ),
    ("crates/disk/src/raw.rs", "use std::fs::File;"),
    (
        "crates/cistern/src/platform/tags/service.rs",
        "use crate::images::service::image_get;",
    ),
    (
        "crates/cistern/src/snapshots/service.rs",
        "use crate::images::rows::image_get;",
    ),
    ("crates/cistern/src/images/model.rs", "use super::rows::Model;"),
    (
        "crates/cistern/src/images/rows.rs",
        "use super::service::image_get;",
    ),
    (
        "crates/cistern/src/images/service.rs",
        "use super::api::ImageView;",
    ),
    (
        "crates/cistern/src/images/jobs.rs",
        "use crate::images::api::ImageView;",
    ),
    (
        "crates/cistern/src/platform/tags/rows.rs",
        "use crate::platform::tags::service::tags_of;",
    ),
    (
        "crates/cistern/src/platform/tags/service.rs",
        "let rows = conn.query_all_raw(statement).await?;",
    ),
    (
        "crates/cistern/src/platform/db/mod.rs",
        "conn.execute_unprepared(\"DROP TABLE tag\")",
    ),
    ("crates/cistern/src/serve/mod.rs", "let sql = \"SELECT 1\";"),
    ("crates/cistern/src/images/jobs.rs", "Command::new(\"qemu-img\")"),
    ("crates/cistern/src/app.rs", "std::time::SystemTime::now()"),
    ("crates/store/src/session.rs", "use reqwest::Client;"),
    ("crates/store/src/session.rs", "use axum::Json;"),
    ("crates/disk/src/raw.rs", "use sea_orm::DbErr;"),
    (
        "crates/cistern/src/platform/tags/service.rs",
        "use crate::{app::App, images::rows};",
    ),
    (
        "crates/cistern/src/snapshots/service.rs",
        "use crate::{app::App, images::{self, rows::image_get}};",
    ),
    ("crates/cistern/src/snapshots/service.rs", "use crate::images;"),
    (
        "crates/cistern/src/console/pages/overview.rs",
        "use crate::images::rows;",
    ),
    (
        "crates/cistern/src/platform/accounts/service/tokens.rs",
        "use super::super::api::TokenBody;",
    ),
    (
        "crates/cistern/src/platform/accounts/service/mod.rs",
        "use super::{api, rows};",
    ),
    (
        "crates/cistern/src/platform/accounts/rows/tokens.rs",
        "use crate::platform::accounts::{model, service};",
    ),
    (
        "crates/cistern/src/images/api.rs",
        "let row = rows::image_get(conn, id).await?;",
    ),
    (
        "crates/cistern/src/platform/accounts/cli/user.rs",
        "accounts::rows::user::user_get(conn, 1)",
    ),
    (
        "crates/cistern/src/images/cli/import.rs",
        "use super::super::pages;",
    ),
];

/// None of these is a violation.
const FINE: &[(&str, &str)] = &[
    (
        "crates/cistern/src/images/rows.rs",
        "use sea_orm::{EntityTrait, QueryFilter};",
    ),
    ("crates/cistern/src/images/api.rs", "use axum::Json;"),
    (
        "crates/cistern/src/snapshots/service.rs",
        "use crate::images::service::image_get;",
    ),
    (
        "crates/cistern/src/images/service.rs",
        "// axum::Json is for api.rs",
    ),
    ("crates/cistern/src/images/model.rs", "let operand::Word = x;"),
    ("crates/cistern/src/images/api.rs", "use super::rows::Model;"),
    (
        "crates/cistern/src/images/service.rs",
        "use super::{model, rows};",
    ),
    (
        "crates/cistern/src/platform/accounts/service/tokens.rs",
        "use super::super::rows;",
    ),
    (
        "crates/cistern/src/images/uploads/service.rs",
        "use super::super::jobs::Payload;",
    ),
];

#[test]
fn each_rule_catches_a_planted_violation() {
    for (path, line) in PLANTED {
        assert!(violation(path, line).is_some(), "{path}: {line}");
    }
    for (path, line) in FINE {
        assert_eq!(violation(path, line), None, "{path}: {line}");
    }
}
