//! `cistern image`: bring disks in, look at them, take them out again.

mod export;
mod import;
mod show;
mod tus;
mod update;

use clap::Subcommand;
use reqwest::Method;
use serde_json::Value;

use crate::cli::client::{Client, Remote};
use crate::cli::{Context, Failure, Outcome, block_on};
use crate::images::model;

/// `cistern image …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring in a disk image, from a file or a URL
    Import(import::Args),
    /// List your images
    List(ListArgs),
    /// Show an image
    #[command(
        visible_alias = "show",
        after_help = "Examples:\n  cistern image get web\n  cistern image get 12 --json"
    )]
    Get(OneArgs),
    /// Rename an image, describe, tag and protect it
    Update(update::Args),
    /// Delete an image; it can be restored for a day
    Delete(DeleteArgs),
    /// Bring a deleted image back
    #[command(after_help = "Examples:\n  cistern image restore web\n  cistern image restore 12")]
    Restore(RestoreArgs),
    /// Download an image in one of six formats
    Export(export::Args),
}

/// Flags of `list`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cistern image list\n  cistern image list --all --json\n  cistern image list --deleted"
)]
pub struct ListArgs {
    /// Also everyone's: distributions and applications
    #[arg(long)]
    all: bool,
    /// Only those with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Those that were deleted or failed, with what can be restored and why others cannot
    #[arg(long, conflicts_with_all = ["all", "tag"])]
    deleted: bool,
    #[command(flatten)]
    remote: Remote,
}

/// One image.
#[derive(Debug, clap::Args)]
pub struct OneArgs {
    /// Its number or name
    #[arg(value_name = "ID|NAME")]
    image: String,
    #[command(flatten)]
    remote: Remote,
}

/// Flags of `restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// Its number, as `cistern image list --deleted` shows it, or its name where only one that can be restored has it
    #[arg(value_name = "ID|NAME")]
    image: String,
    #[command(flatten)]
    remote: Remote,
}

/// Flags of `delete`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cistern image delete web\n  cistern image delete 12 --purge")]
pub struct DeleteArgs {
    /// Its number or name
    #[arg(value_name = "ID|NAME")]
    image: String,
    /// Give its data up now instead of in a day; cannot be undone. Garbage collection frees its space
    #[arg(long)]
    purge: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Runs a command.
pub fn run(command: Command, context: &Context) -> Outcome {
    block_on(async {
        match command {
            Command::Import(args) => import::run(args, context).await,
            Command::List(args) => list(args, context).await,
            Command::Get(args) => get(args, context).await,
            Command::Update(args) => update::run(args, context).await,
            Command::Delete(args) => delete(args, context).await,
            Command::Restore(args) => restore(args, context).await,
            Command::Export(args) => export::run(args, context).await,
        }
    })
}

async fn list(args: ListArgs, context: &Context) -> Outcome {
    let client = args.remote.client(context)?;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if args.deleted {
        query.append_pair("deleted", "true");
    } else if !args.all {
        query.append_pair("private", "true");
    }
    if let Some(tag) = &args.tag {
        query.append_pair("tag_name", tag);
    }
    let images = image_list(&client, &query.finish()).await?;
    let document = serde_json::json!({ "images": images, "meta": { "total": images.len() } });
    context.output.document(&document, || {
        if args.deleted {
            show::deleted_table(&images, now())
        } else if let (Some(tag), []) = (&args.tag, images.as_slice()) {
            format!("No image has the tag {tag}; `cistern image list` shows all.")
        } else {
            show::image_table(&images, now())
        }
    });
    Ok(())
}

/// A distribution's name as DigitalOcean writes it.
fn distribution(given: &str) -> Result<&'static str, String> {
    let known = model::distribution(Some(given));
    if known == "Unknown" && !given.eq_ignore_ascii_case(known) {
        return Err(format!("DigitalOcean has {}", model::DISTRIBUTIONS.join(", ")));
    }
    Ok(known)
}

async fn get(args: OneArgs, context: &Context) -> Outcome {
    let client = args.remote.client(context)?;
    let id = image_find(&client, &args.image, false).await?;
    let answer = client.get(&format!("/v2/images/{id}")).await?;
    context
        .output
        .document(&answer, || show::one(&answer["image"], now()));
    Ok(())
}

async fn delete(args: DeleteArgs, context: &Context) -> Outcome {
    let client = args.remote.client(context)?;
    let id = image_find(&client, &args.image, false).await?;
    let query = if args.purge { "?purge=true" } else { "" };
    client.delete(&format!("/v2/images/{id}{query}")).await?;
    let answer = client.get(&format!("/v2/images/{id}")).await?;
    context.output.document(&answer, || {
        if args.purge {
            format!("Deleted image {id} for good.")
        } else {
            format!(
                "Deleted image {id}. Within a day (or less, where the disk gets nearly full) `cistern image restore {id}` brings it \
                 back."
            )
        }
    });
    Ok(())
}

async fn restore(args: RestoreArgs, context: &Context) -> Outcome {
    let client = args.remote.client(context)?;
    let id = match args.image.parse::<i64>() {
        Ok(id) => id,
        Err(_) => restorable_find(&image_list(&client, "deleted=true").await?, &args.image)?,
    };
    let answer = client
        .post(&format!("/v2/images/{id}/restore"), &Value::Null)
        .await?;
    context
        .output
        .document(&answer, || format!("Image {id} is back."));
    Ok(())
}

/// The number of the one image of this name that can be restored. Of one name there may be many.
fn restorable_find(deleted: &[Value], name: &str) -> Outcome<i64> {
    let of_name = || deleted.iter().filter(|image| image["name"] == name);
    let found: Vec<&Value> = of_name()
        .filter(|image| image["restorable_until"].is_string())
        .collect();
    match found[..] {
        [image] => image["id"]
            .as_i64()
            .ok_or_else(|| Failure::Failed("the server's answer is not understood".into())),
        [] if of_name().next().is_some() => Err(Failure::Failed(format!(
            "no deleted image `{name}` can be restored any more; `cistern image list --deleted` says why"
        ))),
        [] => Err(Failure::Failed(format!(
            "no deleted image is called `{name}`; `cistern image list --deleted` shows what was deleted"
        ))),
        _ => Err(Failure::Failed(format!(
            "{} deleted images are called `{name}`; restore one by its number:\n{}",
            found.len(),
            show::candidates_table(&found)
        ))),
    }
}

/// All pages of a list.
async fn image_list(client: &Client, query: &str) -> Outcome<Vec<Value>> {
    let mut images = Vec::new();
    for page in 1.. {
        let answer = client
            .get(&format!("/v2/images?{query}&per_page=200&page={page}"))
            .await?;
        let rows = answer["images"].as_array().cloned().unwrap_or_default();
        images.extend(rows);
        if answer["links"]["pages"]["next"].is_null() {
            break;
        }
    }
    Ok(images)
}

/// The number of an image that is named by its number or its name.
async fn image_find(client: &Client, text: &str, only_available: bool) -> Outcome<i64> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let images = image_list(client, "private=true").await?;
    let usable = |image: &&Value| !only_available || image["status"] == "available";
    let ids: Vec<i64> = images
        .iter()
        .filter(|image| image["name"] == text)
        .filter(usable)
        .filter_map(|image| image["id"].as_i64())
        .collect();
    match ids[..] {
        [id] => Ok(id),
        [] => Err(Failure::Failed(format!(
            "there is no image `{text}`; `cistern image list` shows what there is, with `--deleted` what was deleted or failed"
        ))),
        _ => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            Err(Failure::Failed(format!(
                "{} images are called `{text}`; name one by its number: {}",
                ids.len(),
                ids.join(", ")
            )))
        }
    }
}

/// The time, for ages.
fn now() -> crate::platform::clock::Time {
    crate::platform::clock::Clock::default().now()
}

/// Deletes what an interrupted command left on the server; what goes wrong is not worth hiding the interruption.
async fn give_up(client: &Client, path: &str) {
    // The server may still hold the lock for the connection that was just dropped.
    for _ in 0..20 {
        let Ok(request) = client.request(Method::DELETE, path) else {
            return;
        };
        match request.header("tus-resumable", "1.0.0").send().await {
            Ok(response) if response.status() == reqwest::StatusCode::LOCKED => {}
            _ => return,
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_restores_the_one_image_that_it_can_mean_and_otherwise_says_which_there_are() {
        let of = |id: i64, name: &str, until: Option<&str>| {
            json!({ "id": id, "name": name, "restorable_until": until, "virtual_bytes": 8 << 20,
                    "deleted_at": "2026-01-02T03:04:05Z" })
        };
        let until = Some("2026-01-03T03:04:05Z");
        let deleted = [
            of(1, "web", None),
            of(2, "web", until),
            of(3, "db", until),
            of(4, "db", until),
            of(5, "old", None),
        ];
        assert_eq!(restorable_find(&deleted, "web").expect("one"), 2);
        for (name, parts) in [
            (
                "db",
                &[
                    "2 deleted images",
                    " 3 ",
                    " 4 ",
                    "2026-01-02T03:04:05Z",
                    "8.0 MiB",
                ][..],
            ),
            ("old", &["any more"]),
            ("new", &["no deleted image is called `new`"]),
        ] {
            let Err(Failure::Failed(said)) = restorable_find(&deleted, name) else {
                panic!("{name} is refused");
            };
            for part in parts {
                assert!(said.contains(part), "{part}: {said}");
            }
        }
    }
}
