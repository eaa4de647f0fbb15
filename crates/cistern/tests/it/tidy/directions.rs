//! Who may know whom: ARCHITECTURE.md's arrows, on paths that the scanner resolved.

use super::scanner::{How, Path};

/// The six products and what uses them. They reach each other through `service` (and the types in `model`) only.
const PRODUCTS: [&str; 10] = [
    "images",
    "snapshots",
    "backups",
    "snapshooter",
    "marketplace",
    "registry",
    "droplets",
    "volumes",
    "kubernetes",
    "console",
];

/// What a file of one role must not know, in its own room or in another: the arrows point the other way. `web` is
/// `platform/api`, the room that speaks HTTP for all; `app`, `routes`, `serve` and `cli` are also what stands beside
/// the rooms. A file without a role (`-`) works for a service.
const ROLES: [(&str, &[&str]); 10] = [
    (
        "model",
        &[
            "service", "rows", "api", "jobs", "pages", "cli", "web", "app", "routes", "serve",
        ],
    ),
    (
        "rows",
        &[
            "service", "api", "jobs", "pages", "cli", "web", "app", "routes", "serve",
        ],
    ),
    (
        "migration",
        &[
            "service", "api", "jobs", "pages", "cli", "web", "app", "routes", "serve",
        ],
    ),
    ("service", &["api", "pages", "cli", "web", "routes", "serve"]),
    ("jobs", &["api", "pages", "cli", "web", "routes", "serve"]),
    ("-", &["api", "pages", "cli", "web", "routes", "serve"]),
    ("api", &["pages", "cli", "serve"]),
    ("web", &["api", "pages", "cli", "routes", "serve"]),
    ("pages", &["api", "cli", "routes", "serve"]),
    ("cli", &["api", "pages", "web", "routes", "serve"]),
];

/// Files of these roles ask a service: they may name a row's type, and call no function of `rows`.
const ASKERS: [&str; 4] = ["api", "pages", "cli", "jobs"];

/// What puts rooms together and may be forbidden to them.
const BESIDE: [&str; 4] = ["app", "cli", "routes", "serve"];

/// A place in the house.
struct Place<'a> {
    kind: Kind,
    /// `images`, `platform::tags`, `serve`.
    room: &'a [String],
    role: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Product,
    Platform,
    /// `app`, `routes`, `serve`, `cli`, `config`: what puts rooms together.
    Outside,
}

impl<'a> Place<'a> {
    /// `module` begins with `crate`.
    fn of(module: &'a [String]) -> Self {
        let inside = &module[1..];
        let kind = match inside.first() {
            Some(top) if PRODUCTS.contains(&top.as_str()) => Kind::Product,
            Some(top) if top == "platform" => Kind::Platform,
            _ => Kind::Outside,
        };
        // `platform/jobs` and `platform/api` are rooms, and `src/cli` is no role of a room.
        let depth = if kind == Kind::Platform { 2 } else { 1 };
        let (room, rest) = inside.split_at(depth.min(inside.len()));
        let name = room.last().map_or("", String::as_str);
        let role = match (kind, name) {
            (Kind::Outside, _) => BESIDE.iter().find(|beside| **beside == name).unwrap_or(&"-"),
            (Kind::Platform, "api") => "web",
            _ => role_of(rest),
        };
        Place { kind, room, role }
    }

    fn name(&self) -> String {
        self.room.join("::")
    }
}

/// The role of a file of the service, or the name of what stands beside the rooms.
pub fn role(module: &[String]) -> &str {
    Place::of(module).role
}

/// The role of a file or a folder in a room, however deep: a role that grew is a folder.
pub fn role_of<'a>(parts: &'a [String]) -> &'a str {
    let of = |part: &'a String| match part.as_str() {
        "account_api" | "oci" => Some("api"),
        "migrations" => Some("migration"),
        "web" => None,
        part => ROLES.iter().map(|(role, _)| *role).find(|role| *role == part),
    };
    parts.iter().find_map(of).unwrap_or("-")
}

/// Why a file at `module` may not name `path`.
pub fn direction(module: &[String], path: &Path, how: How) -> Option<String> {
    if path[0] != "crate" || path.len() < 2 {
        return foreign(module, path);
    }
    let (from, mut to) = (Place::of(module), Place::of(path));
    // What `api/mod.rs` imports, its own files reach as `super::rows`.
    if to.kind != Kind::Outside && path[..path.len() - 1].iter().any(|part| part == "rows") {
        to.role = "rows";
    }
    between(&from, &to)
        .or_else(|| arrow(&from, &to))
        .or_else(|| ask(&from, &to, path, how))
}

/// From room to room.
fn between(from: &Place, to: &Place) -> Option<String> {
    if from.room == to.room {
        return None;
    }
    let (from_name, to_name) = (from.name(), to.name());
    match (from.kind, to.kind) {
        _ if to.kind == Kind::Outside => None,
        (Kind::Platform, Kind::Product) => Some(format!("platform knows no product, not even {to_name}")),
        (Kind::Product, Kind::Product) if !["service", "model"].contains(&to.role) => {
            Some(format!("{from_name} reaches {to_name} only through its service"))
        }
        _ if to.role == "rows" => Some(format!("{to_name}'s rows are its own, not {from_name}'s")),
        _ => None,
    }
}

/// From role to role.
fn arrow(from: &Place, to: &Place) -> Option<String> {
    if from.kind == Kind::Outside {
        return None;
    }
    if from.role == "model" && to.room == ["platform", "db"] {
        return Some("a model is pure: it knows no platform::db".to_owned());
    }
    let (_, forbidden) = ROLES.iter().find(|(role, _)| *role == from.role)?;
    let is_forbidden = forbidden.contains(&to.role);
    is_forbidden.then(|| format!("{} must not know {}", from.role, to.role))
}

/// Who asks `rows`, and who makes its functions another's.
fn ask(from: &Place, to: &Place, path: &Path, how: How) -> Option<String> {
    let name = path.last()?;
    let is_module = *name == to.role;
    if how == How::Reexport && is_module {
        return Some("a role's file keeps its name and its place".to_owned());
    }
    if to.role != "rows" || from.role == "rows" || is_module {
        return None;
    }
    let is_function = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '*');
    let is_asker = ASKERS.contains(&from.role);
    match how {
        How::Value if is_function && is_asker => Some(format!("{} asks its service, not rows", from.role)),
        How::Import if name == "*" && is_asker => Some(format!("{} names what it takes of rows", from.role)),
        How::Reexport if is_function => Some("what rows can do is offered by no other file".to_owned()),
        _ => None,
    }
}

/// A model is pure: it knows neither the database nor the store nor the network.
fn foreign(module: &[String], path: &Path) -> Option<String> {
    let is_pure = Place::of(module).role == "model" && module.len() > 1;
    let second = path.get(1).map_or("", String::as_str);
    let is_world = match path[0].as_str() {
        "sea_orm" => second != "DbErr",
        // What the store tells is data.
        "store" => ["Store", "Session", "Reader", "backend", "migration", "rows"].contains(&second),
        root => ["opendal", "reqwest", "sqlx", "tokio"].contains(&root),
    };
    (is_pure && is_world).then(|| format!("a model is pure: it knows no {}", path[0]))
}
