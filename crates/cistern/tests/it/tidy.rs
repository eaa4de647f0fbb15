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

const CONFINED: [Confined; 7] = [
    Confined {
        words: &[
            "EntityTrait",
            "QueryFilter",
            "QuerySelect",
            "sea_query",
            "ActiveModel",
            "Statement::from",
            "Entity::find",
        ],
        places: &["rows.rs", "rows/", "platform/db/", "migration.rs", "migrations/"],
        why: "SQL lives in rows.rs",
    },
    Confined {
        words: &["axum::", "use axum"],
        places: &[
            "/api.rs",
            "/api/",
            "_api.rs",
            "pages.rs",
            "pages/",
            "registry/oci",
            "serve.rs",
            "serve/",
            "routes.rs",
        ],
        why: "only api, pages, registry/oci and serve speak HTTP",
    },
    Confined {
        words: &["process::Command"],
        places: &["platform/command.rs"],
        why: "processes are started in platform/command.rs",
    },
    Confined {
        words: &["Utc::now", "Local::now", "SystemTime::now"],
        places: &["platform/clock.rs", "store/src/world.rs"],
        why: "the clock is read in one place",
    },
    Confined {
        words: &["rand::", "new_v4", "now_v7"],
        places: &["platform/random.rs", "store/src/world.rs"],
        why: "randomness is drawn in one place",
    },
    Confined {
        words: &["env::var"],
        places: &["src/config/"],
        why: "the environment is read in config",
    },
    Confined {
        words: &["std::fs", "std::net", "tokio::", "sea_orm", "axum"],
        places: &["crates/cistern/", "crates/store/"],
        why: "the disk crate does no I/O of its own",
    },
];

/// What a file of one role must not import from its own product: the arrows point the other way.
const ROLES: [(&str, &[&str]); 4] = [
    ("model.rs", &["service", "rows", "api", "jobs", "pages", "cli"]),
    ("rows.rs", &["service", "api", "jobs", "pages", "cli"]),
    ("service.rs", &["api", "pages", "cli"]),
    ("jobs.rs", &["api", "pages", "cli"]),
];

/// Checks one line of one file; `path` is from the repository's root.
fn violation(path: &str, line: &str) -> Option<String> {
    let code = line.trim_start();
    if code.starts_with("//") {
        return None;
    }
    confined(path, code).or_else(|| direction(path, code))
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
    let (room, file) = inside.split_once('/')?;
    for product in PRODUCTS.iter().filter(|product| **product != room) {
        let Some(rest) = code.split(&format!("crate::{product}::")).nth(1) else {
            continue;
        };
        match room {
            "platform" => return Some(format!("platform knows no product, not even {product}")),
            "cli" | "serve" => {}
            _ if rest.starts_with("service") || rest.starts_with("model") => {}
            _ => return Some(format!("{room} reaches {product} only through its service")),
        }
    }
    let role = Path::new(file).file_name()?.to_str()?;
    // A room inside `platform` is a room of its own.
    let own = inside.rsplit_once('/')?.0.replace('/', "::");
    let (_, forbidden) = ROLES.iter().find(|(name, _)| *name == role)?;
    let imports = |target: &&&str| {
        code.contains(&format!("super::{target}::")) || code.contains(&format!("crate::{own}::{target}::"))
    };
    let target = forbidden.iter().find(imports)?;
    Some(format!("{role} must not know {target}"))
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
        for (n, line) in without_tests(&text).lines().enumerate() {
            if let Some(why) = violation(&path, line) {
                found.push(format!("{path}:{}: {why}: {}", n + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn each_rule_catches_a_planted_violation() {
    let planted = [
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
    ];
    for (path, line) in planted {
        assert!(violation(path, line).is_some(), "{path}: {line}");
    }
    let fine = [
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
    ];
    for (path, line) in fine {
        assert_eq!(violation(path, line), None, "{path}: {line}");
    }
}
