//! Files that know what they must not know.

use super::{API, CLI, JOBS, MODEL, NO_ROLE, OTHER, ROWS, SERVICE, SUB, TAGS};

/// A file, what is planted in it, and why that is wrong.
pub const WRONG: &[(&str, &str, &str)] = &[
    // From room to room.
    (
        TAGS,
        "use crate::images::service::image_get;",
        "platform knows no product",
    ),
    (
        TAGS,
        "use crate::{app::App, images::rows};",
        "platform knows no product",
    ),
    (
        TAGS,
        "use super::super::super::images::service::image_get;",
        "platform knows no product",
    ),
    (
        OTHER,
        "use crate::images::rows::image_get;",
        "only through its service",
    ),
    (
        OTHER,
        "use crate::{app::App, images::{self, rows::image_get}};",
        "only through its service",
    ),
    (OTHER, "use crate::images;", "only through its service"),
    (
        OTHER,
        "use super::super::images::rows::image_get;",
        "only through its service",
    ),
    (
        OTHER,
        "use crate as c; fn f() { c::images::rows::image_get() }",
        "only through its service",
    ),
    (
        OTHER,
        "use crate::{self as root}; fn f() { root::images::rows::image_get() }",
        "only through its service",
    ),
    (
        OTHER,
        "use super::super::*; fn f() { images::rows::image_get() }",
        "only through its service",
    ),
    (
        OTHER,
        "use cistern::images::rows::image_get;",
        "only through its service",
    ),
    (
        OTHER,
        "fn f() { crate::images::service::x(crate::images::rows::y()) }",
        "only through its service",
    ),
    (
        "crates/cistern/src/console/pages/overview.rs",
        "use crate::images::rows;",
        "only through its service",
    ),
    (
        "crates/cistern/src/cli/table.rs",
        "fn f() { crate::images::rows::image_get(c, 1) }",
        "rows are its own",
    ),
    (
        "crates/cistern/src/serve/mod.rs",
        "fn f() { crate::images::rows::image_get(c, 1) }",
        "rows are its own",
    ),
    (
        "crates/cistern/src/app.rs",
        "fn f() { crate::images::rows::image_get(c, 1) }",
        "rows are its own",
    ),
    (
        TAGS,
        "use crate::platform::accounts::rows::user_get;",
        "rows are its own",
    ),
    (
        TAGS,
        "use crate::platform::accounts::api::X;",
        "service must not know api",
    ),
    (
        SERVICE,
        "fn f() { crate::platform::jobs::rows::job_cancel(c, 1) }",
        "rows are its own",
    ),
    // From role to role.
    (MODEL, "use super::rows::Model;", "model must not know rows"),
    (MODEL, "use sea_orm::DatabaseConnection;", "a model is pure"),
    (MODEL, "use sea_orm::ConnectionTrait;", "a model is pure"),
    (MODEL, "use store::Store;", "a model is pure"),
    (MODEL, "use crate::platform::db::Db;", "a model is pure"),
    (MODEL, "use crate::app::App;", "model must not know app"),
    (
        ROWS,
        "use super::service::image_get;",
        "rows must not know service",
    ),
    (
        "crates/cistern/src/platform/tags/rows.rs",
        "use crate::platform::tags::service::tags_of;",
        "rows must not know service",
    ),
    (
        "crates/cistern/src/platform/accounts/rows/tokens.rs",
        "use crate::platform::accounts::{model, service};",
        "rows must not know service",
    ),
    (SERVICE, "use super::api::ImageView;", "service must not know api"),
    (
        SERVICE,
        "use crate::images::api::ImageView;",
        "service must not know api",
    ),
    (SERVICE, "use crate::cli::output;", "service must not know cli"),
    (
        SUB,
        "use super::super::api::ImageView;",
        "service must not know api",
    ),
    (SUB, "use super::super::cli;", "service must not know cli"),
    (SUB, "use super::super::pages;", "service must not know pages"),
    (
        SUB,
        "use crate::images::api::ImageView;",
        "service must not know api",
    ),
    (
        "crates/cistern/src/platform/accounts/service/tokens.rs",
        "use super::super::api::TokenBody;",
        "service must not know api",
    ),
    (
        "crates/cistern/src/platform/accounts/service/mod.rs",
        "use super::{api, rows};",
        "service must not know api",
    ),
    (
        JOBS,
        "use crate::images::api::ImageView;",
        "jobs must not know api",
    ),
    (NO_ROLE, "use super::api::ImageView;", "- must not know api"),
    (
        NO_ROLE,
        "use crate::images::{cli::Y, pages::Y};",
        "- must not know cli",
    ),
    (CLI, "use super::super::pages;", "cli must not know pages"),
    (CLI, "use crate::images::api::ImageView;", "cli must not know api"),
    // Who asks rows.
    (
        API,
        "use super::rows; fn f() { rows::image_get(conn, id) }",
        "api asks its service",
    ),
    (
        API,
        "use super::rows::image_get; fn f() { image_get(c, 1) }",
        "api asks its service",
    ),
    (
        API,
        "use super::rows::image_get; fn f() { ids.map(image_get) }",
        "api asks its service",
    ),
    (
        API,
        "use super::rows::image_get; fn f() { tokio::join!(image_get(c, 1)) }",
        "api asks its service",
    ),
    (
        API,
        "use super::rows as r; fn f() { r::image_get(c, 1) }",
        "api asks its service",
    ),
    (
        "crates/cistern/src/images/api/list.rs",
        "use super::rows; fn f() { rows::image_get(c, 1) }",
        "api asks its service",
    ),
    (API, "use super::rows::*;", "api names what it takes"),
    (
        JOBS,
        "use super::rows; fn f() { rows::image_remove(c, 1) }",
        "jobs asks its service",
    ),
    (
        "crates/cistern/src/platform/accounts/cli/user.rs",
        "use super::super::rows; fn f() { rows::user::user_get(conn, 1) }",
        "cli asks its service",
    ),
    (
        "crates/cistern/src/images/mod.rs",
        "mod rows; pub use rows::image_get;",
        "offered by no other file",
    ),
    (
        "crates/cistern/src/images/mod.rs",
        "mod rows; pub use rows as r;",
        "keeps its name",
    ),
];
