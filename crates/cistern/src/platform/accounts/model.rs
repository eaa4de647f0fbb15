//! Roles, scopes and the caller of a request: the rules of who may do what.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::platform::error::{Error, Result};
use crate::platform::events::Who;

/// What a user may do in a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees everything of the team.
    Viewer,
    /// Works with everything, but not with the team itself.
    Member,
    /// Also manages members, their roles and everyone's tokens.
    Owner,
}

impl Role {
    /// Its name in the database, the API and the CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Owner => "owner",
        }
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "member" => Ok(Self::Member),
            "owner" => Ok(Self::Owner),
            other => Err(Error::invalid(format!(
                "`{other}` is not a role; roles are owner, member and viewer"
            ))),
        }
    }
}

/// Resources of the installation: only operators touch them, whatever their token says.
const OPERATOR_RESOURCES: [&str; 6] = ["store", "job", "gc", "limit", "user", "team"];
/// Resources of the team itself: only owners change them.
const OWNER_RESOURCES: [&str; 2] = ["member", "setting"];

/// What a token may do: a list of `resource:verb`, or everything its user may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(Vec<String>);

impl Scopes {
    /// No narrowing: whatever the user may do.
    pub fn all() -> Self {
        Self::default()
    }

    /// Checks a list such as `image:read,tag:*`.
    pub fn parse(text: &str) -> Result<Self> {
        let list: Vec<String> = text
            .split(',')
            .map(|s| s.trim().to_owned())
            .filter(|s| !s.is_empty())
            .collect();
        for scope in &list {
            let valid = scope.split_once(':').is_some_and(|(resource, verb)| {
                let word = |w: &str| {
                    !w.is_empty()
                        && w.bytes()
                            .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'*')
                };
                word(resource) && word(verb)
            });
            if !valid {
                return Err(Error::invalid(format!(
                    "`{scope}` is not a scope; write `resource:verb`, for example `image:read` or `image:*`"
                )));
            }
        }
        if list.is_empty() {
            return Err(Error::invalid(
                "an empty list of scopes allows nothing; leave it out to allow everything",
            ));
        }
        Ok(Self(list))
    }

    /// Whether `scope` is allowed by the list.
    pub fn allow(&self, scope: &str) -> bool {
        let matches = |granted: &String| {
            let (resource, verb) = scope.split_once(':').unwrap_or((scope, ""));
            granted
                .split_once(':')
                .is_some_and(|(r, v)| (r == "*" || r == resource) && (v == "*" || v == verb))
        };
        self.0.is_empty() || self.0.iter().any(matches)
    }

    /// As DigitalOcean's token info lists them.
    pub fn list(&self) -> &[String] {
        &self.0
    }
}

/// Who makes a request, with what they may do now.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The team in which they act.
    pub team_id: i64,
    /// The user.
    pub user_id: i64,
    /// The token they used; `None` for a console sign-in or a local command.
    pub token_id: Option<i64>,
    /// Their role in the team at this moment.
    pub role: Role,
    /// Whether they may run the installation.
    pub is_operator: bool,
    /// What the token narrows them to.
    pub scopes: Scopes,
    /// Where the request comes from.
    pub who: Who,
}

impl Caller {
    /// Refuses with [`Error::Forbidden`] unless the caller may do `scope` (`resource:verb`).
    pub fn require(&self, scope: &str) -> Result<()> {
        if self.may(scope) {
            Ok(())
        } else {
            Err(Error::Forbidden)
        }
    }

    /// Whether the caller may do `scope`.
    pub fn may(&self, scope: &str) -> bool {
        let (resource, verb) = scope.split_once(':').unwrap_or((scope, ""));
        let by_role = if OPERATOR_RESOURCES.contains(&resource) {
            self.is_operator
        } else if verb == "read" {
            true
        } else if OWNER_RESOURCES.contains(&resource) {
            self.role >= Role::Owner
        } else {
            self.role >= Role::Member
        };
        by_role && self.scopes.allow(scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(role: Role, is_operator: bool, scopes: &str) -> Caller {
        let scopes = if scopes.is_empty() {
            Scopes::all()
        } else {
            Scopes::parse(scopes).expect("valid")
        };
        Caller {
            team_id: 1,
            user_id: 1,
            token_id: None,
            role,
            is_operator,
            scopes,
            who: Who::default(),
        }
    }

    #[test]
    fn roles_bound_what_scopes_grant() {
        assert!(caller(Role::Viewer, false, "").may("image:read"));
        assert!(!caller(Role::Viewer, false, "image:*").may("image:create"));
        assert!(caller(Role::Member, false, "").may("image:create"));
        assert!(!caller(Role::Member, false, "").may("member:update"));
        assert!(caller(Role::Owner, false, "").may("member:update"));
        assert!(!caller(Role::Owner, false, "*:*").may("store:read"));
        assert!(caller(Role::Viewer, true, "").may("store:read"));
    }

    #[test]
    fn scopes_narrow() {
        let narrow = caller(Role::Owner, true, "image:read,tag:*");
        assert!(narrow.may("image:read") && narrow.may("tag:delete"));
        assert!(!narrow.may("image:create") && !narrow.may("store:read"));
    }

    #[test]
    fn bad_scopes_are_refused() {
        for bad in [
            "",
            "image",
            "image:",
            ":read",
            "Image:read",
            "image:read;tag:read",
        ] {
            assert!(Scopes::parse(bad).is_err(), "{bad:?}");
        }
    }
}
