//! The client's half of an upload: sends a file, goes on after every cut.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::stream::{self, Stream};
use reqwest::{Method, RequestBuilder, Response, StatusCode};

use crate::cli::client::{self, Client};
use crate::cli::progress::Progress;
use crate::cli::{Failure, Outcome};

/// One request sends this much: small enough for proxies that hold a body back, large enough to cost nothing.
const PIECE_BYTES: u64 = 64 << 20;
/// Read from the file at once.
const READ_BYTES: u64 = 1 << 20;
/// What to say where the server does not let go of the upload.
const HELD: &str = "another request holds this upload on the server and does not come to an end";
/// Attempts in a row that move nothing before we give up.
const ATTEMPTS: u32 = 6;

/// An upload on the server.
pub struct Upload<'a> {
    client: &'a Client,
    /// Its path below the server's address.
    pub path: String,
    length: u64,
}

impl<'a> Upload<'a> {
    /// Begins one.
    pub async fn begin(client: &'a Client, name: &str, length: u64) -> Outcome<Upload<'a>> {
        let request = tus(client, Method::POST, "/v2/uploads")?
            .header("upload-length", length)
            .header("upload-metadata", format!("filename {}", BASE64.encode(name)));
        let response = client.send(request).await?;
        let location = header(&response, "location").unwrap_or_default();
        let id = location
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or_default();
        if id.is_empty() {
            return Err(Failure::Failed(
                "the server began an upload without saying where".into(),
            ));
        }
        Ok(Self {
            client,
            path: format!("/v2/uploads/{id}"),
            length,
        })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Sends the file until the server has all of it.
    pub async fn send(&self, file: &File, progress: &Arc<Progress>) -> Outcome {
        let mut offset = 0;
        let mut failures = 0;
        while offset < self.length {
            match self.piece(file, offset, progress).await {
                Ok(reached) if reached > offset => {
                    offset = reached;
                    failures = 0;
                }
                Ok(_) => return Err(Failure::Failed("the server took nothing of the file".into())),
                Err(Cut::Final(failure)) => return Err(failure),
                Err(Cut::Passing(failure)) => {
                    failures += 1;
                    if failures == ATTEMPTS {
                        return Err(given_up(&failure));
                    }
                    tokio::time::sleep(Duration::from_secs(1 << (failures - 1))).await;
                    let reached = self.offset().await.unwrap_or(offset);
                    if reached > offset {
                        failures = 0;
                    }
                    offset = reached;
                    progress.note(&format!("the connection was cut; going on at byte {offset}"));
                }
            }
            progress.set(offset);
        }
        Ok(())
    }

    /// Sends the next piece; returns where the upload is then.
    async fn piece(&self, file: &File, offset: u64, progress: &Arc<Progress>) -> Result<u64, Cut> {
        let length = PIECE_BYTES.min(self.length - offset);
        let body =
            read(file, offset, length, Arc::clone(progress)).map_err(|e| Cut::Final(unreadable(&e)))?;
        let request = tus(self.client, Method::PATCH, &self.path)?
            .header("upload-offset", offset)
            .header("content-type", "application/offset+octet-stream")
            .header("content-length", length)
            .body(reqwest::Body::wrap_stream(body));
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Err(Cut::Passing(self.client.unreachable(&error))),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(offset_of(&response)?);
        }
        // Another offset, a lock that a cut connection still holds, or a fault that may pass.
        let may_pass =
            status.is_server_error() || [StatusCode::CONFLICT, StatusCode::LOCKED].contains(&status);
        let failure = match status {
            // The server's own words are for programs that speak tus.
            StatusCode::LOCKED => Failure::Failed(HELD.into()),
            _ => client::refusal(response).await,
        };
        Err(if may_pass {
            Cut::Passing(failure)
        } else {
            Cut::Final(failure)
        })
    }

    async fn offset(&self) -> Outcome<u64> {
        let response = self
            .client
            .send(tus(self.client, Method::HEAD, &self.path)?)
            .await?;
        offset_of(&response)
    }
}

/// The last attempt failed as well. The caller removes what the server has.
fn given_up(failure: &Failure) -> Failure {
    let (Failure::Failed(reason) | Failure::Absent(reason) | Failure::Usage(reason)) = failure else {
        return Failure::Told;
    };
    Failure::Failed(format!(
        "{reason}; given up after {ATTEMPTS} attempts: mend that, then run the command again, which begins anew"
    ))
}

/// Why a piece did not arrive.
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

fn tus(client: &Client, method: Method, path: &str) -> Outcome<RequestBuilder> {
    Ok(client.request(method, path)?.header("tus-resumable", "1.0.0"))
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn offset_of(response: &Response) -> Outcome<u64> {
    header(response, "upload-offset")
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::Failed("the server did not say how much of the file it has".into()))
}

/// A part of the file, read as it is sent.
fn read(
    file: &File,
    offset: u64,
    length: u64,
    progress: Arc<Progress>,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(stream::try_unfold((file, length), move |(mut file, left)| {
        let progress = Arc::clone(&progress);
        async move {
            if left == 0 {
                return Ok(None);
            }
            let work = move || {
                let wanted = usize::try_from(left.min(READ_BYTES)).unwrap_or(usize::MAX);
                let mut buffer = vec![0; wanted];
                let got = file.read(&mut buffer)?;
                buffer.truncate(got);
                Ok::<_, io::Error>((file, Bytes::from(buffer)))
            };
            let (file, bytes) = tokio::task::spawn_blocking(work)
                .await
                .map_err(io::Error::other)??;
            if bytes.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file became shorter",
                ));
            }
            let read = bytes.len() as u64;
            progress.add(read);
            Ok(Some((bytes, (file, left - read))))
        }
    }))
}

pub fn unreadable(error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot read the file: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_locked_out_hears_what_to_do() {
        let Failure::Failed(text) = given_up(&Failure::Failed(HELD.into())) else {
            panic!("a sentence");
        };
        assert!(text.contains("run the command again"), "{text}");
        assert!(!text.contains("HEAD"), "nobody types that: {text}");
    }
}
