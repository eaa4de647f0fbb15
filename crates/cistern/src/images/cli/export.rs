//! `cistern image export`: downloads a disk into a file, sparse, resumable and checked.

mod sink;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Method, Response, StatusCode};
use serde_json::json;
use url::form_urlencoded;

use self::sink::Sink;
use super::image_find;
use crate::cli::client::{self, Client, Remote};
use crate::cli::progress::Progress;
use crate::cli::{Context, Failure, Outcome, output};
use crate::images::download::Format;

/// Attempts in a row that move nothing before we give up.
const ATTEMPTS: u32 = 6;

const EXAMPLES: &str = "Examples:
  cistern image export web --format qcow2 -o web.qcow2
  cistern image export 12 --format raw -o - | zstd > disk.raw.zst

The file appears under its name when it is complete and checked. A command that was cut off goes on where it was.";

/// Flags of `export`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Its number or name
    #[arg(value_name = "ID|NAME")]
    image: String,
    /// raw or qcow2
    #[arg(long, value_name = "FORMAT", default_value = "raw", value_parser = parse_format)]
    format: Format,
    /// Where to write it; - for stdout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    remote: Remote,
}

fn parse_format(text: &str) -> Result<Format, String> {
    text.parse().map_err(|_| "raw or qcow2".to_owned())
}

/// What the server says of a file before it sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    etag: String,
    length: u64,
    sha256: Option<Vec<u8>>,
}

/// Downloads and says where it is.
pub async fn run(args: Args, context: &Context) -> Outcome {
    let started = Instant::now();
    let to_stdout = args.output.as_os_str() == "-";
    if to_stdout && context.output.is_json() {
        return Err(Failure::Usage(
            "`-o -` and --json both want stdout; choose one".into(),
        ));
    }
    let client = args.remote.client(context)?;
    let id = image_find(&client, &args.image, true).await?;
    let query: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("format", args.format.as_str())
        .finish();
    let path = format!("/v2/images/{id}/download?{query}");
    let head = head_read(&client.send(client.request(Method::HEAD, &path)?).await?)?;

    let progress = Arc::new(Progress::new());
    let target = (!to_stdout).then_some(args.output.as_path());
    let mut sink = Sink::open(target, &head).map_err(|e| unwritable(&args, &e))?;
    progress.step(
        &format!("exporting image {id} as {}", args.format.as_str()),
        Some(head.length),
    );
    let done = tokio::select! {
        done = transfer(&client, &path, &head, &mut sink, &progress) => done,
        _ = tokio::signal::ctrl_c() => Err(interrupted(&args, to_stdout)),
    };
    progress.clear();
    done?;
    let replaces = target.is_some_and(std::path::Path::is_file);
    let sha256 = sink.finish().await.map_err(|e| unwritable(&args, &e))?;
    if to_stdout {
        return Ok(());
    }
    if replaces {
        progress.note(&format!(
            "replaced the file that was at {}",
            args.output.display()
        ));
    }
    let document = json!({ "export": {
        "image_id": id,
        "format": args.format,
        "file": args.output,
        "length": head.length,
        "sha256": hex::encode(&sha256),
        "checked": head.sha256.is_some(),
    }});
    context.output.document(&document, || {
        let checked = if head.sha256.is_some() {
            "checked"
        } else {
            "not checked yet: the server is still hashing"
        };
        format!(
            "{}: {} in {:.1} s\nSHA-256 {} ({checked})",
            args.output.display(),
            output::bytes(head.length),
            started.elapsed().as_secs_f64(),
            hex::encode(&sha256)
        )
    });
    Ok(())
}

fn unwritable(args: &Args, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot write `{}`: {error}", args.output.display()))
}

/// Fills the sink, from where it is, over as many connections as it takes.
fn interrupted(args: &Args, to_stdout: bool) -> Failure {
    if to_stdout {
        return Failure::Failed("interrupted".into());
    }
    let file = args.output.display();
    Failure::Failed(format!(
        "interrupted; the same command goes on with what arrived, which is in {file}.part-… beside it"
    ))
}

async fn transfer(client: &Client, path: &str, head: &Head, sink: &mut Sink, progress: &Progress) -> Outcome {
    let mut failures = 0;
    progress.set(sink.at());
    while sink.at() < head.length {
        let before = sink.at();
        let failure = match part(client, path, head, sink, progress).await {
            Ok(()) => continue,
            Err(Cut::Final(failure)) => return Err(failure),
            Err(Cut::Passing(failure)) => failure,
        };
        failures = if sink.at() > before { 1 } else { failures + 1 };
        if failures == ATTEMPTS {
            return Err(given_up(&failure, sink.at()));
        }
        let reason = reason(&failure);
        progress.note(&format!("{reason}; going on at byte {}", sink.at()));
        tokio::time::sleep(Duration::from_secs(1 << (failures - 1))).await;
    }
    Ok(())
}

fn reason(failure: &Failure) -> &str {
    match failure {
        Failure::Failed(reason) | Failure::Absent(reason) | Failure::Usage(reason) => reason,
        Failure::Told => "the connection was cut",
    }
}

/// The last attempt failed as well. What the server said tells whether it is the store that does not answer, or damage.
fn given_up(failure: &Failure, at: u64) -> Failure {
    let reason = reason(failure);
    Failure::Failed(format!(
        "{reason}; given up at byte {at} after {ATTEMPTS} attempts"
    ))
}

/// Why a part did not arrive.
enum Cut {
    /// Trying again may help.
    Passing(Failure),
    /// It will not.
    Final(Failure),
}

impl From<Failure> for Cut {
    fn from(failure: Failure) -> Self {
        Self::Final(failure)
    }
}

/// One connection's worth.
async fn part(
    client: &Client,
    path: &str,
    head: &Head,
    sink: &mut Sink,
    progress: &Progress,
) -> Result<(), Cut> {
    let mut request = client.request(Method::GET, path)?;
    if sink.at() > 0 {
        // `If-Range`: should the file be another by now, the answer is 200, and we stop.
        request = request
            .header("range", format!("bytes={}-", sink.at()))
            .header("if-range", &head.etag);
    }
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Err(Cut::Passing(client.unreachable(&error))),
    };
    let status = response.status();
    if status.is_server_error() {
        return Err(Cut::Passing(client::refusal(response).await));
    }
    if !status.is_success() {
        return Err(Cut::Final(client::refusal(response).await));
    }
    let is_part = status == StatusCode::PARTIAL_CONTENT;
    if is_part != (sink.at() > 0) || head_etag(&response) != Some(head.etag.as_str()) {
        return Err(Cut::Final(Failure::Failed(
            "the image is another than when the export began; run the command again".into(),
        )));
    }
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) => {
                let end = sink.at() + bytes.len() as u64;
                if end > head.length {
                    return Err(Cut::Final(Failure::Failed(
                        "the server sent more than it said".into(),
                    )));
                }
                let written = sink.write(bytes).await;
                written.map_err(|e| Cut::Final(Failure::Failed(format!("cannot write the file: {e}"))))?;
                progress.set(end);
            }
            Ok(None) if sink.at() == head.length => return Ok(()),
            // A cut also ends a body. Where the server had a reason, it answers the next request with it.
            Ok(None) | Err(_) => {
                return Err(Cut::Passing(Failure::Absent("the connection was cut".into())));
            }
        }
    }
}

fn head_etag(response: &Response) -> Option<&str> {
    response.headers().get("etag")?.to_str().ok()
}

fn head_read(response: &Response) -> Outcome<Head> {
    let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
    let (Some(etag), Some(length)) = (text("etag"), text("content-length").and_then(|t| t.parse().ok()))
    else {
        return Err(Failure::Failed(
            "the server did not say what it would send; is it a Cistern?".into(),
        ));
    };
    Ok(Head {
        etag: etag.to_owned(),
        length,
        sha256: text("repr-digest").and_then(digest_read),
    })
}

/// The SHA-256 of a `Repr-Digest` (RFC 9530).
fn digest_read(text: &str) -> Option<Vec<u8>> {
    let item = text
        .split(',')
        .find_map(|item| item.trim().strip_prefix("sha-256=:"))?;
    let bytes = BASE64.decode(item.strip_suffix(':')?).ok()?;
    (bytes.len() == 32).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_an_export_is_the_servers() {
        let away = Failure::Absent("The store does not answer at the moment; try again. (request x)".into());
        let Failure::Failed(text) = given_up(&away, 7) else {
            panic!("a sentence");
        };
        assert!(text.starts_with("The store does not answer"), "{text}");
        assert!(
            text.ends_with("given up at byte 7 after 6 attempts") && !text.contains("verify"),
            "{text}"
        );
    }

    #[test]
    fn a_digest_is_found_among_others() {
        let text = format!("sha-512=:AAAA:, sha-256=:{}:", BASE64.encode([7; 32]));
        assert_eq!(digest_read(&text), Some(vec![7; 32]));
        for none in ["", "sha-256=AAAA", "sha-256=:AAAA:", "md5=:AAAA:"] {
            assert_eq!(digest_read(none), None, "{none}");
        }
    }
}
