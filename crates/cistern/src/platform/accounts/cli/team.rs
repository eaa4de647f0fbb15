//! `cistern team`.

use serde_json::{Value, json};

use super::{open, page, shown, state, usage};
use crate::cli::table::table;
use crate::cli::{Context, LocalFlags, Outcome, block_on};
use crate::platform::accounts::Role;
use crate::platform::accounts::service::{self, MemberView};
use crate::platform::clock::wire;
use crate::platform::command::quoted;
use crate::platform::events::Who;

/// Makes teams and says who is in them.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a team
    #[command(after_help = "Example:\n  cistern team create Web --owner ann@example.com")]
    Create(Create),
    /// List all teams
    #[command(after_help = "Example:\n  cistern team list --json")]
    List(List),
    /// Say who is in a team
    #[command(subcommand, after_help = "Example:\n  cistern team member list --team Web")]
    Member(Member),
}

/// Says who is in a team.
#[derive(Debug, clap::Subcommand)]
pub enum Member {
    /// List a team's members
    #[command(after_help = "Example:\n  cistern team member list --team Web")]
    List(MemberList),
    /// Make a user a member
    #[command(after_help = "Example:\n  cistern team member add ann@example.com --team Web --role owner")]
    Add(MemberRole),
    /// Give a member another role
    #[command(
        after_help = "Example:\n  cistern team member set-role ann@example.com --team Web --role viewer"
    )]
    SetRole(MemberRole),
    /// Remove a member; their tokens of this team end
    #[command(after_help = "Example:\n  cistern team member remove ann@example.com --team Web")]
    Remove(MemberOne),
}

#[derive(Debug, clap::Args)]
pub struct Create {
    #[command(flatten)]
    local: LocalFlags,
    /// For people; unique
    name: String,
    /// Its first owner, by e-mail address [default: the installation's first operator]
    #[arg(long, value_name = "EMAIL")]
    owner: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    local: LocalFlags,
}

#[derive(Debug, clap::Args)]
pub struct MemberList {
    #[command(flatten)]
    local: LocalFlags,
    /// By name [default: the first]
    #[arg(long)]
    team: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct MemberOne {
    #[command(flatten)]
    local: LocalFlags,
    /// Whom
    email: String,
    /// By name [default: the first]
    #[arg(long)]
    team: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct MemberRole {
    #[command(flatten)]
    one: MemberOne,
    /// owner, member or viewer
    #[arg(long)]
    role: String,
}

/// Runs one.
pub fn run(command: Command, context: &Context) -> Outcome {
    block_on(async {
        match command {
            Command::Create(args) => create(args, context).await,
            Command::List(args) => list(args, context).await,
            Command::Member(Member::List(args)) => member_list(args, context).await,
            Command::Member(Member::Add(args)) => member_role(args, true, context).await,
            Command::Member(Member::SetRole(args)) => member_role(args, false, context).await,
            Command::Member(Member::Remove(args)) => member_remove(args, context).await,
        }
    })
}

async fn create(args: Create, context: &Context) -> Outcome {
    let app = open(&args.local, context).await?;
    let owner = match &args.owner {
        Some(email) => service::user_by_email(&app, email).await?,
        None => service::operator_first(&app).await?,
    };
    let team = service::team_create(&app, &Who::default(), &args.name, owner.id).await?;
    let document =
        json!({ "team": { "id": team.id, "uuid": team.uuid, "name": team.name, "owner": owner.email } });
    context.output.document(&document, || {
        format!(
            "Team {0} is made; its owner is {1}. Next: `cistern token create --team {2} {3}`, or `cistern user create \
             EMAIL --team {2} {3}` for somebody new.",
            team.name,
            owner.email,
            quoted(&team.name),
            args.local.shown(&app.data)
        )
    });
    Ok(())
}

async fn list(args: List, context: &Context) -> Outcome {
    let app = open(&args.local, context).await?;
    let mut teams = Vec::new();
    for number in 1.. {
        let listed = service::team_list(&app, page(number)).await?;
        let is_last = listed.rows.is_empty();
        teams.extend(listed.rows);
        if is_last || teams.len() as u64 >= listed.total {
            break;
        }
    }
    let documents: Vec<Value> = teams
        .iter()
        .map(|t| json!({ "id": t.id, "uuid": t.uuid, "name": t.name, "created_at": wire(t.created_at) }))
        .collect();
    context.output.document(&json!({ "teams": documents }), || {
        let rows = teams
            .iter()
            .map(|t| [t.id.to_string(), t.name.clone(), shown(t.created_at)]);
        table(["ID>", "NAME", "MADE"], rows)
    });
    Ok(())
}

fn document(member: &MemberView) -> Value {
    json!({
        "user_id": member.user.id, "email": member.user.email, "name": member.user.name,
        "role": member.role.as_str(), "is_disabled": member.user.disabled_at.is_some(),
        "created_at": wire(member.since),
    })
}

async fn member_list(args: MemberList, context: &Context) -> Outcome {
    let app = open(&args.local, context).await?;
    let team = service::team_find(&app, args.team.as_deref()).await?;
    let mut members = Vec::new();
    for number in 1.. {
        let listed = service::member_list(&app, team.id, page(number)).await?;
        let is_last = listed.rows.is_empty();
        members.extend(listed.rows);
        if is_last || members.len() as u64 >= listed.total {
            break;
        }
    }
    let documents: Vec<Value> = members.iter().map(document).collect();
    context.output.document(&json!({ "members": documents }), || {
        let rows = members.iter().map(|m| {
            [
                m.user.id.to_string(),
                m.user.email.clone(),
                m.role.as_str().to_owned(),
                state(m.user.disabled_at).to_owned(),
                shown(m.since),
            ]
        });
        table(["USER>", "E-MAIL", "ROLE", "STATE", "SINCE"], rows)
    });
    Ok(())
}

async fn member_role(args: MemberRole, is_new: bool, context: &Context) -> Outcome {
    let role: Role = args.role.parse().map_err(|e| usage(&e))?;
    let app = open(&args.one.local, context).await?;
    let team = service::team_find(&app, args.one.team.as_deref()).await?;
    let user = service::user_by_email(&app, &args.one.email).await?;
    let who = Who::default();
    let member = if is_new {
        service::member_add(&app, &who, team.id, user.id, role).await?
    } else {
        service::member_set_role(&app, &who, team.id, user.id, role).await?
    };
    context
        .output
        .document(&json!({ "member": document(&member) }), || {
            format!("{} is {} of {}.", member.user.email, role.as_str(), team.name)
        });
    Ok(())
}

async fn member_remove(args: MemberOne, context: &Context) -> Outcome {
    let app = open(&args.local, context).await?;
    let team = service::team_find(&app, args.team.as_deref()).await?;
    let user = service::user_by_email(&app, &args.email).await?;
    service::member_remove(&app, &Who::default(), team.id, user.id).await?;
    context.output.document(&json!({ "removed": user.email }), || {
        format!("{} is not a member of {} any more.", user.email, team.name)
    });
    Ok(())
}
