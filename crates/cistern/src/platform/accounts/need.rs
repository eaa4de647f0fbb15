//! Who may do what: the least role for each resource that a scope can name.

use super::role::Role;

/// Who may work with a resource; everyone of a team may read what is the team's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Everyone, also viewers: it is their own.
    Own,
    /// Everyone reads, members and owners change.
    Team,
    /// Everyone reads, owners change.
    Owner,
    /// Of the installation: only operators touch it, whatever their role and token say.
    Operator,
}

/// DigitalOcean's names of resources, also of what is not built here yet.
pub const DIGITALOCEANS: &[&str] = &[
    "account",
    "actions",
    "addon",
    "api",
    "block_storage",
    "block_storage_action",
    "block_storage_snapshot",
    "database",
    "domain",
    "droplet",
    "firewall",
    "image",
    "kubernetes",
    "load_balancer",
    "project",
    "regions",
    "registry",
    "reserved_ip",
    "sizes",
    "snapshot",
    "spaces",
    "ssh_key",
    "tag",
    "vpc",
];

/// Every resource that a scope can name: DigitalOcean's names first, then ours. What is not listed here nobody may
/// touch, so that a new room has to decide.
const RESOURCES: [(Level, &[&str]); 5] = [
    (Level::Team, DIGITALOCEANS),
    (
        Level::Team,
        &[
            "1_click",
            "backup",
            "destination",
            "event",
            "schedule",
            "source",
            "upload",
        ],
    ),
    (Level::Own, &["token"]),
    (Level::Owner, &["member", "setting"]),
    (Level::Operator, &["gc", "job", "limit", "store", "team", "user"]),
];

/// Every resource that there is.
pub fn resources() -> impl Iterator<Item = &'static str> {
    RESOURCES.iter().flat_map(|(_, names)| *names).copied()
}

fn level(resource: &str) -> Option<Level> {
    let found = RESOURCES.iter().find(|(_, names)| names.contains(&resource));
    found.map(|(level, _)| *level)
}

/// Who may do something, whatever a token allows besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Who has at least this role in the team.
    Role(Role),
    /// Who runs the installation.
    Operator,
    /// Nobody: no room has decided about it.
    Nobody,
}

impl Need {
    /// Whether these rights are enough.
    pub fn is_met(self, role: Role, is_operator: bool) -> bool {
        match self {
            Self::Role(least) => role >= least,
            Self::Operator => is_operator,
            Self::Nobody => false,
        }
    }

    /// The sentence for somebody of this role for whom it is not enough.
    pub fn unmet(self, role: Role) -> String {
        match self {
            Self::Role(least) => format!(
                "This needs the role {}, and yours is {}; ask an owner of your team.",
                least.as_str(),
                role.as_str()
            ),
            Self::Operator => "This is for operators, who run the installation; ask one of them.".to_owned(),
            Self::Nobody => "Nobody may do this.".to_owned(),
        }
    }
}

/// Who may do `scope` (`resource:verb`).
pub fn need(scope: &str) -> Need {
    let (resource, verb) = scope.split_once(':').unwrap_or((scope, ""));
    match level(resource) {
        Some(Level::Own) => Need::Role(Role::Viewer),
        Some(Level::Team | Level::Owner) if verb == "read" => Need::Role(Role::Viewer),
        Some(Level::Team) => Need::Role(Role::Member),
        Some(Level::Owner) => Need::Role(Role::Owner),
        Some(Level::Operator) => Need::Operator,
        None => Need::Nobody,
    }
}
