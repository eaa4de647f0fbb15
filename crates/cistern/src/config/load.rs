//! Layers: defaults, file, environment, flags. What is unknown is refused with the nearest name that is known.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::settings::{Kind, SETTINGS, Setting, find};
use super::{Config, Env, check};

/// The file that is read where neither `--config` nor the data folder has one.
const SYSTEM_FILE: &str = "/etc/cistern/cistern.toml";

/// Variables with our prefix that are no settings of the server.
const OTHER_VARS: &[&str] = &[
    "CISTERN_URL",
    "CISTERN_TOKEN",
    "CISTERN_CA_FILE",
    "CISTERN_CONFIG",
];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// A TOML file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A flag, with its dashes.
    Flag(String),
}

/// A sentence about one wrong setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub String);

/// The settings, and where each that is not a default came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// By key.
    pub origins: BTreeMap<&'static str, Origin>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

/// One layer: values by key, with where they came from.
struct Layer {
    dict: Dict,
    name: String,
}

/// Reads the layers. `flags` are values by key as they were typed; `file` is the one given by `--config`.
/// All problems are told at once.
pub fn load(
    env: &Env,
    file: Option<&Path>,
    flags: &BTreeMap<&'static str, String>,
) -> Result<Loaded, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut origins = BTreeMap::new();
    let mut figment = Figment::from(Serialized::defaults(Config::default()));

    let path = choose_file(env, file, flags);
    if let Some(path) = &path {
        let dict = read_file(path, &mut problems);
        for (key, _) in leaves(&dict) {
            let Some(setting) = find(&key) else { continue };
            origins.insert(setting.key, Origin::File(path.clone()));
        }
        figment = figment.merge(Layer {
            dict,
            name: format!("`{}`", path.display()),
        });
    }
    let from_env = env_values(env, &mut problems);
    let from_flags = flags.iter().filter_map(|(key, text)| {
        let setting = find(key)?;
        Some((
            setting,
            Origin::Flag(format!("--{}", setting.flag()?)),
            text.clone(),
        ))
    });
    for (setting, origin, text) in from_env.into_iter().chain(from_flags) {
        match parsed(setting, &text) {
            Ok(value) => {
                let dict = nest(setting.key, value);
                figment = figment.merge(Layer {
                    dict,
                    name: origin.to_string(),
                });
                origins.insert(setting.key, origin);
            }
            Err(wanted) => problems.push(Problem(format!("{origin} must be {wanted}, not `{text}`"))),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let config: Config = figment
        .extract()
        .map_err(|e| e.into_iter().map(|e| wrong_value(&e)).collect::<Vec<_>>())?;
    let problems = check::check(&config);
    if problems.is_empty() {
        Ok(Loaded {
            config,
            origins,
            file: path,
        })
    } else {
        Err(problems)
    }
}

/// `--config`, else `CISTERN_CONFIG`, else the data folder's own, else the system's.
fn choose_file(env: &Env, file: Option<&Path>, flags: &BTreeMap<&'static str, String>) -> Option<PathBuf> {
    if let Some(path) = file
        .map(Path::to_owned)
        .or_else(|| env.get("CISTERN_CONFIG").map(PathBuf::from))
    {
        return Some(path);
    }
    let data = flags
        .get("data")
        .map(String::as_str)
        .or_else(|| env.get("CISTERN_DATA"));
    let data = data.map_or_else(|| Config::default().data, PathBuf::from);
    [data.join("cistern.toml"), PathBuf::from(SYSTEM_FILE)]
        .into_iter()
        .find(|p| p.is_file())
}

fn read_file(path: &Path, problems: &mut Vec<Problem>) -> Dict {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(Problem(format!(
                "cannot read the settings in `{}`: {error}",
                path.display()
            )));
            return Dict::new();
        }
    };
    let dict = match Toml::string(&text).data() {
        Ok(mut profiles) => profiles.remove(&Profile::Default).unwrap_or_default(),
        Err(error) => {
            problems.push(Problem(format!(
                "`{}` is not valid TOML: {error}",
                path.display()
            )));
            return Dict::new();
        }
    };
    for (key, _) in leaves(&dict) {
        if find(&key).is_none() {
            problems.push(unknown(&format!("`{key}` in `{}`", path.display()), &key, |s| {
                s.key.to_owned()
            }));
        }
    }
    dict
}

/// The environment's settings; the two AWS variables first, so that ours win over them.
fn env_values(env: &Env, problems: &mut Vec<Problem>) -> Vec<(&'static Setting, Origin, String)> {
    let mut out = Vec::new();
    for (name, key) in [
        ("AWS_ACCESS_KEY_ID", "objects_access_key"),
        ("AWS_SECRET_ACCESS_KEY", "objects_secret_key"),
    ] {
        if let (Some(text), Some(setting)) = (env.get(name), find(key)) {
            out.push((setting, Origin::Env(name.to_owned()), text.to_owned()));
        }
    }
    for (name, text) in env.iter().filter(|(name, _)| name.starts_with("CISTERN_")) {
        if OTHER_VARS.contains(&name) || name.starts_with("CISTERN_TEST_") {
            continue;
        }
        match SETTINGS.iter().find(|s| s.env() == name) {
            Some(setting) => out.push((setting, Origin::Env(name.to_owned()), text.to_owned())),
            None if is_service(name, text) => {}
            None => problems.push(unknown(
                &format!("the environment variable `{name}`"),
                name,
                Setting::env,
            )),
        }
    }
    out
}

/// Kubernetes gives every container where each service is; ours may well be called `cistern`.
fn is_service(name: &str, text: &str) -> bool {
    let is_address = text.starts_with("tcp://") || text.starts_with("udp://");
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && is_address)
        || (name.contains("_PORT_") && (name.contains("_TCP") || name.contains("_UDP")))
}

fn unknown(what: &str, name: &str, known: impl Fn(&Setting) -> String) -> Problem {
    // What all variables begin with is no likeness.
    let bare = |name: &str| name.trim_start_matches("CISTERN_").to_owned();
    let nearest = SETTINGS
        .iter()
        .map(|s| {
            (
                strsim::normalized_damerau_levenshtein(&bare(&known(s)), &bare(name)),
                known(s),
            )
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.6);
    let hint = match nearest {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None => "`cistern config list` shows all settings".to_owned(),
    };
    Problem(format!("{what} is not a setting; {hint}"))
}

/// What was typed, as a value of the setting's kind; else what it must be.
fn parsed(setting: &Setting, text: &str) -> Result<Value, &'static str> {
    match setting.kind {
        Kind::Text | Kind::Secret => Ok(Value::from(text)),
        Kind::Number => text
            .replace('_', "")
            .parse::<u64>()
            .map(Value::from)
            .map_err(|_| "a whole number"),
        Kind::Switch => match text {
            "true" | "1" | "yes" | "on" => Ok(Value::from(true)),
            "false" | "0" | "no" | "off" => Ok(Value::from(false)),
            _ => Err("`true` or `false`"),
        },
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|t| !t.is_empty());
            Ok(Value::from(items.map(Value::from).collect::<Vec<_>>()))
        }
    }
}

fn nest(key: &str, value: Value) -> Dict {
    match key.split_once('.') {
        None => Dict::from([(key.to_owned(), value)]),
        Some((section, rest)) => Dict::from([(section.to_owned(), Value::from(nest(rest, value)))]),
    }
}

/// Dotted keys of everything in `dict` that is not a section.
fn leaves(dict: &Dict) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    for (key, value) in dict {
        match value {
            Value::Dict(_, inner) if find(key).is_none() => {
                out.extend(
                    leaves(inner)
                        .into_iter()
                        .map(|(rest, v)| (format!("{key}.{rest}"), v)),
                );
            }
            other => out.push((key.clone(), other.clone())),
        }
    }
    out
}

/// Figment's complaint about a value, as a sentence that does not repeat a secret.
fn wrong_value(error: &figment::Error) -> Problem {
    let key = error.path.join(".");
    let place = error
        .metadata
        .as_ref()
        .map_or_else(String::new, |m| format!(" from {}", m.name));
    if find(&key).is_some_and(|s| s.kind == Kind::Secret) {
        return Problem(format!("`{key}`{place} must be a text"));
    }
    let reason = error.kind.to_string();
    // What the parsers of addresses say names no example.
    let example = match reason.as_str() {
        text if text == "invalid socket address syntax" || text.ends_with("expected socket address") => {
            "; write an address and a port, such as `127.0.0.1:8080`"
        }
        "invalid IP address syntax" => {
            "; write a network, such as `10.0.0.0/8`, or `10.0.0.5/32` for one address"
        }
        _ => "",
    };
    Problem(format!("`{key}`{place} is not acceptable: {reason}{example}"))
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "`{}`", path.display()),
            Self::Env(name) | Self::Flag(name) => write!(f, "`{name}`"),
        }
    }
}
