//! The `cistern` command. Nouns then verbs; `--json` prints one JSON document on stdout and nothing else there.
//!
//! Exit codes: 0 done, 1 refused or failed (the reason is the last line on stderr), 2 wrong usage. A room's commands
//! live in its `cli.rs` and are plugged in here by one line in [`Command`] and one in [`run`].

pub mod client;
mod completions;
mod config;
mod doctor;
mod flags;
pub mod output;
pub mod progress;
mod recover;
mod serve;
pub mod table;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::Env;
use crate::images::sandbox;
use crate::platform::accounts::cli as accounts;
use crate::platform::error::Error;
use crate::platform::{events, jobs};
pub use flags::{LocalFlags, PlaceFlags};
pub use output::Output;
pub use recover::missing_text;

const EXAMPLES: &str = "Examples:
  cistern serve                                   start with everything in ./cistern-data
  cistern image import disk.qcow2 --name web      bring in a disk
  cistern image list --json                       for scripts
  cistern doctor                                  see what is missing on this machine

Commands that talk to a server find it by --url and --token, or CISTERN_URL and CISTERN_TOKEN.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "cistern", version, about = "DigitalOcean's Containers & Images, self-hosted", after_help = EXAMPLES)]
pub struct Cli {
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::Args),
    /// Make the data folder and the database, and the first token
    Init(serve::InitArgs),
    /// Make a new database from the store, where it is lost or an older one
    Recover(recover::Args),
    /// Disk images: bring them in, look at them, take them out
    #[command(
        subcommand,
        after_help = "Examples:\n  cistern image import disk.qcow2 --name web\n  cistern image list"
    )]
    Image(crate::images::cli::Command),
    /// The store: figures, and the search for damage
    #[command(
        subcommand,
        after_help = "Examples:\n  cistern store stats\n  cistern store verify --read-data"
    )]
    Store(crate::platform::storage::cli::Command),
    /// The keys that open an encrypted store
    #[command(
        subcommand,
        after_help = "Examples:\n  cistern key list --data /var/lib/cistern\n  cistern key add --key-file new.key"
    )]
    Key(crate::platform::keys::cli::Command),
    /// Free what nothing needs
    Gc(crate::platform::storage::gc::cli::Args),
    /// Look at the settings
    #[command(
        subcommand,
        after_help = "Examples:\n  cistern config list\n  cistern config check --config cistern.toml"
    )]
    Config(config::Command),
    /// API tokens, on the server's machine
    #[command(
        subcommand,
        after_help = "Examples:\n  cistern token create --name ci --scopes image:read\n  cistern token list"
    )]
    Token(accounts::TokenCommand),
    /// People, on the server's machine
    #[command(
        subcommand,
        after_help = "Examples:\n  cistern user list\n  cistern user link owner@localhost"
    )]
    User(accounts::UserCommand),
    /// Teams, on the server's machine
    #[command(
        subcommand,
        after_help = "Examples:\n  cistern team create Web\n  cistern team member list --team Web"
    )]
    Team(accounts::TeamCommand),
    /// What happened: changes, sign-ins, refusals
    Events(events::cli::Args),
    /// Long work
    Jobs(jobs::cli::Args),
    /// Check this machine and installation
    Doctor(doctor::Args),
    /// Print a shell's completion script
    Completions(completions::Args),
}

/// What every command is given.
pub struct Context {
    /// Where results go.
    pub output: Output,
    /// The environment.
    pub env: Env,
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1: refused or failed. A sentence.
    Failed(String),
    /// Exit code 1: nobody answered, or the server cannot just now. A sentence.
    Absent(String),
    /// Exit code 1: the reasons have been printed.
    Told,
    /// Exit code 2: wrong usage. A sentence.
    Usage(String),
}

/// The result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

/// The executable's `main`.
pub fn main() -> ExitCode {
    // First of all: the sandbox's child must be what it was started as, without threads or settings.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|word| word == sandbox::SUBCOMMAND) {
        let args: Vec<String> = args.filter_map(|arg| arg.into_string().ok()).collect();
        return sandbox::child::main(&args);
    }
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let env = Env::read();
    let context = Context {
        output: Output::new(cli.json, env.no_color()),
        env,
    };
    let done = run(cli.command, &context).and_then(|()| output::written().map_err(Failure::Failed));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Failed(reason) | Failure::Absent(reason)) => {
            output::error(&reason);
            ExitCode::FAILURE
        }
        Err(Failure::Usage(reason)) => {
            output::error(&reason);
            ExitCode::from(2)
        }
    }
}

fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Serve(args) => serve::run(&args, context),
        Command::Init(args) => serve::init(&args, context),
        Command::Recover(args) => recover::run(&args, context),
        Command::Image(command) => crate::images::cli::run(command, context),
        Command::Store(command) => crate::platform::storage::cli::run(command, context),
        Command::Key(command) => crate::platform::keys::cli::run(command, context),
        Command::Gc(args) => crate::platform::storage::gc::cli::run(args, context),
        Command::Config(command) => config::run(command, context),
        Command::Token(command) => accounts::token_run(command, context),
        Command::User(command) => accounts::user_run(command, context),
        Command::Team(command) => accounts::team_run(command, context),
        Command::Events(args) => events::cli::run(&args, context),
        Command::Jobs(args) => jobs::cli::run(args, context),
        Command::Doctor(args) => doctor::run(&args, context),
        Command::Completions(args) => {
            completions::run(&args, context);
            Ok(())
        }
    }
}

/// How long a command that ends waits for files of a store that are being written.
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// Runs a command's asynchronous part on threads of its own.
pub fn block_on<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::Failed(format!("could not start threads: {e}")))?;
    let result = runtime.block_on(work);
    // A blocking read (of a terminal, say) must not keep the process.
    runtime.shutdown_background();
    // A file that is being written is to be named, or removed.
    store::folder::writes_settle(SETTLE_TIME);
    result
}

/// Help and version go to stdout and are no failure; clap's complaints go to stderr with code 2.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // Beside the user at this machine there is nobody from whom a cause must be kept.
        Self::Failed(key_flags_named(&error.chain()))
    }
}

/// A sentence of the store that names the settings of its key, with the flags of commands beside them.
pub fn key_flags_named(sentence: &str) -> String {
    sentence.replace(
        "set `key_file` or `key_command`",
        "set `key_file` (--key-file FILE) or `key_command` (--key-command COMMAND)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_missing_key_is_asked_for_by_setting_and_flag() {
        let error = Error::Precondition("no key is given: set `key_file` or `key_command` to one".into());
        let Failure::Failed(said) = Failure::from(error) else {
            panic!("a sentence");
        };
        for part in [
            "`key_file` (--key-file FILE)",
            "`key_command` (--key-command COMMAND)",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn every_command_says_what_it_is() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands() {
                assert!(sub.get_about().is_some(), "`{}` has no help", sub.get_name());
                let examples = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(
                    examples.contains("Example"),
                    "`{}` has no example",
                    sub.get_name()
                );
                check(sub);
            }
        }
        check(&Cli::command());
    }

    /// The words of the first command of a line as a shell would give them, as far as examples need a shell.
    fn words(line: &str) -> Vec<String> {
        let line = line.split("  ").next().unwrap_or_default();
        let mut out = vec![String::new()];
        let mut is_quoted = false;
        for letter in line.chars() {
            match letter {
                '\'' | '"' => is_quoted = !is_quoted,
                '|' | '>' if !is_quoted => break,
                ' ' if !is_quoted => out.push(String::new()),
                other => out.last_mut().expect("begun above").push(other),
            }
        }
        out.retain(|word| !word.is_empty());
        out
    }

    #[test]
    fn every_example_can_be_typed_and_is_of_its_command() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                let lines = || {
                    help.lines()
                        .map(str::trim)
                        .filter(|line| line.starts_with("cistern "))
                };
                for line in lines() {
                    if let Err(error) = Cli::command().try_get_matches_from(words(line)) {
                        panic!("`{line}`: {error}");
                    }
                }
                assert!(
                    lines().any(|line| line.starts_with(&path)),
                    "`{path}` has no example of itself"
                );
                check(sub, &path);
            }
        }
        check(&Cli::command(), "cistern");
    }
}
