//! `cistern jobs`: on a server, or with `--data` straight in the database.

use serde_json::{Value, json};

use super::api::JobBody;
use super::service;
use crate::app::App;
use crate::cli::client::Remote;
use crate::cli::table::table;
use crate::cli::{Context, LocalFlags, Outcome, block_on, output};
use crate::platform::events::Who;

/// Flags of `jobs`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:
  cistern jobs
  cistern jobs list --all --json
  cistern jobs cancel 12 --data /var/lib/cistern",
    args_conflicts_with_subcommands = true
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

/// What to do; without, `list`.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List jobs that wait or run, newest first
    #[command(
        after_help = "Examples:\n  cistern jobs list\n  cistern jobs list --all --data /var/lib/cistern"
    )]
    List(List),
    /// Ask a job to stop
    #[command(after_help = "Example:\n  cistern jobs cancel 12")]
    Cancel(Cancel),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    local: LocalFlags,
    /// Also those that have ended
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
struct Cancel {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    local: LocalFlags,
    /// As `jobs list` shows it
    id: i64,
}

/// Runs one.
pub fn run(args: Args, context: &Context) -> Outcome {
    block_on(async {
        match args.command.unwrap_or(Command::List(args.list)) {
            Command::List(args) => list(args, context).await,
            Command::Cancel(args) => cancel(args, context).await,
        }
    })
}

async fn list(args: List, context: &Context) -> Outcome {
    let jobs: Vec<Value> = if args.local.is_local()? {
        let app = App::open_existing(args.local.config(context)?).await?;
        let rows = service::job_list(&app, !args.all, None).await?;
        rows.into_iter().map(|row| json!(JobBody::from(row))).collect()
    } else {
        let client = args.remote.client(context)?;
        let mut answer = client.get(&format!("/v2/jobs?all={}", args.all)).await?;
        serde_json::from_value(answer["jobs"].take()).unwrap_or_default()
    };
    context.output.document(&json!({ "jobs": jobs }), || text(&jobs));
    Ok(())
}

async fn cancel(args: Cancel, context: &Context) -> Outcome {
    let job: Value = if args.local.is_local()? {
        let app = App::open_existing(args.local.config(context)?).await?;
        json!(JobBody::from(
            service::job_cancel(&app, &Who::default(), args.id).await?
        ))
    } else {
        let client = args.remote.client(context)?;
        let mut answer = client
            .post(&format!("/v2/jobs/{}/cancel", args.id), &json!({}))
            .await?;
        answer["job"].take()
    };
    context.output.document(&json!({ "job": job }), || {
        format!(
            "Job {} is asked to stop; `cistern jobs` shows when it has.",
            args.id
        )
    });
    Ok(())
}

fn text(jobs: &[Value]) -> String {
    if jobs.is_empty() {
        return "No jobs wait or run; `--all` shows those that have ended.".to_owned();
    }
    let rows = jobs.iter().map(|job| {
        let word = |key: &str| match &job[key] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        [
            word("id"),
            word("kind"),
            word("about"),
            word("status"),
            format!("{}/{}", word("attempts"), word("max_attempts")),
            output::progress(&job["progress"]),
            word("created_at"),
            word("error"),
        ]
    });
    table(
        [
            "ID>", "KIND", "ABOUT", "STATUS", "ATTEMPT", "PROGRESS", "MADE", "ERROR",
        ],
        rows,
    )
}
