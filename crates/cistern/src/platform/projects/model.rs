//! What a project is, and how its things are named.

use crate::platform::error::{Error, Result};
use crate::platform::resources::{KINDS, Kind, Resource};

/// The purposes that DigitalOcean names; any other is kept as `Other: …`.
const PURPOSES: [&str; 9] = [
    "Just trying out DigitalOcean",
    "Class project / Educational purposes",
    "Website or blog",
    "Web Application",
    "Service or API",
    "Mobile Application",
    "Machine learning / AI / Data processing",
    "IoT",
    "Operational / Developer tooling",
];
const ENVIRONMENTS: [&str; 3] = ["Development", "Staging", "Production"];
/// The longest name, in characters.
const MAX_NAME: usize = 175;
/// The longest description and purpose, in characters.
const MAX_TEXT: usize = 255;
/// How many things one request may assign.
pub const MAX_RESOURCES: usize = 1000;

/// What can be set of a project; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Unique in the team.
    pub name: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// One of [`PURPOSES`] or `Other: …`.
    pub purpose: Option<String>,
    /// One of [`ENVIRONMENTS`]; an empty text takes it away.
    pub environment: Option<String>,
    /// True makes it the default in place of the present one.
    pub is_default: Option<bool>,
}

/// What a team's first default project is.
pub fn default_project() -> Change {
    Change {
        name: Some("Default".into()),
        description: Some("Default project".into()),
        purpose: Some(PURPOSES[0].into()),
        environment: Some(ENVIRONMENTS[0].into()),
        is_default: Some(true),
    }
}

/// Checks what was sent and brings it into the form that is kept.
pub fn change_check(change: Change) -> Result<Change> {
    if let Some(name) = &change.name {
        if name.trim().is_empty() || name.chars().any(char::is_control) {
            return Err(Error::invalid(
                "a project's name has 1 to 175 printable characters",
            ));
        }
        length_check("name", name, MAX_NAME)?;
    }
    length_check(
        "description",
        change.description.as_deref().unwrap_or_default(),
        MAX_TEXT,
    )?;
    let environment = change.environment.as_deref().map(environment_check).transpose()?;
    let purpose = change.purpose.as_deref().map(purpose_check).transpose()?;
    Ok(Change {
        purpose,
        environment,
        ..change
    })
}

fn length_check(what: &str, text: &str, max: usize) -> Result<()> {
    if text.chars().count() > max {
        return Err(Error::invalid(format!(
            "a project's {what} has {max} characters at most"
        )));
    }
    Ok(())
}

fn purpose_check(text: &str) -> Result<String> {
    if text.trim().is_empty() {
        return Err(Error::invalid(
            "a project needs a purpose, for example `Web Application`; any text will do",
        ));
    }
    length_check("purpose", text, MAX_TEXT)?;
    if let Some(known) = PURPOSES.iter().find(|known| known.eq_ignore_ascii_case(text)) {
        return Ok((*known).to_owned());
    }
    if text.starts_with("Other:") {
        return Ok(text.to_owned());
    }
    Ok(format!("Other: {text}"))
}

/// Terraform sends lower case; an empty text is no environment.
fn environment_check(text: &str) -> Result<String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    match ENVIRONMENTS.iter().find(|known| known.eq_ignore_ascii_case(text)) {
        Some(known) => Ok((*known).to_owned()),
        None => Err(Error::invalid(format!(
            "`{}` is not an environment; environments are {}",
            text.escape_debug(),
            ENVIRONMENTS.join(", ")
        ))),
    }
}

/// Reads `do:image:7`.
pub fn urn_parse(text: &str) -> Result<Resource> {
    let mut parts = text.splitn(3, ':');
    let (prefix, kind, id) = (parts.next(), parts.next(), parts.next());
    let kind = kind.and_then(Kind::find).filter(|kind| kind.in_projects);
    if let (Some("do"), Some(kind), Some(id)) = (prefix, kind, id)
        && !id.is_empty()
    {
        return Ok(Resource {
            kind,
            id: id.to_owned(),
        });
    }
    let kinds: Vec<&str> = KINDS
        .iter()
        .filter(|kind| kind.in_projects)
        .map(|kind| kind.name)
        .collect();
    Err(Error::invalid(format!(
        "`{}` is not a resource name; write `do:TYPE:ID`, where TYPE is one of {}",
        text.escape_debug(),
        kinds.join(", ")
    )))
}

/// Writes `do:image:7`.
pub fn urn(kind: &str, id: &str) -> String {
    format!("do:{kind}:{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_and_environments_are_kept_as_digitalocean_keeps_them() {
        let kept = |purpose: &str| {
            let change = Change {
                purpose: Some(purpose.into()),
                ..Change::default()
            };
            change_check(change).map(|c| c.purpose.unwrap_or_default()).ok()
        };
        assert_eq!(kept("IoT").as_deref(), Some("IoT"));
        assert_eq!(kept("web application").as_deref(), Some("Web Application"));
        assert_eq!(kept("my own").as_deref(), Some("Other: my own"));
        assert_eq!(kept("Other: my own").as_deref(), Some("Other: my own"));
        assert_eq!(kept(""), None);
        assert_eq!(kept(&"x".repeat(256)), None);
        assert_eq!(environment_check("staging").ok().as_deref(), Some("Staging"));
        assert_eq!(environment_check("").ok().as_deref(), Some(""));
        assert!(environment_check("Test").is_err());
    }

    #[test]
    fn names_are_bounded_in_characters() {
        let named = |name: &str| {
            change_check(Change {
                name: Some(name.into()),
                ..Change::default()
            })
            .is_ok()
        };
        assert!(named("web") && named(&"ö".repeat(175)));
        assert!(!named("") && !named("a\u{7}") && !named(&"x".repeat(176)));
    }

    #[test]
    fn resource_names_are_read() {
        let image = urn_parse("do:image:7").expect("ours");
        assert_eq!((image.kind.name, image.id.as_str()), ("image", "7"));
        let space = urn_parse("do:space:a:b").expect("an id may have colons");
        assert_eq!(urn(space.kind.name, &space.id), "do:space:a:b");
        for bad in [
            "",
            "do",
            "do:image",
            "do:image:",
            "aws:image:7",
            "do:snapshot:7",
            "do:volume_snapshot:7",
        ] {
            assert!(urn_parse(bad).is_err(), "{bad}");
        }
    }
}
