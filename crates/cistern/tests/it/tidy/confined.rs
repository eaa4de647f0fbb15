//! What may occur in some places only: SQL, HTTP, processes, the clock, randomness, the environment, I/O.

use super::scanner::{How, What};

/// A thing that may occur in some places only.
pub struct Confined {
    pub why: &'static str,
    /// Only below this path; everywhere where it is empty.
    pub within: &'static str,
    /// Files of these roles may.
    pub roles: &'static [&'static str],
    /// So may what begins with one of these.
    pub places: &'static [&'static str],
    pub is: fn(&What) -> bool,
}

pub const CONFINED: [Confined; 14] = [
    Confined {
        why: "SQL lives in rows.rs",
        within: "",
        roles: &["rows", "migration"],
        places: &[],
        is: is_sql,
    },
    Confined {
        why: "only rows.rs and platform/db speak to the database's library",
        within: "",
        roles: &["rows", "migration"],
        places: &["crates/cistern/src/platform/db/"],
        is: is_database,
    },
    Confined {
        why: "only api, pages, registry/oci and serve speak HTTP",
        within: "",
        roles: &["api", "pages", "web", "routes", "serve"],
        places: &[],
        is: |what| {
            root(what)
                .is_some_and(|root| ["axum", "utoipa_axum"].contains(&root) || root.starts_with("axum_"))
        },
    },
    Confined {
        why: "processes are started in platform/command.rs",
        within: "",
        roles: &[],
        places: &["crates/cistern/src/platform/command.rs"],
        is: is_process,
    },
    Confined {
        why: "the clock is read in one place",
        within: "",
        roles: &[],
        places: &[
            "crates/cistern/src/platform/clock.rs",
            "crates/store/src/world.rs",
        ],
        is: is_clock,
    },
    Confined {
        why: "the clock is read in one place, but for the age of a file",
        within: "",
        roles: &[],
        // When a file was written is the system's time, whatever ours is set to.
        places: &[
            "crates/cistern/src/images/uploads/spool.rs",
            "crates/store/src/backend/folder/temporary.rs",
        ],
        is: |what| matches!(what, What::Age),
    },
    Confined {
        why: "randomness is drawn in one place",
        within: "",
        roles: &[],
        places: &[
            "crates/cistern/src/platform/random.rs",
            "crates/store/src/world.rs",
        ],
        is: is_random,
    },
    Confined {
        why: "the environment is read in config",
        within: "",
        roles: &[],
        places: &["crates/cistern/src/config/"],
        is: is_environment,
    },
    Confined {
        why: "the environment is read in config: clap reads none",
        within: "",
        roles: &[],
        // What command.rs starts gets an environment.
        places: &[
            "crates/cistern/src/config/",
            "crates/cistern/src/platform/command.rs",
        ],
        is: |what| matches!(what, What::Method(name) if name == "env"),
    },
    Confined {
        why: "a module's file stands where its name says",
        within: "",
        roles: &[],
        places: &[],
        is: |what| matches!(what, What::Elsewhere),
    },
    Confined {
        why: "libc is there for its constants: its functions go around the rules",
        within: "",
        roles: &[],
        places: &[],
        is: is_libc_call,
    },
    Confined {
        why: "the disk crate does no I/O of its own",
        within: "crates/disk/",
        roles: &[],
        places: &[],
        is: is_io,
    },
    Confined {
        why: "the disk crate is without unsafe",
        within: "crates/disk/",
        roles: &[],
        places: &[],
        is: |what| matches!(what, What::Unsafe),
    },
    Confined {
        why: "the engines know no HTTP and no product",
        within: "crates/",
        roles: &[],
        places: &["crates/cistern/"],
        is: |what| {
            let above = [
                "reqwest",
                "hyper",
                "hyper_util",
                "http",
                "tower",
                "tower_http",
                "utoipa",
                "cistern",
            ];
            root(what).is_some_and(|root| above.contains(&root) || root.starts_with("axum"))
        },
    },
];

fn path(what: &What) -> Option<&[String]> {
    match what {
        What::Path(path, _) => Some(path),
        _ => None,
    }
}

fn root(what: &What) -> Option<&str> {
    path(what).map(|path| path[0].as_str())
}

fn starts(what: &What, with: &[&str]) -> bool {
    path(what).is_some_and(|path| path.len() >= with.len() && path.iter().zip(with).all(|(a, b)| a == b))
}

/// Whether any part of a path is one of `words`.
fn names(what: &What, words: &[&str]) -> bool {
    path(what).is_some_and(|path| path.iter().any(|part| words.contains(&part.as_str())))
}

fn last(what: &What) -> &str {
    path(what).and_then(<[String]>::last).map_or("", String::as_str)
}

/// A module whose members are forbidden but for some.
fn is_other_than(what: &What, module: &[&str], allowed: &[&str]) -> bool {
    let next = path(what).and_then(|path| path.get(module.len()));
    starts(what, module) && next.is_some_and(|next| !allowed.contains(&next.as_str()))
}

fn is_sql(what: &What) -> bool {
    const METHODS: [&str; 10] = [
        "execute",
        "execute_raw",
        "execute_unprepared",
        "query_all",
        "query_all_raw",
        "query_one",
        "query_one_raw",
        "stream_raw",
        "query_scalar",
        "fetch_all",
    ];
    match what {
        What::Text(text) => is_statement(text),
        What::Method(name) => METHODS.contains(&name.as_str()),
        // What SeaORM's macros make of a table.
        What::Path(..) => names(
            what,
            &["Entity", "Column", "ActiveModel", "PrimaryKey", "Relation"],
        ),
        _ => false,
    }
}

/// Whether a text is SQL: a verb at its beginning, and the words that must follow it.
fn is_statement(text: &str) -> bool {
    let words: Vec<String> = text
        .to_lowercase()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let text = format!("{} ", words.join(" "));
    let has = |word: &str| text.contains(&format!(" {word}"));
    let Some((verb, rest)) = text.split_once(' ') else {
        return false;
    };
    let is_next = |words: &[&str]| words.iter().any(|word| rest.starts_with(&format!("{word} ")));
    match verb {
        "select" => {
            has("from ") || rest.starts_with(|c: char| c.is_ascii_digit() || c == '(') || rest.contains('(')
        }
        "with" => has("as (") || has("as materialized"),
        "update" => has("set "),
        "insert" | "replace" => is_next(&["into", "or"]),
        "delete" => is_next(&["from"]),
        "create" | "drop" | "alter" | "truncate" | "lock" => is_next(&[
            "table",
            "index",
            "unique",
            "schema",
            "view",
            "trigger",
            "temp",
            "temporary",
            "virtual",
        ]),
        "pragma" | "vacuum" | "savepoint" | "attach" | "explain" | "reindex" => words.len() > 1,
        "begin" => is_next(&["immediate", "exclusive", "deferred", "transaction"]),
        _ => false,
    }
}

/// Outside of `rows` only what hands a connection on, and what says how it went wrong.
fn is_database(what: &What) -> bool {
    const HANDED_ON: [&str; 4] = ["ConnectionTrait", "DatabaseConnection", "DbErr", "SqlErr"];
    const OTHERS: [&str; 7] = [
        "sqlx",
        "sqlx_core",
        "sea_query",
        "rusqlite",
        "libsqlite3_sys",
        "tokio_postgres",
        "postgres",
    ];
    let is_other = root(what).is_some_and(|root| OTHERS.contains(&root));
    is_other
        || is_other_than(what, &["sea_orm"], &HANDED_ON)
        || is_other_than(what, &["sea_orm_migration"], &["MigrationTrait", "MigratorTrait"])
}

fn is_process(what: &What) -> bool {
    const FINE: [&str; 6] = ["ChildStdout", "ExitCode", "exit", "id", "abort", "Termination"];
    const CALLS: [&str; 10] = [
        "posix_spawn",
        "posix_spawnp",
        "fork",
        "vfork",
        "execv",
        "execve",
        "execvp",
        "execveat",
        "CommandExt",
        "forkpty",
    ];
    is_other_than(what, &["std", "process"], &FINE)
        || starts(what, &["tokio", "process"])
        || starts(what, &["async_process"])
        || starts(what, &["rustix", "runtime"])
        || starts(what, &["nix"])
        || names(what, &CALLS)
        || path(what).is_some_and(|path| path.ends_with(&["process".to_owned(), "Command".to_owned()]))
        || starts(what, &["Command", "new"])
}

/// `Instant` measures how long something takes and tells no time.
fn is_clock(what: &What) -> bool {
    const CLOCKS: [&str; 4] = ["UNIX_EPOCH", "clock_gettime", "gettimeofday", "clock_settime"];
    const NOWS: [&str; 4] = ["now", "now_utc", "now_local", "today"];
    let Some(path) = path(what) else {
        return false;
    };
    let owner = path.len().checked_sub(2).map_or("", |at| path[at].as_str());
    // A function of ours that is called `now` asks our clock, or is found by what it does itself.
    let is_foreign = path[0] != "crate" || owner.starts_with(char::is_uppercase);
    let is_now = NOWS.contains(&last(what))
        && !owner.is_empty()
        && !["Instant", "Self"].contains(&owner)
        && is_foreign;
    is_now || names(what, &CLOCKS) || starts(what, &["rustix", "time"])
}

fn is_random(what: &What) -> bool {
    const WORDS: [&str; 20] = [
        "rand",
        "rand_core",
        "rand_chacha",
        "getrandom",
        "fastrand",
        "oorandom",
        "nanorand",
        "RandomState",
        "OsRng",
        "SysRng",
        "SystemRandom",
        "ThreadRng",
        "new_v1",
        "new_v4",
        "new_v6",
        "now_v1",
        "now_v6",
        "now_v7",
        "thread_rng",
        "arc4random",
    ];
    match what {
        What::Text(text) => ["/dev/urandom", "/dev/random", "/proc/sys/kernel/random/uuid"]
            .iter()
            .any(|device| text.starts_with(device)),
        _ => names(what, &WORDS),
    }
}

fn is_environment(what: &What) -> bool {
    const FINE: [&str; 6] = ["args", "args_os", "consts", "current_dir", "current_exe", "self"];
    const READERS: [&str; 8] = [
        "getenv",
        "secure_getenv",
        "setenv",
        "from_env",
        "try_from_env",
        "from_env_lossy",
        "from_default_env",
        "try_from_default_env",
    ];
    const READING: [&str; 3] = ["from_env", "from_env_lossy", "try_from_env"];
    match what {
        What::Environment => true,
        What::Text(text) => text.starts_with("/proc/self/environ"),
        What::Method(name) => READING.contains(&name.as_str()),
        What::Path(path, _) => {
            let is_std = is_other_than(what, &["std", "env"], &FINE);
            let is_unresolved = path[0] == "env" && path.len() > 1 && !FINE.contains(&path[1].as_str());
            is_std || is_unresolved || names(what, &READERS) || starts(what, &["figment", "providers", "Env"])
        }
        What::Age | What::Elsewhere | What::Unsafe => false,
    }
}

fn is_libc_call(what: &What) -> bool {
    let What::Path(path, how) = what else {
        return false;
    };
    let is_function = last(what).starts_with(|c: char| c.is_ascii_lowercase() || c == '*');
    path.len() > 1 && path[0] == "libc" && is_function && *how != How::Name
}

fn is_io(what: &What) -> bool {
    const STD: [&str; 6] = ["fs", "net", "process", "env", "os", "thread"];
    const OTHERS: [&str; 14] = [
        "async_std",
        "hyper",
        "libc",
        "memmap2",
        "mio",
        "nix",
        "opendal",
        "reqwest",
        "rustix",
        "sea_orm",
        "smol",
        "socket2",
        "tempfile",
        "tokio",
    ];
    root(what).is_some_and(|root| OTHERS.contains(&root))
        || STD.iter().any(|module| starts(what, &["std", module]))
        || ["stdin", "stdout", "stderr"]
            .iter()
            .any(|stream| starts(what, &["std", "io", stream]))
}
