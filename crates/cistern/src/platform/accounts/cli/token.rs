//! `cistern token`.

use chrono::TimeDelta;
use serde_json::json;

use super::{lifetime, open, page, shown, shown_or, usage};
use crate::cli::table::table;
use crate::cli::{Context, LocalFlags, Outcome, block_on, output};
use crate::platform::accounts::Scopes;
use crate::platform::accounts::service::{self, TokenSpec, TokenView};
use crate::platform::clock::wire;
use crate::platform::events::Who;

/// Makes, lists and revokes API tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make an API token; only its text is printed
    #[command(after_help = "Examples:
  export CISTERN_TOKEN=$(cistern token create --data /var/lib/cistern)
  cistern token create --name ci --scopes image:read,image:create --expires-in 90d")]
    Create(Create),
    /// List the tokens that are not revoked
    #[command(after_help = "Example:\n  cistern token list --team Web --json")]
    List(List),
    /// Revoke a token at once
    #[command(after_help = "Example:\n  cistern token revoke 7 --data /var/lib/cistern")]
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
pub struct Create {
    #[command(flatten)]
    local: LocalFlags,
    /// A name for people
    #[arg(long, default_value = "command line")]
    name: String,
    /// The team it acts in, by name [default: the first]
    #[arg(long)]
    team: Option<String>,
    /// The member it acts for, by e-mail address [default: the team's first owner]
    #[arg(long, value_name = "EMAIL")]
    user: Option<String>,
    /// What it may do, such as image:read,tag:* [default: everything its user may do]
    #[arg(long, value_name = "LIST")]
    scopes: Option<String>,
    /// When it ends, such as 12h or 30d [default: never]
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    expires_in: Option<TimeDelta>,
}

#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    local: LocalFlags,
    /// Only those of this team
    #[arg(long)]
    team: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Revoke {
    #[command(flatten)]
    local: LocalFlags,
    /// As `token list` shows it
    #[arg(value_parser = number)]
    id: i64,
}

/// Runs one.
pub fn run(command: Command, context: &Context) -> Outcome {
    block_on(async {
        match command {
            Command::Create(args) => create(args, context).await,
            Command::List(args) => list(args, context).await,
            Command::Revoke(args) => revoke(args, context).await,
        }
    })
}

async fn create(args: Create, context: &Context) -> Outcome {
    let scopes = args
        .scopes
        .as_deref()
        .map_or(Ok(Scopes::all()), service::scopes_parse)
        .map_err(|e| usage(&e))?;
    let app = open(&args.local, context).await?;
    let team = service::team_find(&app, args.team.as_deref()).await?;
    let user = match &args.user {
        Some(email) => service::user_by_email(&app, email).await?,
        None => service::team_owner(&app, &team).await?,
    };
    let expires_at = args.expires_in.map(|l| app.clock.now() + l);
    let spec = TokenSpec {
        team_id: team.id,
        user_id: user.id,
        name: &args.name,
        scopes,
        expires_at,
    };
    let made = service::token_create(&app, &Who::default(), &spec).await?;
    for warning in &made.warnings {
        output::error(&format!("warning: {warning}"));
    }
    let document = json!({ "token": {
        "id": made.id, "access_token": made.text, "name": args.name, "scopes": spec.scopes.list(),
        "team": team.name, "user": user.email, "expires_at": expires_at.map(wire),
    } });
    context.output.document(&document, || made.text.clone());
    Ok(())
}

async fn list(args: List, context: &Context) -> Outcome {
    let app = open(&args.local, context).await?;
    let team = match &args.team {
        Some(name) => Some(service::team_find(&app, Some(name)).await?.id),
        None => None,
    };
    let mut tokens: Vec<TokenView> = Vec::new();
    for number in 1.. {
        let listed = service::token_list_all(&app, team, page(number)).await?;
        let is_last = listed.rows.is_empty();
        tokens.extend(listed.rows);
        if is_last || tokens.len() as u64 >= listed.total {
            break;
        }
    }
    let document = json!({ "tokens": tokens.iter().map(|t| json!({
        "id": t.id, "name": t.name, "scopes": t.scopes.list(), "user": t.email, "team_id": t.team_id, "hint": t.hint,
        "created_at": wire(t.created_at), "expires_at": t.expires_at.map(wire),
        "last_used_at": t.last_used_at.map(wire),
    })).collect::<Vec<_>>() });
    context.output.document(&document, || {
        let rows = tokens.iter().map(|t| {
            let scopes = if t.scopes.is_all() {
                "everything".to_owned()
            } else {
                t.scopes.list().join(",")
            };
            [
                t.id.to_string(),
                t.name.clone(),
                t.email.clone(),
                t.team_id.to_string(),
                t.hint.clone(),
                scopes,
                shown(t.created_at),
                shown_or(t.expires_at, "never"),
                shown_or(t.last_used_at, "never"),
            ]
        });
        table(
            [
                "ID>",
                "NAME",
                "USER",
                "TEAM>",
                "ENDS WITH",
                "SCOPES",
                "MADE",
                "EXPIRES",
                "LAST USED",
            ],
            rows,
        )
    });
    Ok(())
}

async fn revoke(args: Revoke, context: &Context) -> Outcome {
    let app = open(&args.local, context).await?;
    service::token_revoke_local(&app, &Who::default(), args.id).await?;
    context.output.document(&json!({ "revoked": args.id }), || {
        format!("Token {} is revoked.", args.id)
    });
    Ok(())
}

fn number(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| "a token is named by its number; `cistern token list` shows it".to_owned())
}
