//! The command's end of the socket.

use std::fs::File;
use std::io;
use std::path::Path;

use tokio::net::UnixStream;

use super::wire::{Answer, Lines, Request};

/// The socket's name in the data folder.
pub const SOCKET: &str = "cistern.sock";

/// A server on this machine that takes open files.
pub struct Connection {
    lines: Lines,
}

/// Connects, where a server answers at `socket`.
pub async fn connect(socket: &Path) -> io::Result<Connection> {
    let stream = UnixStream::connect(socket).await?;
    Ok(Connection {
        lines: Lines::new(stream),
    })
}

impl Connection {
    /// Gives the server an open file.
    pub async fn hand_over(&self, request: &Request, file: &File) -> io::Result<()> {
        self.lines.send_with(request, file).await
    }

    /// What changed; `None` where the server went away.
    pub async fn next(&mut self) -> io::Result<Option<Answer>> {
        let Some(line) = self.lines.next().await? else {
            return Ok(None);
        };
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// Asks the server to stop the import; the answers tell when it has.
    pub async fn cancel(&self) -> io::Result<()> {
        self.lines.send(&"cancel").await
    }
}
