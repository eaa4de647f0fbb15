//! `cistern user`.

use serde_json::{Value, json};

use super::{open, page, prompt, shown, state, usage};
use crate::cli::table::table;
use crate::cli::{Context, LocalFlags, Outcome, block_on, output};
use crate::config::Config;
use crate::platform::accounts::service::{self, UserNew};
use crate::platform::accounts::{Role, rows};
use crate::platform::clock::wire;
use crate::platform::command::quoted;
use crate::platform::events::Who;

/// Makes, lists and changes the people of the installation.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a user and a member of a team
    #[command(after_help = "Example:\n  cistern user create ann@example.com --team Web --role owner")]
    Create(Create),
    /// List all users
    #[command(after_help = "Example:\n  cistern user list --json")]
    List(List),
    /// Set a user's password; their browsers are signed out
    #[command(after_help = "Examples:
  cistern user passwd ann@example.com
  printf %s \"$PASSWORD\" | cistern user passwd ann@example.com --password-stdin")]
    Passwd(Passwd),
    /// Let a user do nothing any more: tokens and sign-ins end at once
    #[command(after_help = "Example:\n  cistern user disable ann@example.com")]
    Disable(One),
    /// Let a disabled user in again
    #[command(after_help = "Example:\n  cistern user enable ann@example.com")]
    Enable(One),
    /// Print a link that signs a user in to the console once, within a day
    #[command(after_help = "Example:\n  cistern user link ann@example.com --team Web")]
    Link(Link),
}

#[derive(Debug, clap::Args)]
pub struct Create {
    #[command(flatten)]
    local: LocalFlags,
    /// For signing in
    email: String,
    /// For people [default: the e-mail address]
    #[arg(long)]
    name: Option<String>,
    /// The first team, by name [default: the first]
    #[arg(long)]
    team: Option<String>,
    /// owner, member or viewer
    #[arg(long, default_value = "member")]
    role: String,
    /// May also run the installation
    #[arg(long)]
    operator: bool,
}

#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    local: LocalFlags,
}

#[derive(Debug, clap::Args)]
pub struct Passwd {
    #[command(flatten)]
    local: LocalFlags,
    /// Whose
    email: String,
    /// Read it from standard input, its first line
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, clap::Args)]
pub struct One {
    #[command(flatten)]
    local: LocalFlags,
    /// Whom
    email: String,
}

#[derive(Debug, clap::Args)]
pub struct Link {
    #[command(flatten)]
    local: LocalFlags,
    /// Whom
    email: String,
    /// The team to act in, by name [default: their first]
    #[arg(long)]
    team: Option<String>,
}

/// Runs one.
pub fn run(command: Command, context: &Context) -> Outcome {
    block_on(async {
        match command {
            Command::Create(args) => create(args, context).await,
            Command::List(args) => list(args, context).await,
            Command::Passwd(args) => passwd(args, context).await,
            Command::Disable(args) => set_disabled(args, true, context).await,
            Command::Enable(args) => set_disabled(args, false, context).await,
            Command::Link(args) => link(args, context).await,
        }
    })
}

fn document(user: &rows::user::Model) -> Value {
    json!({
        "id": user.id, "uuid": user.uuid, "email": user.email, "name": user.name, "is_operator": user.is_operator,
        "has_password": user.password_hash.is_some(), "is_disabled": user.disabled_at.is_some(),
        "created_at": wire(user.created_at),
    })
}

async fn create(args: Create, context: &Context) -> Outcome {
    let role: Role = args.role.parse().map_err(|e| usage(&e))?;
    let app = open(&args.local, context).await?;
    let team = service::team_find(&app, args.team.as_deref()).await?;
    let new = UserNew {
        email: &args.email,
        name: args.name.as_deref(),
        team: (team.id, role),
        is_operator: args.operator,
    };
    let user = service::user_create_as(&app, &Who::default(), &new).await?;
    context.output.document(&json!({ "user": document(&user) }), || {
        format!(
            "{0} is a user now, {1} of {2}. Next: `cistern user link {3} {5}` lets them in to the console, `cistern token \
             create --user {3} --team {4} {5}` makes them a token.",
            user.email,
            role.as_str(),
            team.name,
            quoted(&user.email),
            quoted(&team.name),
            args.local.shown(&app.data)
        )
    });
    Ok(())
}

async fn list(args: List, context: &Context) -> Outcome {
    let app = open(&args.local, context).await?;
    let mut users = Vec::new();
    for number in 1.. {
        let listed = service::user_list(&app, page(number)).await?;
        let is_last = listed.rows.is_empty();
        users.extend(listed.rows);
        if is_last || users.len() as u64 >= listed.total {
            break;
        }
    }
    let documents: Vec<Value> = users.iter().map(document).collect();
    context.output.document(&json!({ "users": documents }), || {
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let rows = users.iter().map(|u| {
            [
                u.id.to_string(),
                u.email.clone(),
                u.name.clone(),
                yes(u.is_operator),
                yes(u.password_hash.is_some()),
                state(u.disabled_at).to_owned(),
                shown(u.created_at),
            ]
        });
        let header = ["ID>", "E-MAIL", "NAME", "OPERATOR", "PASSWORD", "STATE", "MADE"];
        table(header, rows)
    });
    Ok(())
}

async fn passwd(args: Passwd, context: &Context) -> Outcome {
    let app = open(&args.local, context).await?;
    let user = service::user_by_email(&app, &args.email).await?;
    let password = if args.password_stdin {
        prompt::from_stdin()?
    } else {
        prompt::from_terminal(&user.email)?
    };
    service::password_set(&app, &Who::default(), user.id, &password).await?;
    context.output.document(&json!({ "user": user.email }), || {
        format!(
            "The password of {} is set; their browsers are signed out.",
            user.email
        )
    });
    Ok(())
}

async fn set_disabled(args: One, is_disabled: bool, context: &Context) -> Outcome {
    let app = open(&args.local, context).await?;
    let user = service::user_by_email(&app, &args.email).await?;
    service::user_set_disabled(&app, &Who::default(), user.id, is_disabled).await?;
    let state = if is_disabled { "disabled" } else { "enabled" };
    context
        .output
        .document(&json!({ "user": user.email, "is_disabled": is_disabled }), || {
            format!("{} is {state}.", user.email)
        });
    Ok(())
}

async fn link(args: Link, context: &Context) -> Outcome {
    let app = open(&args.local, context).await?;
    let user = service::user_by_email(&app, &args.email).await?;
    let team = match &args.team {
        Some(name) => Some(service::team_find(&app, Some(name)).await?.id),
        None => None,
    };
    let link = service::link_create(&app, &Who::default(), user.id, team).await?;
    let scheme = if app.config.has_tls() { "https" } else { "http" };
    let base = app.config.external_url.api.as_ref().map_or_else(
        || format!("{scheme}://{}", app.config.listen_api),
        |url| url.as_str().trim_end_matches('/').to_owned(),
    );
    let usual = Config::default().listen_api;
    if app.config.external_url.api.is_none() && app.config.listen_api == usual {
        output::error(
            "note: the link names the default address; where the server listens elsewhere, give this command its --config",
        );
    }
    let url = format!("{}/sign-in/{}", app.config.console_url(&base), link.secret);
    context.output.document(
        &json!({ "url": url, "expires_at": wire(link.expires_at) }),
        || url.clone(),
    );
    Ok(())
}
