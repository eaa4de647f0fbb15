//! `cistern events`: from a server, or with `--data` straight from the database.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use url::form_urlencoded::Serializer;

use super::api::{EventBody, outcome_check};
use super::service::{EventFilter, PAGE_MAX, event_list_local};
use crate::app::App;
use crate::cli::client::{Client, Remote};
use crate::cli::{Context, Failure, LocalFlags, Outcome, block_on, output};
use crate::platform::accounts::service::team_find;

/// How often a follower looks for more.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// A follower looks back this far: on PostgreSQL a transaction may show its events after later ones.
const FOLLOW_BACK: i64 = 200;

/// Flags of `events`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cistern events --what sign_in --outcome refused
  cistern events --follow --lines | jq .what
  cistern events --data /var/lib/cistern --since 2026-01-01T00:00:00Z")]
pub struct Args {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    local: LocalFlags,
    /// Only these: resource.verb, or resource for all its verbs
    #[arg(long)]
    what: Option<String>,
    /// Only ok, refused or failed ones
    #[arg(long)]
    outcome: Option<String>,
    /// Only from this moment on (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = since_read)]
    since: Option<DateTime<Utc>>,
    /// Those of all teams (operators)
    #[arg(long, conflicts_with = "team")]
    all: bool,
    /// With --data: only those of this team, by name [default: all]
    #[arg(long)]
    team: Option<String>,
    /// How many, the newest
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: u64,
    /// Keep printing new ones until interrupted
    #[arg(long, short)]
    follow: bool,
    /// One JSON object a line, oldest first; with --json and --follow the same
    #[arg(long)]
    lines: bool,
}

/// Where events come from.
enum Source {
    Local(Box<App>, Option<i64>),
    Remote(Client),
}

/// Prints events, oldest first.
pub fn run(args: &Args, context: &Context) -> Outcome {
    if let Some(outcome) = &args.outcome {
        outcome_check(outcome).map_err(|e| Failure::Usage(e.to_string()))?;
    }
    block_on(async {
        let source = source(args, context).await?;
        let mut events = newest(&source, args).await?;
        events.reverse();
        let as_lines = args.lines || (args.follow && context.output.is_json());
        if as_lines {
            for event in &events {
                output::line(&event.to_string());
            }
        } else {
            context
                .output
                .document(&json!({ "events": events }), || text(&events));
        }
        if args.follow {
            follow(&source, args, &events, as_lines).await?;
        }
        Ok(())
    })
}

async fn source(args: &Args, context: &Context) -> Outcome<Source> {
    if !args.local.is_local()? {
        if args.team.is_some() {
            return Err(Failure::Usage(
                "--team goes with --data; a token sees its own team".into(),
            ));
        }
        return Ok(Source::Remote(args.remote.client(context)?));
    }
    let app = App::open_existing(args.local.config(context)?).await?;
    let team = match &args.team {
        Some(name) => Some(team_find(&app, Some(name)).await?.id),
        None => None,
    };
    Ok(Source::Local(Box::new(app), team))
}

/// The newest `limit` events, newest first.
async fn newest(source: &Source, args: &Args) -> Outcome<Vec<Value>> {
    let mut events: Vec<Value> = Vec::new();
    let mut before = None;
    while (events.len() as u64) < args.limit {
        let want = (args.limit - events.len() as u64).min(PAGE_MAX);
        let page = read(source, args, before, None, want).await?;
        let is_last = (page.len() as u64) < want;
        events.extend(page);
        before = events.last().and_then(|e| e["id"].as_i64());
        if is_last {
            break;
        }
    }
    Ok(events)
}

async fn follow(source: &Source, args: &Args, first: &[Value], as_lines: bool) -> Outcome {
    let id = |e: &Value| e["id"].as_i64().unwrap_or(0);
    let mut seen: HashSet<i64> = first.iter().map(id).collect();
    let floor = seen.iter().min().copied();
    let mut last = match seen.iter().max() {
        Some(last) => *last,
        // Nothing matched yet: begin at the newest event of any kind.
        None => read_any(source, args).await?,
    };
    let floor = floor.unwrap_or(last);
    loop {
        // Until a signal ends the process.
        tokio::time::sleep(FOLLOW_EVERY).await;
        let from = (last - FOLLOW_BACK).max(floor);
        let mut after = from;
        loop {
            let page = read(source, args, None, Some(after), PAGE_MAX).await?;
            for event in page.iter().filter(|e| seen.insert(id(e))) {
                output::line(&if as_lines {
                    event.to_string()
                } else {
                    text(std::slice::from_ref(event))
                });
            }
            after = page.last().map_or(after, id);
            if (page.len() as u64) < PAGE_MAX {
                break;
            }
        }
        last = last.max(after);
        seen.retain(|id| *id >= last - 2 * FOLLOW_BACK);
    }
}

/// The newest event's id, whatever it is.
async fn read_any(source: &Source, args: &Args) -> Outcome<i64> {
    let any = Filtered {
        all: args.all,
        ..Filtered::default()
    };
    let page = read_filtered(source, &any, 1).await?;
    Ok(page.first().and_then(|e| e["id"].as_i64()).unwrap_or(0))
}

/// What one reading asks for.
#[derive(Clone, Debug, Default)]
struct Filtered {
    filter: EventFilter,
    all: bool,
}

async fn read(
    source: &Source,
    args: &Args,
    before: Option<i64>,
    after: Option<i64>,
    limit: u64,
) -> Outcome<Vec<Value>> {
    let filter = EventFilter {
        team_id: None,
        what: args.what.clone(),
        outcome: args.outcome.clone(),
        since: args.since,
        before,
        after,
    };
    read_filtered(
        source,
        &Filtered {
            filter,
            all: args.all,
        },
        limit,
    )
    .await
}

async fn read_filtered(source: &Source, wanted: &Filtered, limit: u64) -> Outcome<Vec<Value>> {
    match source {
        Source::Local(app, team_id) => {
            let filter = EventFilter {
                team_id: *team_id,
                ..wanted.filter.clone()
            };
            let views = event_list_local(app, &filter, limit).await?;
            let bodies: Vec<EventBody> = views.into_iter().map(EventBody::from).collect();
            let value = serde_json::to_value(bodies).unwrap_or_default();
            Ok(serde_json::from_value(value).unwrap_or_default())
        }
        Source::Remote(client) => {
            let mut answer = client.get(&path(wanted, limit)).await?;
            Ok(serde_json::from_value(answer["events"].take()).unwrap_or_default())
        }
    }
}

fn since_read(text: &str) -> Result<DateTime<Utc>, String> {
    text.parse().map_err(|_| {
        "a moment is written with its date, time and zone, such as 2026-01-31T08:00:00Z or 2026-01-31T09:00:00+01:00"
            .to_owned()
    })
}

fn path(wanted: &Filtered, limit: u64) -> String {
    let filter = &wanted.filter;
    let mut query = Serializer::new(String::new());
    query.append_pair("per_page", &limit.to_string());
    let optional = [
        ("what", filter.what.clone()),
        ("outcome", filter.outcome.clone()),
        ("since", filter.since.map(|t| t.to_rfc3339())),
        ("before", filter.before.map(|id| id.to_string())),
        ("after", filter.after.map(|id| id.to_string())),
        ("all", wanted.all.then(|| "true".to_owned())),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            query.append_pair(name, &value);
        }
    }
    format!("/v2/events?{}", query.finish())
}

/// What stands behind an event: of a refused request what was asked for and why not, of the rest names and numbers.
fn detail(detail: &Value) -> String {
    let Value::Object(map) = detail else {
        return String::new();
    };
    let mut map = map.clone();
    let text = ["method", "route", "status"].map(|key| map.get(key).map(word));
    let [Some(method), Some(route), Some(status)] = text else {
        return detail.to_string();
    };
    map.retain(|key, _| !matches!(key.as_str(), "method" | "route" | "status" | "reason"));
    let reason = detail["reason"]
        .as_str()
        .map_or(String::new(), |reason| format!(": {reason}"));
    let rest = if map.is_empty() {
        String::new()
    } else {
        format!(" {}", Value::Object(map))
    };
    format!("{method} {route} -> {status}{reason}{rest}")
}

/// One value as a word.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// Lines for people.
fn text(events: &[Value]) -> String {
    let line = |e: &Value| {
        let resource = match (&e["resource_type"], &e["resource_id"]) {
            (Value::String(kind), Value::String(id)) => format!("{kind} {id}"),
            _ => String::new(),
        };
        let detail = detail(&e["detail"]);
        let at = word(&e["at"]);
        let at = at.get(..19).unwrap_or(&at).replace('T', " ");
        format!(
            "{at}  {:<7}  {:<18}  {}  {}  {resource} {detail}",
            word(&e["outcome"]),
            word(&e["what"]),
            word(&e["user"]),
            word(&e["address"]),
        )
        .trim_end()
        .to_owned()
    };
    match events {
        [] => "No events.".to_owned(),
        events => events.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_a_sentence_and_the_rest_as_it_is() {
        let refused = json!({ "method": "POST", "route": "/v2/tags", "status": 403, "ids": { "tag_id": "7" },
            "reason": "The token lacks the scope tag:create; use one that has it." });
        let text = "POST /v2/tags -> 403: The token lacks the scope tag:create; use one that has it. \
                    {\"ids\":{\"tag_id\":\"7\"}}";
        assert_eq!(detail(&refused), text);
        let registry = json!({ "route": "(registry)", "status": 404 });
        assert_eq!(detail(&registry), registry.to_string());
        let counted = json!({ "method": "GET", "route": "/v2/jobs", "status": 429, "left_out": 3 });
        assert_eq!(detail(&counted), "GET /v2/jobs -> 429 {\"left_out\":3}");
        assert_eq!(detail(&json!({ "name": "x" })), "{\"name\":\"x\"}");
        assert_eq!(detail(&Value::Null), "");
    }
}
