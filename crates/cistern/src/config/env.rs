//! The environment, read once.

use std::collections::BTreeMap;

use super::Secret;

/// The variables that Cistern looks at: `CISTERN_…` and the two AWS keys.
#[derive(Clone, Default)]
pub struct Env {
    vars: BTreeMap<String, String>,
}

impl Env {
    /// Reads the process's environment. Variables that are not Unicode are left out.
    pub fn read() -> Self {
        std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect()
    }

    /// One variable; an empty one counts as unset.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.vars
            .iter()
            .filter(|(_, v)| !v.is_empty())
            .map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// `CISTERN_URL`: the server that remote commands talk to.
    pub fn url(&self) -> Option<&str> {
        self.get("CISTERN_URL")
    }

    /// `CISTERN_TOKEN`: the token they use.
    pub fn token(&self) -> Option<Secret> {
        self.get("CISTERN_TOKEN").map(Secret::new)
    }

    /// `NO_COLOR` (no-color.org): no colour even on a terminal.
    pub fn no_color(&self) -> bool {
        self.get("NO_COLOR").is_some()
    }
}

impl FromIterator<(String, String)> for Env {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(vars: I) -> Self {
        let ours = |k: &str| {
            k.starts_with("CISTERN_")
                || matches!(k, "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" | "NO_COLOR")
        };
        Self {
            vars: vars.into_iter().filter(|(k, _)| ours(k)).collect(),
        }
    }
}
