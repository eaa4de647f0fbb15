//! Flags made from the table of settings, for `serve` (all) and for local commands (where the data is).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use url::Url;

use super::{Context, Failure, Outcome};
use crate::config::settings::{Kind, SETTINGS, Setting};
use crate::config::{self, Config, Loaded};
use crate::platform::command::quoted;

/// Every setting as a flag, and `--config`.
#[derive(Clone, Debug, Default)]
pub struct ServerFlags(Given);

/// `--data`, `--config`, `--database`, `--objects`, and the keys to them: where an installation is. For commands that
/// work on it directly.
#[derive(Clone, Debug, Default)]
pub struct LocalFlags(Given);

/// The same without the flags that name a key, for commands whose own flags do.
#[derive(Clone, Debug, Default)]
pub struct PlaceFlags(Given);

#[derive(Clone, Debug, Default)]
struct Given {
    file: Option<PathBuf>,
    values: BTreeMap<&'static str, String>,
}

impl ServerFlags {
    /// The settings with these flags on top.
    pub fn load(&self, context: &Context) -> Outcome<Loaded> {
        self.0.load(context)
    }

    /// Those of these flags that a local command has too, as they are typed: see [`LocalFlags::shown`].
    pub fn shown_for_local(&self, data: &Path) -> String {
        self.0.shown_with(data, &|flag| Some(flag))
    }
}

impl LocalFlags {
    /// The settings with these flags on top.
    pub fn config(&self, context: &Context) -> Outcome<Config> {
        self.0.load(context).map(|loaded| loaded.config)
    }

    /// These flags as they are typed, for another command on this installation: `--data` always, which `data` is, the
    /// others where they were given. A password in an address is left out, as the word PASSWORD.
    pub fn shown(&self, data: &Path) -> String {
        self.0.shown_with(data, &|flag| Some(flag))
    }

    /// The same for `cistern key`, whose `--key-file` is the key to add: the one that opens the store has a flag of its
    /// own. A command has none, and has to be in the settings.
    pub fn shown_for_keys(&self, data: &Path) -> String {
        self.0.shown_with(data, &|flag| match flag {
            "key-file" => Some("unlock-key-file"),
            "key-command" => None,
            other => Some(other),
        })
    }

    /// Whether `--data` was given: where a command can be local or remote, that makes it local. Refuses the others of
    /// these flags without it: a server would be asked, which knows nothing of them.
    pub fn is_local(&self) -> Outcome<bool> {
        if self.0.values.contains_key("data") {
            return Ok(true);
        }
        let file = self.0.file.as_ref().map(|_| "config".to_owned());
        let mut given = local().filter(|setting| self.0.values.contains_key(setting.key));
        match file.or_else(|| given.find_map(Setting::flag)) {
            None => Ok(false),
            Some(flag) => Err(Failure::Usage(format!(
                "--{flag} is for work on the data folder of an installation: name that with --data, or leave --{flag} \
                 out, and a server is asked"
            ))),
        }
    }
}

impl PlaceFlags {
    /// The settings with these flags on top.
    pub fn config(&self, context: &Context) -> Outcome<Config> {
        self.0.load(context).map(|loaded| loaded.config)
    }
}

impl Given {
    fn load(&self, context: &Context) -> Outcome<Loaded> {
        config::load(&context.env, self.file.as_deref(), &self.values).map_err(|problems| {
            let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::Failed(text.join("\n"))
        })
    }

    fn shown_with(&self, data: &Path, name: &dyn Fn(&str) -> Option<&str>) -> String {
        let mut words = format!("--data {}", quoted(&data.display().to_string()));
        if let Some(file) = &self.file {
            let _ = write!(words, " --config {}", quoted(&file.display().to_string()));
        }
        for setting in local().filter(|setting| setting.key != "data") {
            let given = self.values.get(setting.key);
            let flag = setting.flag().unwrap_or_default();
            if let (Some(value), Some(flag)) = (given, name(&flag)) {
                let _ = write!(words, " --{flag} {}", quoted(&without_password(value)));
            }
        }
        words
    }

    fn update(&mut self, settings: impl Iterator<Item = &'static Setting>, matches: &ArgMatches) {
        if let Some(file) = matches.get_one::<PathBuf>("config") {
            self.file = Some(file.clone());
        }
        for setting in settings {
            if let Some(values) = matches.get_many::<String>(setting.key) {
                let values: Vec<&str> = values.map(String::as_str).collect();
                self.values.insert(setting.key, values.join(","));
            }
        }
    }
}

fn without_password(value: &str) -> String {
    let Ok(mut url) = Url::parse(value) else {
        return value.to_owned();
    };
    if url.password().is_none() || url.set_password(Some("PASSWORD")).is_err() {
        return value.to_owned();
    }
    url.to_string()
}

fn all() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|s| s.flag().is_some())
}

fn local() -> impl Iterator<Item = &'static Setting> {
    let keys = |s: &&Setting| matches!(s.key, "key_file" | "key_command");
    place().chain(SETTINGS.iter().filter(keys))
}

fn place() -> impl Iterator<Item = &'static Setting> {
    let places = |s: &&Setting| matches!(s.key, "data" | "database" | "objects" | "secrets_key_file");
    SETTINGS.iter().filter(places)
}

fn augment(command: Command, settings: impl Iterator<Item = &'static Setting>) -> Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("Read settings from this TOML file [default: cistern.toml in the data folder, or /etc/cistern/cistern.toml]");
    settings.fold(command.arg(file), |command, setting| command.arg(arg(setting)))
}

fn arg(setting: &'static Setting) -> Arg {
    let arg = Arg::new(setting.key)
        .long(setting.flag().unwrap_or_default())
        .help(help(setting));
    match setting.kind {
        Kind::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("true|false"),
        Kind::List => arg.action(ArgAction::Append).value_name("LIST"),
        Kind::Number => arg.value_name("N"),
        Kind::Text | Kind::Secret => arg.value_name(value_name(setting.key)),
    }
}

fn value_name(key: &str) -> &'static str {
    match key {
        "data" => "DIR",
        key if key.starts_with("listen") => "ADDR",
        key if key.starts_with("host") => "NAME",
        key if key.starts_with("tls") || key.ends_with("_file") => "FILE",
        key if key.ends_with("_command") => "COMMAND",
        "database" | "objects" => "URL",
        key if key.starts_with("external") => "URL",
        _ => "VALUE",
    }
}

fn help(setting: &Setting) -> String {
    let text = setting.text.replace('`', "");
    let text = text.trim_end_matches('.');
    match setting.default_text() {
        default if default.is_empty() || setting.kind == Kind::Switch => text.to_owned(),
        default => format!("{text} [default: {default}]"),
    }
}

/// The flags that `$settings` gives are `$name`'s.
macro_rules! flags_of {
    ($name:ident, $settings:ident) => {
        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                let mut flags = Self::default();
                flags.update_from_arg_matches(matches)?;
                Ok(flags)
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0.update($settings(), matches);
                Ok(())
            }
        }

        impl clap::Args for $name {
            fn augment_args(command: Command) -> Command {
                augment(command, $settings())
            }

            fn augment_args_for_update(command: Command) -> Command {
                Self::augment_args(command)
            }
        }
    };
}

flags_of!(ServerFlags, all);
flags_of!(LocalFlags, local);
flags_of!(PlaceFlags, place);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::command;

    fn read(words: &[&str]) -> LocalFlags {
        let command = <LocalFlags as clap::Args>::augment_args(Command::new("cistern"));
        let matches = command.try_get_matches_from(words).expect("can be typed");
        LocalFlags::from_arg_matches(&matches).expect("are read")
    }

    #[test]
    fn flags_that_are_shown_can_be_typed_again_and_mean_the_same() {
        let objects = "s3://images?endpoint=https://s3.example.com";
        let given = read(&[
            "cistern",
            "--objects",
            objects,
            "--key-command",
            "it's here",
            "--config",
            "c.toml",
            "--database",
            "postgres://c@db/c",
            "--secrets-key-file",
            "a b/secrets.key",
        ]);
        let shown = given.shown(Path::new("/srv/my data"));
        // A shell joins what is quoted with what follows, and takes the quotes away.
        let script = format!("printf '%s\\n' cistern {shown}");
        let printed = command::shell(&script).expect("a shell");
        let out = String::from_utf8(printed).expect("text");
        let again = read(&out.lines().collect::<Vec<_>>());
        assert_eq!(again.0.file, given.0.file);
        let mut wanted = given.0.values.clone();
        wanted.insert("data", "/srv/my data".into());
        assert_eq!(again.0.values, wanted, "{shown}");
    }

    #[test]
    fn the_key_that_opens_the_store_has_another_flag_where_keys_are_changed() {
        let given = read(&["cistern", "--key-file", "k", "--objects", "o"]);
        let shown = given.shown_for_keys(Path::new("d"));
        assert_eq!(shown, "--data d --objects o --unlock-key-file k");
    }

    #[test]
    fn a_password_is_not_shown() {
        let given = read(&["cistern", "--database", "postgres://c:geheim@db/c"]);
        let shown = given.shown(Path::new("d"));
        assert_eq!(shown, "--data d --database postgres://c:PASSWORD@db/c");
    }
}
