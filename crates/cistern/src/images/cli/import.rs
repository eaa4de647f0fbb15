//! `cistern image import`: by URL, by upload, or by handing the open file to a server on this machine.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::tus::{Upload, unreadable};
use super::{give_up, show};
use crate::cli::client::{Client, Remote};
use crate::cli::progress::Progress;
use crate::cli::{Context, Failure, Outcome};
use crate::images::local::{self, Answer, Connection, Request, SOCKET, Stamp};

/// DigitalOcean wants a region; every one is served by the local store until configured otherwise.
const DEFAULT_REGION: &str = "nyc3";
/// The first look at an import comes soon, later ones less often.
const LOOK_FIRST: Duration = Duration::from_millis(100);
const LOOK_LAST: Duration = Duration::from_millis(250);
/// Where a server keeps its data that nobody told otherwise.
const DEFAULT_DATA: &str = "./cistern-data";

/// How long a server that does not answer is waited for while it imports: it may be starting again.
const ABSENT_MAX: Duration = Duration::from_mins(1);

const EXAMPLES: &str = "Examples:
  cistern image import disk.qcow2 --name web
  cistern image import https://example.com/debian-12.qcow2 --name debian --region nyc3
  cistern image import disk.raw.zst --name db --tag prod --expected-sha256 HEX

raw, qcow2, VMDK, VHDX, VHD, VDI and OVA, each alone or in gzip, bzip2, xz or zstd. A file goes to a server on this machine as
it is, without a copy; to any other it is uploaded, and goes on after a cut. Ctrl-C cancels.";

/// How long a cancelled command waits for the answer that names what it began.
const NAMED_WAIT: Duration = Duration::from_secs(5);

/// Flags of `import`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A file on this machine, or the address of one (http, https)
    #[arg(value_name = "FILE|URL")]
    source: String,
    /// The image's name
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The region it is to be in
    #[arg(long, value_name = "REGION", default_value = DEFAULT_REGION)]
    region: String,
    /// A tag for it; can be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Its distribution, to be shown
    #[arg(long, value_name = "NAME", value_parser = super::distribution)]
    distribution: Option<&'static str>,
    /// A description, to be shown
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Refuse the file unless this is its SHA-256
    #[arg(long, value_name = "HEX")]
    expected_sha256: Option<String>,
    /// Hand the file to the server that runs on this folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Send the file's bytes, also to a server on this machine
    #[arg(long, conflicts_with = "data")]
    upload: bool,
    #[command(flatten)]
    remote: Remote,
}

/// What an interruption has to undo on the server: a path to DELETE.
type Begun = watch::Sender<Option<String>>;

/// Imports, waits, and says how it went.
pub async fn run(args: Args, context: &Context) -> Outcome {
    let started = Instant::now();
    let progress = Arc::new(Progress::new());
    let result = image_import(&args, context, &progress).await;
    progress.clear();
    let image = result?;
    let is_available = image["status"] == "available";
    let reason = match image["error_message"].as_str() {
        Some(reason) if !reason.is_empty() => reason.to_owned(),
        _ => "the image was deleted while it was imported".to_owned(),
    };
    if is_available || context.output.is_json() {
        let document = json!({ "image": image });
        context
            .output
            .document(&document, || show::imported(&image, started.elapsed()));
    }
    if is_available {
        Ok(())
    } else {
        // The number is the one name that a failed image keeps.
        Err(Failure::Failed(format!(
            "image {} was not imported: {reason}",
            image["id"]
        )))
    }
}

async fn image_import(args: &Args, context: &Context, progress: &Arc<Progress>) -> Outcome<Value> {
    let is_url = ["http://", "https://"].iter().any(|scheme| {
        let start = args.source.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    if !is_url && args.source.contains("://") && !Path::new(&args.source).exists() {
        let text = "an image is fetched by http or https; download it, and give the file";
        return Err(Failure::Usage(text.into()));
    }
    if !is_url {
        let path = Path::new(&args.source);
        let file = File::open(path)
            .map_err(|e| Failure::Failed(format!("cannot open `{}`: {e}", path.display())))?;
        if !args.upload
            && let Some(connection) = local_server(args, context).await?
        {
            return hand_over(args, context, connection, &file, progress).await;
        }
        let client = args.remote.client(context)?;
        return cancellable(&client, |begun| upload(args, &client, file, progress, begun)).await;
    }
    let client = args.remote.client(context)?;
    cancellable(&client, |begun| by_url(args, &client, progress, begun)).await
}

/// Runs the work; Ctrl-C stops it and takes back what it began.
async fn cancellable<'a, F>(client: &Client, work: impl FnOnce(Begun) -> F) -> Outcome<Value>
where
    F: Future<Output = Outcome<Value>> + 'a,
{
    let (begun, mut named) = watch::channel(None);
    let mut work = std::pin::pin!(work(begun));
    let stopped = tokio::select! {
        done = &mut work => return done,
        signal = tokio::signal::ctrl_c() => signal,
    };
    stopped.map_err(|e| Failure::Failed(format!("cannot wait for Ctrl-C: {e}")))?;
    // The request that begins it may be under way: its answer names what is to be taken back.
    let path = tokio::select! {
        done = &mut work => return done,
        path = tokio::time::timeout(NAMED_WAIT, named.wait_for(Option::is_some)) => {
            path.ok().and_then(|path| path.ok()?.clone())
        }
    };
    let Some(path) = path else {
        let text = "cancelled before the server answered; `cistern image list` shows whether it had begun";
        return Err(Failure::Failed(text.into()));
    };
    give_up(client, &path).await;
    Err(cancelled())
}

fn cancelled() -> Failure {
    Failure::Failed("cancelled; no image is made. What was stored of it until now stays until garbage collection frees it".into())
}

async fn by_url(args: &Args, client: &Client, progress: &Arc<Progress>, begun: Begun) -> Outcome<Value> {
    let mut body = body(args);
    body["url"] = json!(args.source);
    create_and_wait(client, &body, progress, &begun).await
}

async fn upload(
    args: &Args,
    client: &Client,
    file: File,
    progress: &Arc<Progress>,
    begun: Begun,
) -> Outcome<Value> {
    let stamp = Stamp::of(&file).map_err(|e| unreadable(&e))?;
    let meta = file.metadata().map_err(|e| unreadable(&e))?;
    if !meta.is_file() {
        return Err(Failure::Failed(format!(
            "`{}` is not a regular file",
            args.source
        )));
    }
    let name = Path::new(&args.source)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let upload = Upload::begin(client, &name, meta.len()).await?;
    begun.send_replace(Some(upload.path.clone()));
    progress.step(&format!("uploading {name}"), Some(meta.len()));
    let sent = upload.send(&file, progress).await;
    let unchanged = sent.and_then(|()| Ok(stamp.check(&file)?));
    if let Err(failure) = unchanged {
        give_up(client, &upload.path).await;
        return Err(failure);
    }
    let mut body = body(args);
    body["upload"] = json!(upload.id());
    let made = create_and_wait(client, &body, progress, &begun).await;
    if made.is_err() {
        // Refused before an image took it; otherwise the server says that it is used, and keeps it.
        give_up(client, &upload.path).await;
    }
    made
}

fn body(args: &Args) -> Value {
    json!({
        "name": args.name,
        "region": args.region,
        "tags": args.tags,
        "distribution": args.distribution.unwrap_or_default(),
        "description": args.description.as_deref().unwrap_or_default(),
        "expected_sha256": args.expected_sha256.as_deref().unwrap_or_default(),
    })
}

/// Makes the image, then looks at it until it is available or deleted.
async fn create_and_wait(
    client: &Client,
    body: &Value,
    progress: &Progress,
    begun: &Begun,
) -> Outcome<Value> {
    let answer = client.post("/v2/images", body).await?;
    let id = answer["image"]["id"]
        .as_i64()
        .ok_or_else(|| Failure::Failed("the server made an image without a number".into()))?;
    let path = format!("/v2/images/{id}");
    begun.send_replace(Some(format!("{path}?purge=true")));
    let (mut wait, mut answered) = (LOOK_FIRST, Instant::now());
    loop {
        match client.look(&path).await {
            Ok(mut answer) => {
                answered = Instant::now();
                let image = answer["image"].take();
                progress_show(progress, &image);
                if is_over(&image) {
                    return Ok(image);
                }
            }
            // An import outlives its server's process.
            Err(Failure::Absent(_)) if answered.elapsed() < ABSENT_MAX => {
                progress.step("the server does not answer; waiting for it", None);
            }
            Err(failure) => return Err(unseen(id, failure)),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LOOK_LAST);
    }
}

/// The import is not looked at any more, and may go on all the same.
fn unseen(id: i64, failure: Failure) -> Failure {
    match failure {
        Failure::Absent(reason) | Failure::Failed(reason) => Failure::Failed(format!(
            "{}. Image {id} may still be imported; see `cistern image get {id}` when the server is back",
            reason.trim_end_matches('.')
        )),
        other => other,
    }
}

fn is_over(image: &Value) -> bool {
    ["available", "deleted", "retired"]
        .iter()
        .any(|s| image["status"] == **s)
}

/// The server's own progress: `{"step", "done_bytes", "total_bytes"}`.
fn progress_show(progress: &Progress, image: &Value) {
    let import = &image["import"];
    let step = match import["step"].as_str() {
        Some("fetch") => "the server downloads it",
        Some("verify") => "checking the SHA-256",
        Some("unwrap") => "decompressing",
        Some("read") => "reading and storing",
        Some(other) => other,
        None => "importing",
    };
    progress.step(step, import["total_bytes"].as_u64().filter(|total| *total > 0));
    if let Some(done) = import["done_bytes"].as_u64() {
        progress.set(done);
    }
}

/// The server to hand the file to, if one answers on this machine. `--data` insists on it; otherwise the server that
/// would be uploaded to is asked where its socket is.
async fn local_server(args: &Args, context: &Context) -> Outcome<Option<Connection>> {
    if let Some(data) = &args.data {
        let socket = data.join(SOCKET);
        let connection = local::connect(&socket).await.map_err(|e| {
            Failure::Failed(format!(
                "no server answers at {} ({e}); start it with `cistern serve --data {}`, or use --url",
                socket.display(),
                data.display()
            ))
        })?;
        return Ok(Some(connection));
    }
    if args.remote.url.is_none()
        && context.env.url().is_none()
        && let Ok(connection) = local::connect(&Path::new(DEFAULT_DATA).join(SOCKET)).await
    {
        return Ok(Some(connection));
    }
    let client = args.remote.client(context)?;
    if !is_this_machine(client.base()) {
        return Ok(None);
    }
    let request = client.request(Method::OPTIONS, "/v2/uploads")?;
    let Ok(response) = request.send().await else {
        // The upload that follows says what is wrong.
        return Ok(None);
    };
    let socket = response
        .headers()
        .get("cistern-socket")
        .and_then(|v| v.to_str().ok());
    match socket {
        Some(socket) => Ok(local::connect(Path::new(socket)).await.ok()),
        None => Ok(None),
    }
}

fn is_this_machine(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(url::Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
        None => false,
    }
}

async fn hand_over(
    args: &Args,
    context: &Context,
    mut connection: Connection,
    file: &File,
    progress: &Progress,
) -> Outcome<Value> {
    let request = Request {
        token: args.remote.token(context)?,
        name: args.name.clone(),
        region: args.region.clone(),
        tags: args.tags.clone(),
        distribution: args.distribution.map(str::to_owned),
        description: args.description.clone(),
        expected_sha256: args.expected_sha256.clone(),
    };
    let gone = |e: std::io::Error| Failure::Failed(format!("the server on this machine went away: {e}"));
    connection.hand_over(&request, file).await.map_err(gone)?;
    let mut is_cancelled = false;
    loop {
        let answer = tokio::select! {
            answer = connection.next() => answer.map_err(gone)?,
            _ = tokio::signal::ctrl_c(), if !is_cancelled => {
                is_cancelled = true;
                connection.cancel().await.map_err(gone)?;
                continue;
            }
        };
        match answer {
            Some(Answer::Image(image)) if is_over(&image) && is_cancelled => return Err(cancelled()),
            Some(Answer::Image(image)) if is_over(&image) => return Ok(image),
            Some(Answer::Image(image)) => progress_show(progress, &image),
            Some(Answer::Error(reason)) => return Err(Failure::Failed(reason)),
            None => {
                return Err(Failure::Failed(
                    "the server stopped while it read your file; start it and run the command again".into(),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_this_machine() {
        let of = |text: &str| is_this_machine(&text.parse().expect("a URL"));
        assert!(of("http://127.0.0.1:8080") && of("https://localhost") && of("http://[::1]:1"));
        assert!(
            !of("http://10.0.0.1") && !of("https://localhost.example.com") && !of("http://[2001:db8::1]")
        );
    }

    #[test]
    fn who_stops_looking_hears_where_to_look_later() {
        for failure in [Failure::Failed("No.".into()), Failure::Absent("No.".into())] {
            let Failure::Failed(text) = unseen(7, failure) else {
                panic!("a sentence");
            };
            assert!(
                text.starts_with("No. Image 7 ") && text.contains("`cistern image get 7`"),
                "{text}"
            );
        }
    }

    #[test]
    fn the_end_of_an_import_is_known() {
        assert!(is_over(&json!({ "status": "available" })) && is_over(&json!({ "status": "deleted" })));
        assert!(!is_over(&json!({ "status": "NEW" })) && !is_over(&json!({ "status": "pending" })));
    }
}
