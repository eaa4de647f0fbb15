//! What goes over the socket: JSON, one line each. The client sends a [`Request`], the file's descriptor with its
//! first byte; the server answers with an [`Answer`] whenever something changed, until the import has ended. A
//! second line from the client, whatever it says, cancels.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::config::Secret;

/// Longest line, in bytes.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Descriptors that are looked at; the kernel closes the others.
const MAX_DESCRIPTORS: usize = 4;

/// What is to be made of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// An API token.
    #[serde(serialize_with = "expose")]
    pub token: Secret,
    /// The image's name.
    pub name: String,
    /// A region's slug.
    pub region: String,
    /// The image's tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Only shown.
    #[serde(default)]
    pub distribution: Option<String>,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// The SHA-256 that the file must have.
    #[serde(default)]
    pub expected_sha256: Option<String>,
}

/// The token leaves this process only here.
fn expose<S: serde::Serializer>(token: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose())
}

/// How the import is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The image as `/v2/images/ID` shows it.
    Image(serde_json::Value),
    /// It was refused: a sentence. The last answer.
    Error(String),
}

/// Lines of JSON, with descriptors, over a socket.
pub struct Lines {
    stream: UnixStream,
    buffer: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Lines {
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    /// The socket itself.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The descriptors that came so far.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// The next line, or `None` where the other end closed. Nothing is lost when this is dropped half-way.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
            }
            let (buffer, descriptors, stream) = (&mut self.buffer, &mut self.descriptors, &self.stream);
            let read = stream.async_io(Interest::READABLE, || receive(stream, buffer, descriptors));
            if read.await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Sends a value as one line.
    pub async fn send(&self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.send_all(&line).await
    }

    /// Sends a value as one line, and a descriptor with it.
    pub async fn send_with(&self, value: &impl Serialize, descriptor: impl AsFd) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        let stream = &self.stream;
        let first = stream.async_io(Interest::WRITABLE, || send_descriptor(stream, &line, &descriptor));
        let sent = first.await?;
        self.send_all(&line[sent..]).await
    }

    async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn receive(stream: &UnixStream, buffer: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?.bytes;
    buffer.extend_from_slice(&bytes[..received]);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    descriptors.truncate(MAX_DESCRIPTORS);
    Ok(received)
}

fn send_descriptor(stream: &UnixStream, line: &[u8], descriptor: &impl AsFd) -> io::Result<usize> {
    let rights = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&rights));
    let sent = sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(sent)
}
