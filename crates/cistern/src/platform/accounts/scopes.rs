//! Which scopes a new token may name: those that open something, and DigitalOcean's for products that are not built
//! yet, because its users' scripts ask for them; they open nothing here until then.
//!
//! What opens something is what the operations ask for, as the OpenAPI document says it: there is no second list.

use std::collections::BTreeSet;

use super::model::Scopes;
use super::need::{DIGITALOCEANS, Need, need};
use super::role::Role;
use crate::platform::error::{Error, Result};

/// What the API's operations ask for (`resource:verb`).
pub type Asked = BTreeSet<String>;

/// Refuses a scope that can open nothing, with those of its resource that do.
pub fn scopes_check(scopes: &Scopes, asked: &Asked) -> Result<()> {
    scopes
        .list()
        .iter()
        .try_for_each(|scope| scope_check(scope, asked))
}

fn scope_check(scope: &str, asked: &Asked) -> Result<()> {
    let (resource, verb) = scope.split_once(':').unwrap_or((scope, ""));
    if resource == "*" {
        return Ok(());
    }
    let of_resource = |one: &&String| one.split_once(':').is_some_and(|(r, _)| r == resource);
    let known: Vec<&String> = asked.iter().filter(of_resource).collect();
    if known.is_empty() {
        return unbuilt_check(scope, resource);
    }
    if verb == "*" || asked.contains(scope) {
        return Ok(());
    }
    let nearest = known
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, scope).total_cmp(&strsim::jaro_winkler(b, scope)));
    let names: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
    Err(Error::invalid(format!(
        "`{scope}` opens nothing: the scopes of {resource} are {} and {resource}:*; did you mean `{}`?",
        names.join(", "),
        nearest.map_or("", |name| name.as_str()),
    )))
}

/// Of a resource that no operation asks for.
fn unbuilt_check(scope: &str, resource: &str) -> Result<()> {
    if DIGITALOCEANS.contains(&resource) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "`{scope}` opens nothing: no operation asks for a scope of {resource}; docs/api.md says which scope opens what"
    )))
}

/// A sentence for each scope that opens nothing for a user with these rights. They are no refusal: a role may rise, and
/// a token never does more than its user's present role allows.
pub fn scopes_idle(scopes: &Scopes, role: Role, is_operator: bool) -> Vec<String> {
    let idle = |scope: &String| {
        let (resource, verb) = scope.split_once(':')?;
        if resource == "*" {
            return None;
        }
        // Whoever may do anything with a resource may read it.
        let need = need(&if verb == "*" {
            format!("{resource}:read")
        } else {
            scope.clone()
        });
        let lacks = match need {
            _ if need.is_met(role, is_operator) => return None,
            Need::Role(least) => format!("its user is {}, and this needs {}", role.as_str(), least.as_str()),
            Need::Operator => "its user is no operator".to_owned(),
            Need::Nobody => "nobody may do this".to_owned(),
        };
        Some(format!("The scope {scope} opens nothing for now: {lacks}."))
    };
    scopes.list().iter().filter_map(idle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        let asked = [
            "image:create",
            "image:delete",
            "image:read",
            "image:update",
            "job:read",
        ];
        asked.map(str::to_owned).into()
    }

    fn checked(text: &str) -> Result<(), String> {
        scopes_check(&Scopes::parse(text).expect("words"), &asked()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_opens_something_or_is_digitaloceans_is_taken() {
        for good in [
            "image:read",
            "image:*",
            "*:read",
            "*:*",
            "image:read,image:delete",
            "droplet:read",
            "registry:*",
            "kubernetes:access_cluster",
            "api:write",
        ] {
            assert_eq!(checked(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_opens_nothing_is_refused_with_what_does() {
        let image =
            "the scopes of image are image:create, image:delete, image:read, image:update and image:*";
        for (bad, sentence) in [
            ("image:write", image),
            ("image:read,image:admin", image),
            ("image:access_cluster", image),
            ("job:delete", "did you mean `job:read`?"),
            ("upload:create", "no operation asks for a scope of upload"),
            ("backup:*", "no operation asks for a scope of backup"),
        ] {
            let said = checked(bad).expect_err(bad);
            assert!(said.contains(sentence), "{bad}: {said}");
        }
    }

    #[test]
    fn what_a_role_never_allows_is_told() {
        let told =
            |role, is_operator, text| scopes_idle(&Scopes::parse(text).expect("words"), role, is_operator);
        assert_eq!(
            told(
                Role::Viewer,
                false,
                "image:delete,image:read,image:*,*:delete,token:create"
            ),
            ["The scope image:delete opens nothing for now: its user is viewer, and this needs member."]
        );
        assert_eq!(
            told(Role::Member, false, "member:update,image:delete,job:*"),
            [
                "The scope member:update opens nothing for now: its user is member, and this needs owner.",
                "The scope job:* opens nothing for now: its user is no operator."
            ]
        );
        assert!(told(Role::Owner, true, "member:update,job:read").is_empty());
        assert!(scopes_idle(&Scopes::all(), Role::Viewer, false).is_empty());
    }
}
