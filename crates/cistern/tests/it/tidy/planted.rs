//! Violations that must be found, each with words of the reason, and code that is none.

mod arrows;
mod occurrences;

const API: &str = "crates/cistern/src/images/api.rs";
const BENCH: &str = "crates/bench/src/main.rs";
const CLI: &str = "crates/cistern/src/images/cli/import.rs";
const DISK: &str = "crates/disk/src/raw.rs";
const JOBS: &str = "crates/cistern/src/images/jobs.rs";
const MODEL: &str = "crates/cistern/src/images/model.rs";
const NO_ROLE: &str = "crates/cistern/src/images/spool.rs";
const OTHER: &str = "crates/cistern/src/snapshots/service.rs";
const ROWS: &str = "crates/cistern/src/images/rows.rs";
const SERVICE: &str = "crates/cistern/src/images/service.rs";
const STORE: &str = "crates/store/src/session.rs";
const SUB: &str = "crates/cistern/src/images/uploads/service.rs";
const TAGS: &str = "crates/cistern/src/platform/tags/service.rs";

pub fn wrong() -> impl Iterator<Item = &'static (&'static str, &'static str, &'static str)> {
    occurrences::WRONG.iter().chain(arrows::WRONG)
}

/// None of these is a violation.
pub const FINE: &[(&str, &str)] = &[
    (
        ROWS,
        "use sea_orm::{EntityTrait, QueryFilter}; const Q: &str = \"SELECT 1\";",
    ),
    (
        "crates/cistern/src/images/uploads/migration.rs",
        "const Q: &str = \"ALTER TABLE image ADD x\";",
    ),
    (
        API,
        "use axum::Json; use super::rows::{Change, Model}; fn f(m: Model) { Change { x: 1 }; }",
    ),
    (API, "use super::rows; fn f() { let s = rows::DONE; }"),
    ("crates/cistern/src/images/download/api.rs", "use axum::Json;"),
    (
        "crates/cistern/src/platform/accounts/account_api.rs",
        "use axum::Json;",
    ),
    (
        "crates/cistern/src/registry/oci/mod.rs",
        "use axum::Json; use crate::platform::api::origin::Origin;",
    ),
    (
        OTHER,
        "use crate::images::service::image_get; use crate::images::model::Status;",
    ),
    (SERVICE, "// axum::Json is for api.rs"),
    (SERVICE, "/// SELECT is for rows.rs: `SELECT 1`.\nfn f() {}"),
    (
        SERVICE,
        "use super::{model, rows}; fn f() { rows::image_get(c, 1) }",
    ),
    (
        SERVICE,
        "use std::time::Instant; fn f() { Instant::now().elapsed() }",
    ),
    (SERVICE, "fn f(app: &App) { app.clock.now() }"),
    (SERVICE, "fn f() { std::env::current_exe() }"),
    (SERVICE, "fn f() { let v = env!(\"CARGO_PKG_VERSION\"); }"),
    (SERVICE, "const N: i32 = libc::SYS_getrandom;"),
    (
        SERVICE,
        "const T: [&str; 2] = [\"select an image\", \"Delete what nobody needs\"];",
    ),
    (SERVICE, "#[cfg(test)]\nmod tests { use axum::Json; }"),
    (
        SERVICE,
        "#[cfg(test)]\nfn f() { std::env::var(\"X\") }\n#[cfg(all(test, unix))]\nuse axum::Json;",
    ),
    (MODEL, "fn f() { let operand::Word = x; }"),
    (
        "crates/cistern/src/platform/accounts/service/tokens.rs",
        "use super::super::rows;",
    ),
    (SUB, "use super::super::jobs::Payload;"),
    (CLI, "enum Command { List } fn f() { Command::List }"),
    (BENCH, "fn f() { std::env::args(); std::process::exit(2) }"),
];
