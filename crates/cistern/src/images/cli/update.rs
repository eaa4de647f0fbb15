//! `cistern image update`: name, texts, tags, and protection against deletion.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::image_find;
use crate::cli::client::{Client, Remote};
use crate::cli::{Context, Failure, Outcome};

/// Flags of `update`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cistern image update web --name web-old --description 'before the move'
  cistern image update 12 --tag prod --untag test
  cistern image update 12 --protected true")]
pub struct Args {
    /// Its number or name
    #[arg(value_name = "ID|NAME")]
    image: String,
    /// A new name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A new description; an empty one takes it away
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Its distribution, to be shown
    #[arg(long, value_name = "NAME", value_parser = super::distribution)]
    distribution: Option<&'static str>,
    /// A tag for it; can be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A tag to take from it; can be given several times
    #[arg(long = "untag", value_name = "TAG")]
    untags: Vec<String>,
    /// Whether it is protected against deletion
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
    protected: Option<bool>,
    #[command(flatten)]
    remote: Remote,
}

/// Changes what was named and shows the image.
pub async fn run(args: Args, context: &Context) -> Outcome {
    let change = change(&args)?;
    if change.is_empty() && args.tags.is_empty() && args.untags.is_empty() {
        return Err(Failure::Usage(
            "nothing to change; give --name, --description, --distribution, --tag, --untag or --protected"
                .into(),
        ));
    }
    let client = args.remote.client(context)?;
    let id = image_find(&client, &args.image, false).await?;
    let path = format!("/v2/images/{id}");
    if !change.is_empty() {
        client.put(&path, &Value::Object(change)).await?;
    }
    for tag in &args.tags {
        // Answers the same where the tag is there already.
        client.post("/v2/tags", &json!({ "name": tag })).await?;
        tag_send(&client, Method::POST, tag, id).await?;
    }
    for tag in &args.untags {
        tag_send(&client, Method::DELETE, tag, id).await?;
    }
    let answer = client.get(&path).await?;
    context
        .output
        .document(&answer, || super::show::one(&answer["image"], super::now()));
    Ok(())
}

fn change(args: &Args) -> Outcome<Map<String, Value>> {
    if args.name.as_deref() == Some("") {
        return Err(Failure::Usage(
            "a name cannot be empty; leave --name out to keep it".into(),
        ));
    }
    let mut change = Map::new();
    let texts = [
        ("name", args.name.as_deref()),
        ("description", args.description.as_deref()),
        ("distribution", args.distribution),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            change.insert(key.into(), json!(value));
        }
    }
    if let Some(protected) = args.protected {
        change.insert("protected".into(), json!(protected));
    }
    Ok(change)
}

async fn tag_send(client: &Client, method: Method, tag: &str, id: i64) -> Outcome {
    let resources = json!({ "resources": [{ "resource_id": id.to_string(), "resource_type": "image" }] });
    let tag: String = url::form_urlencoded::byte_serialize(tag.as_bytes()).collect();
    let request = client.request(method, &format!("/v2/tags/{tag}/resources"))?;
    client.json(request.json(&resources)).await?;
    Ok(())
}
