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
use super::{image_find, show};
use crate::cli::client::{self, Client, Remote};
use crate::cli::progress::Progress;
use crate::cli::{Context, Failure, Outcome, output};
use crate::images::download::Format;

/// Attempts in a row that move nothing before we give up.
const ATTEMPTS: u32 = 6;

const EXAMPLES: &str = "Examples:
  cistern image export web --format qcow2 -o web.qcow2
  cistern image export 12 --format raw -o - | zstd > disk.raw.zst

  cistern image export 12 --range 0-1048575 -o first-mib.raw

The file appears under its name when it is complete, and checked where the server knows its digest by then. A command that
was cut off goes on where it was; a vmdk, which is compressed while it is sent, begins anew.

--range START-END counts bytes of the raw disk from 0 and includes both, as HTTP and `cistern store verify` do; START- goes
to the end. The file then has these bytes alone. It saves what is whole of a damaged image; to put parts together again:
  truncate -s DISK_BYTES disk.raw
  dd if=PART of=disk.raw bs=1M conv=notrunc oflag=seek_bytes seek=START";

/// Flags of `export`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Its number or name
    #[arg(value_name = "ID|NAME")]
    image: String,
    /// raw, qcow2, vmdk, vhdx, vhd or vdi [default: what FILE ends in, raw otherwise]
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    format: Option<Format>,
    /// Only these bytes of the disk, first and last included; raw only
    #[arg(long, value_name = "START-END", value_parser = parse_range)]
    range: Option<Part>,
    /// Where to write it; - for stdout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    remote: Remote,
}

fn parse_format(text: &str) -> Result<Format, String> {
    text.parse()
        .map_err(|_| "raw, qcow2, vmdk, vhdx, vhd or vdi".to_owned())
}

fn format_of(args: &Args) -> Format {
    let by_name = Format::of_file(&args.output);
    args.format.or(by_name).unwrap_or(Format::Raw)
}

/// Bytes of a disk: the first, and the last; none for all that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    first: u64,
    last: Option<u64>,
}

/// What is to be downloaded, from what the server says of a file before it sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    etag: String,
    /// Of what is downloaded; none where it is made while it is sent, and only as a whole.
    length: Option<u64>,
    /// Where only a part of the file is wanted: where that begins.
    part: Option<u64>,
    /// Of what is downloaded. The server knows it of whole files only.
    sha256: Option<Vec<u8>>,
}

impl Head {
    /// The byte of the file that is the first one to come.
    fn from(&self) -> u64 {
        self.part.unwrap_or(0)
    }

    /// What names exactly these bytes.
    fn tag(&self) -> String {
        match self.part {
            Some(from) => format!("{} {from}+{}", self.etag, self.length.unwrap_or(0)),
            None => self.etag.clone(),
        }
    }

    /// Only these bytes of the file.
    fn only(self, part: Part) -> Outcome<Self> {
        let length = self.length.unwrap_or(0);
        let end = part.last.map_or(length, |last| last.saturating_add(1));
        if part.first >= end || end > length {
            return Err(Failure::Failed(format!(
                "the disk has {length} bytes, from 0 to {}; choose a --range inside",
                length.saturating_sub(1)
            )));
        }
        Ok(Self {
            length: Some(end - part.first),
            part: Some(part.first),
            sha256: None,
            ..self
        })
    }
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
    let format = format_of(&args);
    if args.range.is_some() && format != Format::Raw {
        return Err(Failure::Usage(
            "--range is of the raw disk: say --format raw".into(),
        ));
    }
    let client = args.remote.client(context)?;
    let id = image_find(&client, &args.image, true).await?;
    let query: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("format", format.as_str())
        .finish();
    let path = format!("/v2/images/{id}/download?{query}");
    let mut head = head_read(&client.send(client.request(Method::HEAD, &path)?).await?)?;
    if let Some(part) = args.range {
        head = head.only(part)?;
    }

    let progress = Arc::new(Progress::new());
    let target = (!to_stdout).then_some(args.output.as_path());
    let mut sink = Sink::open(target, &head).map_err(|e| unwritable(&args, &e))?;
    progress.step(
        &format!("exporting image {id} as {}", format.as_str()),
        head.length,
    );
    let work = Work {
        client: &client,
        image: id,
        path: &path,
        head: &head,
        progress: &progress,
    };
    let done = tokio::select! {
        done = transfer(&work, &mut sink) => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::Failed("interrupted".into())),
    };
    progress.clear();
    if done.is_err() && head.length.is_none() {
        // Nothing can go on with it.
        sink.part().map(std::fs::remove_file).transpose().ok();
    }
    done.map_err(|failure| kept(failure, head.length.and(sink.part())))?;
    if head.sha256.is_none() && head.part.is_none() {
        // Of some formats the server knows it once it has sent all of it.
        head.sha256 = sha256_ask(&client, &path, &head).await;
    }
    let replaces = target.is_some_and(std::path::Path::is_file);
    let length = sink.at();
    let sha256 = sink
        .finish(head.sha256.clone())
        .await
        .map_err(|e| unwritable(&args, &e))?;
    if to_stdout {
        return Ok(());
    }
    if replaces {
        progress.note(&format!(
            "replaced the file that was at {}",
            args.output.display()
        ));
    }
    head.length = Some(length);
    tell(&args, context, &head, (id, &sha256), started);
    Ok(())
}

/// The digest of the same bytes, if the server knows it by now.
async fn sha256_ask(client: &Client, path: &str, head: &Head) -> Option<Vec<u8>> {
    let response = client.send(client.request(Method::HEAD, path).ok()?).await.ok()?;
    let now = head_read(&response).ok()?;
    now.sha256.filter(|_| now.etag == head.etag)
}

/// Says what was written where.
fn tell(args: &Args, context: &Context, head: &Head, (id, sha256): (i64, &[u8]), started: Instant) {
    let length = head.length.unwrap_or(0);
    let document = json!({ "export": {
        "image_id": id,
        "format": format_of(args),
        "file": args.output,
        "from_byte": head.from(),
        "length": length,
        "sha256": hex::encode(sha256),
        "checked": head.sha256.is_some(),
    }});
    context.output.document(&document, || {
        format!(
            "{}: {} in {:.1} s\nSHA-256 {} ({})",
            args.output.display(),
            output::bytes(length),
            started.elapsed().as_secs_f64(),
            hex::encode(sha256),
            checked(head),
        )
    });
}

/// What the digest was compared with.
fn checked(head: &Head) -> &'static str {
    match (&head.sha256, head.part) {
        (Some(_), _) => "checked",
        (None, None) => "not checked yet: the server is still hashing",
        (None, Some(_)) => "of this part, for which the server has none to compare",
    }
}

fn unwritable(args: &Args, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot write `{}`: {error}", args.output.display()))
}

/// A failure, and where what had arrived by then is.
fn kept(failure: Failure, part: Option<&std::path::Path>) -> Failure {
    let Some(part) = part else { return failure };
    let with = |reason: String| {
        format!(
            "{reason}; what arrived is kept in {}: the same command goes on with it, and it can be removed",
            part.display()
        )
    };
    match failure {
        Failure::Failed(reason) => Failure::Failed(with(reason)),
        Failure::Absent(reason) => Failure::Absent(with(reason)),
        other => other,
    }
}

/// What is downloaded.
struct Work<'a> {
    client: &'a Client,
    image: i64,
    path: &'a str,
    head: &'a Head,
    progress: &'a Progress,
}

/// Fills the sink, from where it is, over as many connections as it takes.
async fn transfer(work: &Work<'_>, sink: &mut Sink) -> Outcome {
    let (head, progress) = (work.head, work.progress);
    let (mut failures, mut told) = (0, String::new());
    progress.set(sink.at());
    if head.length.is_none() {
        return match part(work, sink).await {
            Ok(()) => Ok(()),
            Err(Cut::Final(failure)) => Err(failure),
            Err(Cut::Damaged(failure)) => Err(damaged(work, &failure).await),
            Err(Cut::Passing(failure)) => Err(Failure::Failed(format!(
                "{}; a file of this format is sent whole, so the export begins anew: run the command again",
                reason(&failure)
            ))),
        };
    }
    while head.length.is_some_and(|length| sink.at() < length) {
        let before = sink.at();
        let failure = match part(work, sink).await {
            Ok(()) => continue,
            Err(Cut::Final(failure)) => return Err(failure),
            Err(Cut::Damaged(failure)) => return Err(damaged(work, &failure).await),
            Err(Cut::Passing(failure)) => failure,
        };
        failures = if sink.at() > before { 1 } else { failures + 1 };
        if failures == ATTEMPTS {
            return Err(given_up(&failure, sink.at()));
        }
        let reason = reason(&failure);
        if is_new(&told, reason) {
            progress.note(&format!("{reason}; going on at byte {}", sink.at()));
            reason.clone_into(&mut told);
        }
        tokio::time::sleep(Duration::from_secs(1 << (failures - 1))).await;
    }
    Ok(())
}

/// Whether a reason is another than the one told last, whatever the number of the request.
fn is_new(told: &str, reason: &str) -> bool {
    let sentence = |text: &str| text.split(" (request ").next().map(str::to_owned);
    sentence(told) != sentence(reason)
}

fn reason(failure: &Failure) -> &str {
    match failure {
        Failure::Failed(reason) | Failure::Absent(reason) | Failure::Usage(reason) => reason,
        Failure::Told => "the connection was cut",
    }
}

/// The last attempt failed as well. What the server said tells why.
fn given_up(failure: &Failure, at: u64) -> Failure {
    let reason = reason(failure);
    Failure::Failed(format!(
        "{reason}; given up at byte {at} after {ATTEMPTS} attempts"
    ))
}

/// Stored data is damaged, which trying again does not mend: the server's sentence, and what else it knows to be
/// damaged.
async fn damaged(work: &Work<'_>, failure: &Failure) -> Failure {
    let image = work.image;
    let (known, is_lost) = match work.client.get(&format!("/v2/images/{image}")).await {
        Ok(answer) => (
            show::damaged_ranges(&answer["image"]),
            show::is_lost(&answer["image"]),
        ),
        Err(_) => (Vec::new(), false),
    };
    if is_lost {
        return Failure::Failed(lost_text(reason(failure)));
    }
    Failure::Failed(damaged_text(reason(failure), image, &known))
}

fn lost_text(reason: &str) -> String {
    format!(
        "{reason} All of it is damaged.\nTo heal it, import the same content again, under any name, or bring it back from a copy of the \
         store: `cistern store heal COPY`"
    )
}

fn damaged_text(reason: &str, image: i64, known: &[String]) -> String {
    let known = match known {
        [] => String::new(),
        ranges => format!(" Known to be damaged so far: bytes {}.", ranges.join(", ")),
    };
    format!(
        "{reason}{known}\nTo heal it, import the same content again, under any name. To save what is whole: `cistern image \
         export {image} --range START-END -o FILE`, with ranges that leave the damaged ones out"
    )
}

/// Why a part did not arrive.
enum Cut {
    /// Trying again may help.
    Passing(Failure),
    /// Stored data is damaged.
    Damaged(Failure),
    /// It will not.
    Final(Failure),
}

impl From<Failure> for Cut {
    fn from(failure: Failure) -> Self {
        Self::Final(failure)
    }
}

/// One connection's worth.
async fn part(work: &Work<'_>, sink: &mut Sink) -> Result<(), Cut> {
    let Work {
        client, path, head, ..
    } = work;
    let mut request = client.request(Method::GET, path)?;
    let is_part = head.part.is_some() || sink.at() > 0;
    if is_part {
        // `If-Range`: should the file be another by now, the answer is 200, and we stop.
        let from = head.from() + sink.at();
        let end = head.length.map(|length| head.from() + length - 1);
        let last = end.map(|last| last.to_string()).unwrap_or_default();
        request = request
            .header("range", format!("bytes={from}-{last}"))
            .header("if-range", &head.etag);
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Err(Cut::Passing(client.unreachable(&error))),
    };
    let status = response.status();
    if !status.is_success() {
        return Err(refused(response).await);
    }
    if is_part != (status == StatusCode::PARTIAL_CONTENT) || head_etag(&response) != Some(head.etag.as_str())
    {
        return Err(Cut::Final(Failure::Failed(
            "the image is another than when the export began; run the command again".into(),
        )));
    }
    receive(work, response, sink).await
}

/// Whether what was refused may be had later.
async fn refused(response: Response) -> Cut {
    let is_fault = response.status().is_server_error();
    let (word, failure) = client::refusal_read(response).await;
    match word.as_str() {
        "damaged" => Cut::Damaged(failure),
        _ if is_fault => Cut::Passing(failure),
        _ => Cut::Final(failure),
    }
}

/// Writes what arrives.
async fn receive(work: &Work<'_>, mut response: Response, sink: &mut Sink) -> Result<(), Cut> {
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) => {
                let end = sink.at() + bytes.len() as u64;
                if work.head.length.is_some_and(|length| end > length) {
                    return Err(Cut::Final(Failure::Failed(
                        "the server sent more than it said".into(),
                    )));
                }
                let written = sink.write(bytes).await;
                written.map_err(|e| Cut::Final(Failure::Failed(format!("cannot write the file: {e}"))))?;
                work.progress.set(end);
            }
            // Without a length, what carries the body says whether it is whole.
            Ok(None) if work.head.length.is_none_or(|length| sink.at() == length) => return Ok(()),
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
    let length = text("content-length").and_then(|t| t.parse().ok());
    let is_sent_whole = text("accept-ranges") == Some("none");
    let Some(etag) = text("etag").filter(|_| length.is_some() || is_sent_whole) else {
        return Err(Failure::Failed(
            "the server did not say what it would send; is it a Cistern?".into(),
        ));
    };
    Ok(Head {
        etag: etag.to_owned(),
        length,
        part: None,
        sha256: text("repr-digest").and_then(digest_read),
    })
}

/// A range as HTTP writes it: `START-END`, both included, or `START-` for the rest.
fn parse_range(text: &str) -> Result<Part, String> {
    let wrong = || "write it as START-END, the first and the last byte, or as START- for the rest".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let last = if last.is_empty() {
        None
    } else {
        Some(number(last)?)
    };
    let first = number(first)?;
    if last.is_some_and(|last| last < first) {
        return Err(format!("{text} ends before it begins; {}", wrong()));
    }
    Ok(Part { first, last })
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
    fn a_failure_says_where_what_arrived_is() {
        let part = std::path::Path::new("disk.raw.part-1");
        let Failure::Failed(said) = kept(Failure::Failed("cut off".into()), Some(part)) else {
            panic!("a sentence");
        };
        assert!(
            said.starts_with("cut off; ") && said.contains("disk.raw.part-1: the same command"),
            "{said}"
        );
        let plain = kept(Failure::Failed("cut off".into()), None);
        assert!(matches!(plain, Failure::Failed(said) if said == "cut off"));
    }

    #[test]
    fn a_reason_is_told_once() {
        let away = |request: &str| format!("The store does not answer. (request {request})");
        assert!(is_new("", &away("a")) && !is_new(&away("a"), &away("b")));
        assert!(is_new(&away("a"), "the connection was cut"));
    }

    #[test]
    fn of_what_is_lost_nothing_is_promised() {
        let told = lost_text("Image 7 is damaged: bytes 0-9 of its disk.");
        assert!(
            told.contains("import the same content again") && !told.contains("--range"),
            "{told}"
        );
    }

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
    fn damage_is_told_with_all_that_is_known_of_it_and_what_helps() {
        let told = damaged_text(
            "Image 7 is damaged: bytes 0-65535",
            7,
            &["0-65535".into(), "8-9".into()],
        );
        for part in [
            "Image 7 is damaged: bytes 0-65535",
            "bytes 0-65535, 8-9.",
            "import the same content again",
            "cistern image export 7 --range START-END",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }

    #[test]
    fn a_range_includes_both_its_ends() {
        let head = Head {
            etag: "\"x\"".into(),
            length: Some(100),
            part: None,
            sha256: Some(vec![7; 32]),
        };
        let of = |text: &str| {
            let part = parse_range(text).map_err(Failure::Usage)?;
            let cut = head.clone().only(part)?;
            assert_eq!(cut.sha256, None, "the digest is of the whole");
            assert_ne!(cut.tag(), head.tag());
            Ok::<_, Failure>((cut.from(), cut.length.expect("is known")))
        };
        for (text, from, length) in [
            ("0-0", 0, 1),
            ("10-19", 10, 10),
            ("90-", 90, 10),
            ("0-99", 0, 100),
        ] {
            assert_eq!(of(text).expect("inside"), (from, length), "{text}");
        }
        for outside in ["100-", "0-100", "100-100", "0-18446744073709551615"] {
            assert!(matches!(of(outside), Err(Failure::Failed(_))), "{outside}");
        }
        for wrong in ["", "-", "-5", "5", "9-8", "a-b", "1..2"] {
            assert!(matches!(of(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
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
