//! Scopes and the caller of a request: the rules of who may do what.

use serde::{Deserialize, Serialize};

use super::need::{need, resources};
use super::role::Role;
use crate::platform::error::{Error, Result};
use crate::platform::events::Who;

/// The verbs that a scope can name.
const VERBS: [&str; 8] = [
    "read",
    "create",
    "update",
    "delete",
    "write",
    "access_cluster",
    "admin",
    "assign_resource",
];

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
            scope_check(scope)?;
        }
        if list.is_empty() {
            return Err(Error::invalid(
                "an empty list of scopes allows nothing; leave it out to allow everything",
            ));
        }
        Ok(Self(list))
    }

    /// Whether `scope` is allowed by the list. `project:update` grants `project:assign_resource`, as DigitalOcean
    /// has it.
    pub fn allow(&self, scope: &str) -> bool {
        if scope == "project:assign_resource" && self.allow("project:update") {
            return true;
        }
        let matches = |granted: &String| {
            let (resource, verb) = scope.split_once(':').unwrap_or((scope, ""));
            granted
                .split_once(':')
                .is_some_and(|(r, v)| (r == "*" || r == resource) && (v == "*" || v == verb))
        };
        self.0.is_empty() || self.0.iter().any(matches)
    }

    /// Whether everything that `other` allows is allowed here too.
    pub fn cover(&self, other: &Self) -> bool {
        // A star in `other` is matched only by a star here.
        self.is_all() || (!other.is_all() && other.0.iter().all(|scope| self.allow(scope)))
    }

    /// Whether nothing is narrowed.
    pub fn is_all(&self) -> bool {
        self.0.is_empty() || self.0.iter().any(|scope| scope == "*:*")
    }

    /// As DigitalOcean's token info lists them.
    pub fn list(&self) -> &[String] {
        &self.0
    }
}

/// Refuses what is not `resource:verb` with words that exist.
fn scope_check(scope: &str) -> Result<()> {
    let Some((resource, verb)) = scope.split_once(':') else {
        return Err(Error::invalid(format!(
            "`{scope}` is not a scope; write `resource:verb`, for example `image:read` or `image:*`"
        )));
    };
    if resource != "*" && resources().all(|name| name != resource) {
        let nearest = resources()
            .map(|name| (strsim::jaro_winkler(name, resource), name))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map_or("image", |(_, name)| name);
        return Err(Error::invalid(format!(
            "`{scope}` is not a scope: there is no resource `{resource}`; did you mean `{nearest}`?"
        )));
    }
    if verb != "*" && !VERBS.contains(&verb) {
        return Err(Error::invalid(format!(
            "`{scope}` is not a scope: there is no verb `{verb}`; {resource}:* is all of them, and docs/api.md lists each"
        )));
    }
    Ok(())
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
        self.require_all(&[scope])
    }

    /// Refuses with [`Error::Forbidden`] unless the caller may do each of `scopes`; the sentence says what is missing.
    ///
    /// The role comes first: where that does not reach, no other token helps.
    pub fn require_all<S: AsRef<str>>(&self, scopes: &[S]) -> Result<()> {
        let scopes = || scopes.iter().map(AsRef::as_ref);
        if let Some(need) = scopes()
            .map(need)
            .find(|need| !need.is_met(self.role, self.is_operator))
        {
            return Err(Error::forbidden(need.unmet(self.role)));
        }
        let missing: Vec<&str> = scopes().filter(|scope| !self.scopes.allow(scope)).collect();
        match missing[..] {
            [] => Ok(()),
            [one] => Err(Error::forbidden(format!(
                "The token lacks the scope {one}; use one that has it."
            ))),
            _ => Err(Error::forbidden(format!(
                "The token lacks the scopes {}; use one that has them.",
                missing.join(" and ")
            ))),
        }
    }

    /// Whether the caller may do `scope`.
    pub fn may(&self, scope: &str) -> bool {
        need(scope).is_met(self.role, self.is_operator) && self.scopes.allow(scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::accounts::need::Need;

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

    /// Each level with one of its resources: may a viewer, a member, an owner read it; change it; may an operator.
    #[test]
    fn the_matrix_of_roles_and_scopes_is_what_the_levels_say() {
        let table = [
            ("token", [true; 3], [true; 3]),
            ("image", [true; 3], [false, true, true]),
            ("event", [true; 3], [false, true, true]),
            ("member", [true; 3], [false, false, true]),
            ("setting", [true; 3], [false, false, true]),
            ("store", [false; 3], [false; 3]),
            ("user", [false; 3], [false; 3]),
            ("team", [false; 3], [false; 3]),
            ("job", [false; 3], [false; 3]),
            ("unheard_of", [false; 3], [false; 3]),
        ];
        let roles = [Role::Viewer, Role::Member, Role::Owner];
        for (resource, read, change) in table {
            for (i, role) in roles.into_iter().enumerate() {
                for (verb, wanted) in [
                    ("read", read[i]),
                    ("create", change[i]),
                    ("update", change[i]),
                    ("delete", change[i]),
                ] {
                    let scope = format!("{resource}:{verb}");
                    let by_operator = need(&scope) == Need::Operator;
                    // Nothing, everything, the resource, the scope itself, and three that do not grant it.
                    let grants = [
                        ("", true),
                        ("*:*", true),
                        (&*format!("*:{verb}"), true),
                        ("tag:*", false),
                        ("*:admin", false),
                        ("droplet:create,vpc:read", false),
                    ];
                    for (scopes, granted) in grants {
                        let at = format!("{scope} {role:?} {scopes:?}");
                        assert_eq!(caller(role, false, scopes).may(&scope), wanted && granted, "{at}");
                        assert_eq!(
                            caller(role, true, scopes).may(&scope),
                            (wanted || by_operator) && granted,
                            "operator {at}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn scopes_cover_only_what_they_allow() {
        let scopes = |text: &str| {
            if text.is_empty() {
                Scopes::all()
            } else {
                Scopes::parse(text).expect("valid")
            }
        };
        for (maker, made, covers) in [
            ("", "", true),
            ("", "image:read", true),
            ("image:*", "image:read,image:delete", true),
            ("image:*", "image:*", true),
            ("*:read", "image:read", true),
            ("project:update", "project:assign_resource", true),
            ("project:assign_resource", "project:update", false),
            ("*:*", "image:*", true),
            ("image:read", "image:*", false),
            ("image:read", "*:read", false),
            ("image:read", "image:read,tag:read", false),
            ("*:*", "", true),
        ] {
            assert_eq!(scopes(maker).cover(&scopes(made)), covers, "{maker:?} {made:?}");
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
    fn a_refusal_names_what_is_missing_and_the_role_first() {
        let said = |caller: &Caller, scopes: &[&str]| caller.require_all(scopes).map_err(|e| e.to_string());
        let start = "You do not have permission to perform this action. ";
        for (caller, scopes, missing) in [
            (
                caller(Role::Owner, false, "image:read"),
                &["image:create"][..],
                "The token lacks the scope image:create; use one that has it.",
            ),
            (
                caller(Role::Owner, false, "image:read"),
                &["sizes:read", "image:read", "regions:read"],
                "The token lacks the scopes sizes:read and regions:read; use one that has them.",
            ),
            (
                caller(Role::Viewer, false, "image:read"),
                &["sizes:read", "image:create"],
                "This needs the role member, and yours is viewer; ask an owner of your team.",
            ),
            (
                caller(Role::Member, true, ""),
                &["member:update"],
                "This needs the role owner, and yours is member; ask an owner of your team.",
            ),
            (
                caller(Role::Owner, false, "*:*"),
                &["job:read"],
                "This is for operators, who run the installation; ask one of them.",
            ),
        ] {
            assert_eq!(said(&caller, scopes), Err(format!("{start}{missing}")));
        }
        assert_eq!(
            said(&caller(Role::Owner, false, "image:read"), &["image:read"]),
            Ok(())
        );
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
            "images:read",
            "image:reed",
            "im*ge:read",
            "image:rea*",
            "image:read:x",
        ] {
            assert!(Scopes::parse(bad).is_err(), "{bad:?}");
        }
    }
}
