//! `cistern completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Context};

/// Flags of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cistern completions bash > /etc/bash_completion.d/cistern")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args, context: &Context) {
    // Into memory first: clap_complete panics where its writer fails, as a pipe does whose reader has left.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cistern", &mut script);
    let script = String::from_utf8_lossy(&script);
    let document = serde_json::json!({ "shell": args.shell.to_string(), "script": script });
    context.output.document(&document, || script.to_string());
}
