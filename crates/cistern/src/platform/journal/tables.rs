//! The one list of what becomes of every table when the database is lost.

/// A table whose rows are journaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The columns of its primary key, whole numbers or texts.
    pub key: &'static [&'static str],
    /// Columns whose change alone is not journaled: they are brought back as they were at the row's last real change.
    pub quiet: &'static [&'static str],
}

const fn table(name: &'static str, key: &'static [&'static str]) -> Table {
    let quiet = &[];
    Table { name, key, quiet }
}

/// What is journaled. What others refer to stands before them: rows are brought back in this order.
pub const JOURNALED: &[Table] = &[
    table("team", &["id"]),
    table("user_account", &["id"]),
    table("team_member", &["team_id", "user_id"]),
    Table {
        quiet: &["last_used_at"],
        ..table("api_token", &["id"])
    },
    table("ssh_key", &["id"]),
    table("tag", &["id"]),
    table("tag_link", &["id"]),
    table("project", &["id"]),
    table("project_resource", &["id"]),
    table("image", &["id"]),
    table("image_checksum", &["image_id", "format"]),
    table("action", &["id"]),
    table("store_root", &["store", "kind", "owner"]),
];

/// What is not journaled, and why nothing is lost by that.
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "for people, and for the test that compares it with the tables that there are"
    )
)]
pub const DERIVABLE: &[(&str, &str)] = &[
    ("seaql_migrations", "written by migrating"),
    ("journal_state", "begins anew: a new database is a new lineage"),
    ("journal_change", "what is noted in it is in the rows"),
    ("image_count", "counted again from `image`"),
    ("action_count", "counted again from `action`"),
    ("tag_count", "counted again from `tag_link`"),
    (
        "event",
        "a log that programs collect while it is written; to have it twice would make the journal many times as large. \
         Recovery writes an event that says from when on there are some",
    ),
    (
        "job",
        "what ran has lost its working files; the images that imports were to make say so",
    ),
    (
        "secrets_key",
        "which key outside the database its secrets are sealed with: the new one takes the key that it finds, or makes one",
    ),
    ("sign_in", "people sign in again"),
    ("upload", "its file was on the machine that is lost"),
    (
        "store_meta",
        "in the store's header; no session or pin remembers an epoch",
    ),
    ("store_object", "in the listing of the store"),
    ("store_chunk", "in the footers of the packs"),
    ("store_session", "its writer is gone"),
    ("store_session_pin", "its writer is gone"),
    ("store_session_root", "its writer is gone"),
    ("store_gc", "the next run begins anew"),
    ("store_orphan", "seen again by the next gc"),
    ("store_damage", "found again by the next scrub or verification"),
];

/// Where a journaled table stands in the order.
pub fn position(name: &str) -> Option<usize> {
    JOURNALED.iter().position(|table| table.name == name)
}
