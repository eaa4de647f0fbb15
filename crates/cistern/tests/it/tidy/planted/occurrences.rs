//! SQL, HTTP, processes, the clock, randomness, the environment and I/O where they must not be.

use super::{API, BENCH, DISK, JOBS, MODEL, ROWS, SERVICE, STORE, TAGS};

const SQL: &str = "SQL lives in rows.rs";
const DATABASE: &str = "only rows.rs and platform/db speak to the database's library";
const HTTP: &str = "only api, pages, registry/oci and serve speak HTTP";
const PROCESS: &str = "processes are started in platform/command.rs";
const CLOCK: &str = "the clock is read in one place";
const RANDOM: &str = "randomness is drawn in one place";
const ENVIRONMENT: &str = "the environment is read in config";
const LIBC: &str = "libc is there for its constants";
const IO: &str = "the disk crate does no I/O of its own";
const ENGINES: &str = "the engines know no HTTP and no product";
const ELSEWHERE: &str = "a module's file stands where its name says";

/// A file, what is planted in it, and why that is wrong.
pub const WRONG: &[(&str, &str, &str)] = &[
    // SQL.
    (SERVICE, "use sea_orm::{EntityTrait, QueryFilter};", DATABASE),
    (SERVICE, "fn f() { image::Entity::find().all(conn) }", SQL),
    (SERVICE, "fn f() { c.run(\"UPDATE image SET status = 1\") }", SQL),
    (SERVICE, "use sea_orm::prelude::*;", DATABASE),
    (
        SERVICE,
        "fn f() { super::rows::image::Entity::delete_by_id(1).exec(c) }",
        SQL,
    ),
    (
        SERVICE,
        "use crate::images::rows::Entity as Image; fn f() { Image::find().all(c) }",
        SQL,
    ),
    (SERVICE, "fn f() { c.run(\"select * from image\") }", SQL),
    (SERVICE, "fn f() { c.run(\"PRAGMA foo\") }", SQL),
    (SERVICE, "fn f() { sqlx::raw_sql(text).run(c) }", DATABASE),
    (SERVICE, "fn f() { c.run(\"DELETE\\nFROM image\") }", SQL),
    (
        SERVICE,
        "fn f() { c.run(\"WITH x AS (select 1) DELETE FROM image\") }",
        SQL,
    ),
    (
        SERVICE,
        "fn f() { let q = \"\n  SELECT *\n  FROM image\n\"; }",
        SQL,
    ),
    (SERVICE, "fn f() { let q = r#\"SELECT * FROM image\"#; }", SQL),
    (
        SERVICE,
        "fn f() { let q = format!(\"INSERT INTO {table} VALUES (1)\"); }",
        SQL,
    ),
    (SERVICE, "const Q: &[u8] = b\"CREATE TABLE image (id)\";", SQL),
    (
        SERVICE,
        "#[derive(sea_orm::DeriveEntityModel)] struct M;",
        DATABASE,
    ),
    (TAGS, "fn f() { conn.query_all_raw(statement) }", SQL),
    (
        TAGS,
        "fn f() { tokio::join!(conn.query_all_raw(statement)) }",
        SQL,
    ),
    (
        "crates/cistern/src/platform/db/mod.rs",
        "fn f() { conn.execute_unprepared(text) }",
        SQL,
    ),
    (
        "crates/cistern/src/serve/mod.rs",
        "fn f() { let sql = \"SELECT 1\"; }",
        SQL,
    ),
    (API, "use sea_orm::prelude::*;", DATABASE),
    (
        API,
        "fn f() { super::rows::image::Entity::find_by_id(1).one(c) }",
        SQL,
    ),
    (STORE, "use sea_orm::prelude::*;", DATABASE),
    (STORE, "fn f() { c.run(\"UPDATE chunk SET x=1\") }", SQL),
    (STORE, "fn f() { Entity::delete_by_id(1).exec(c) }", SQL),
    (SERVICE, "use sea_orm_migration::sea_orm::EntityTrait;", DATABASE),
    ("crates/bench/src/rows.rs", "const Q: &str = \"SELECT 1\";", SQL),
    // HTTP.
    (SERVICE, "use axum::Json;", HTTP),
    (SERVICE, "#[cfg(test)]\nmod tests;\n\nuse axum::Json;", HTTP),
    (SERVICE, "/* a */ use axum::Json;", HTTP),
    (SERVICE, "use axum_extra::extract::CookieJar;", HTTP),
    (SERVICE, "extern crate axum as web; use web::Json;", HTTP),
    (
        SERVICE,
        "use crate::platform::api::extract::Body;",
        "service must not know web",
    ),
    (
        "crates/cistern/src/platform/jobs/engine.rs",
        "fn f() { let r: axum::Router = x; }",
        HTTP,
    ),
    (
        "crates/cistern/src/config/api/mod.rs",
        "pub use axum::Json as J;",
        HTTP,
    ),
    (
        "crates/cistern/src/cli/api/mod.rs",
        "pub use axum::Json as J;",
        HTTP,
    ),
    (API, "pub use axum::Json as J;", HTTP),
    (
        "crates/cistern/src/platform/api/list.rs",
        "pub use axum::Json as J;",
        HTTP,
    ),
    (ROWS, "pub use sea_orm::EntityTrait;", DATABASE),
    (
        "crates/cistern/src/platform/command.rs",
        "pub use std::process::Command;",
        PROCESS,
    ),
    (BENCH, "use axum::Json;", HTTP),
    ("crates/cistern/src/images/some_tests.rs", "use axum::Json;", HTTP),
    // Processes.
    (SERVICE, "fn f() { std::process::Command::new(\"ls\") }", PROCESS),
    (SERVICE, "use std::process::{Command as C};", PROCESS),
    (SERVICE, "use std::process::*;", PROCESS),
    (
        SERVICE,
        "use std::process as p; fn f() { p::Command::new(\"ls\") }",
        PROCESS,
    ),
    (
        SERVICE,
        "use tokio::process; fn f() { process::\n Command::\nnew(\"ls\") }",
        PROCESS,
    ),
    (SERVICE, "fn f() { nix::unistd::fork() }", PROCESS),
    (SERVICE, "fn f() { rustix::runtime::execve(a, b, c) }", PROCESS),
    (SERVICE, "fn f() { libc::vfork() }", PROCESS),
    (SERVICE, "fn f() { libc::execvp(a, b) }", PROCESS),
    (SERVICE, "fn f() { libc::system(a) }", LIBC),
    (SERVICE, "use libc::{c_char, system as s};", LIBC),
    (SERVICE, "use std::os::unix::process::CommandExt;", PROCESS),
    (
        SERVICE,
        "#[cfg(test)]\nmod t { }\nfn real() { std::process::Command::new(\"ls\") }",
        PROCESS,
    ),
    (JOBS, "fn f() { Command::new(\"qemu-img\") }", PROCESS),
    (BENCH, "fn f() { std::process::Command::new(\"x\") }", PROCESS),
    // The clock.
    (SERVICE, "fn f() { std::time::SystemTime::now() }", CLOCK),
    (
        SERVICE,
        "use std::time::SystemTime as T; fn f() { T::now() }",
        CLOCK,
    ),
    (
        SERVICE,
        "type T = std::time::SystemTime; fn f() { T::now() }",
        CLOCK,
    ),
    (SERVICE, "fn f() { std::time::UNIX_EPOCH.elapsed() }", CLOCK),
    (SERVICE, "fn f() -> R { Ok(file.modified()?.elapsed()?) }", CLOCK),
    (SERVICE, "fn f() { chrono::Utc::now() }", CLOCK),
    (SERVICE, "fn f() { time.unwrap_or_else(chrono::Utc::now) }", CLOCK),
    (
        SERVICE,
        "struct A { #[serde(default = \"chrono::Utc::now\")] at: Time }",
        CLOCK,
    ),
    (SERVICE, "fn f() { jiff::Timestamp::now() }", CLOCK),
    (SERVICE, "fn f() { info!(at = %jiff::Zoned::now()) }", CLOCK),
    (SERVICE, "fn f() { time::OffsetDateTime::now_utc() }", CLOCK),
    (
        SERVICE,
        "fn f() { rustix::time::clock_gettime(ClockId::Realtime) }",
        CLOCK,
    ),
    (
        "crates/cistern/src/app.rs",
        "fn f() { std::time::SystemTime::now() }",
        CLOCK,
    ),
    // Randomness.
    (SERVICE, "fn f() { Uuid::new_v4() }", RANDOM),
    (SERVICE, "fn f() { fastrand::u64(..) }", RANDOM),
    (
        SERVICE,
        "fn f() { std::collections::hash_map::RandomState::new() }",
        RANDOM,
    ),
    (SERVICE, "fn f() { std::fs::read(\"/dev/urandom\") }", RANDOM),
    (SERVICE, "use getrandom as g; fn f() { g::fill(b) }", RANDOM),
    (SERVICE, "fn f() { libc::getrandom(p, 1, 0) }", RANDOM),
    (SERVICE, "fn f() { rustix::rand::getrandom(b, flags) }", RANDOM),
    (SERVICE, "fn f() { aws_lc_rs::rand::fill(b) }", RANDOM),
    (MODEL, "fn f() { let n: u8 = rand::random(); }", RANDOM),
    (STORE, "fn f() { uuid::Uuid::new_v4() }", RANDOM),
    // The environment.
    (SERVICE, "fn f() { std::env::var(\"HTTP_PROXY\") }", ENVIRONMENT),
    (SERVICE, "fn f() { std::r#env::var(\"HTTP_PROXY\") }", ENVIRONMENT),
    (
        SERVICE,
        "use std::{self as s}; fn f() { s::env::var(\"X\") }",
        ENVIRONMENT,
    ),
    (SERVICE, "fn f() { keys.map(::std::env::var) }", ENVIRONMENT),
    (
        SERVICE,
        "fn f() { select! { _ = x => { use std::env::var as v; v(\"X\") } } }",
        ENVIRONMENT,
    ),
    (SERVICE, "use std::env::{var, vars};", ENVIRONMENT),
    (SERVICE, "use std::env::*;", ENVIRONMENT),
    (
        SERVICE,
        "use std::env as e; fn f() { e::var_os(\"X\") }",
        ENVIRONMENT,
    ),
    (SERVICE, "fn f() { std::env::temp_dir() }", ENVIRONMENT),
    (SERVICE, "fn f() { std::env::home_dir() }", ENVIRONMENT),
    (SERVICE, "fn f() { std::env::remove_var(\"X\") }", ENVIRONMENT),
    (SERVICE, "fn f() { env!(\"HOME\") }", ENVIRONMENT),
    (
        SERVICE,
        "struct A { #[arg(long, env = \"SECRET_THING\")] a: String }",
        ENVIRONMENT,
    ),
    (
        SERVICE,
        "struct A { #[cfg_attr(unix, arg(env))] a: String }",
        ENVIRONMENT,
    ),
    (
        SERVICE,
        "fn f() { Arg::new(\"a\").env(\"SECRET_THING\") }",
        ENVIRONMENT,
    ),
    (SERVICE, "fn f() { EnvFilter::from_default_env() }", ENVIRONMENT),
    (BENCH, "fn f() { std::env::var(\"X\") }", ENVIRONMENT),
    // The engines.
    (DISK, "use std::fs::File;", IO),
    (DISK, "use std::{fs, net};", IO),
    (DISK, "fn f() { std::io::stdin() }", IO),
    (DISK, "fn f() { rustix::fs::open(\"x\") }", IO),
    (DISK, "fn f() { libc::open(p, 0) }", LIBC),
    (DISK, "const O: i32 = libc::O_RDONLY;", IO),
    (DISK, "use async_std::fs;", IO),
    (DISK, "use sea_orm::DbErr;", IO),
    (DISK, "fn f() { unsafe { *p } }", "without unsafe"),
    (DISK, "unsafe fn f() {}", "without unsafe"),
    (
        DISK,
        "macro_rules! m { () => { unsafe { *p } } }",
        "without unsafe",
    ),
    (STORE, "use reqwest::Client;", ENGINES),
    (STORE, "use cistern::images;", ENGINES),
    // Code that would not be read.
    (SERVICE, "#[path = \"../tests/x.rs\"] mod x;", ELSEWHERE),
    (SERVICE, "include!(\"x.in\");", ELSEWHERE),
];
