//! `cistern completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

/// Flags of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cistern completions bash > /etc/bash_completion.d/cistern")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args) {
    clap_complete::generate(args.shell, &mut Cli::command(), "cistern", &mut std::io::stdout());
}
