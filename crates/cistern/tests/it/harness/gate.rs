//! A gate before the PostgreSQL server: shut, the database is away, as after a stop of its server.

use std::sync::Mutex;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use super::process::free_port;
use super::world::{Place, place_if_there};

/// A port of its own that leads to PostgreSQL while it is open.
pub(crate) struct Gate {
    port: u16,
    behind: u16,
    /// What passes the gate; dropping it cuts every connection, and new ones are refused.
    passing: Mutex<Option<Runtime>>,
}

impl Gate {
    /// An open gate, and a place whose database is behind it; `None` where a program is missing.
    pub(crate) fn start() -> Option<(Self, Place)> {
        let mut place = place_if_there("postgres+s3")?;
        let behind = super::world::postgres().port();
        let port = free_port();
        let (from, to) = (format!(":{behind}/"), format!(":{port}/"));
        place.database = place.database.map(|url| url.replace(&from, &to));
        let passing = Mutex::default();
        let gate = Self {
            port,
            behind,
            passing,
        };
        gate.open();
        Some((gate, place))
    }

    /// Lets pass.
    pub(crate) fn open(&self) {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = std::net::TcpListener::bind(("127.0.0.1", self.port)).expect("its port is its own");
        listener.set_nonblocking(true).expect("it can wait");
        runtime.spawn(accept(listener, self.behind));
        *self.passing.lock().expect("not poisoned") = Some(runtime);
    }

    /// Cuts what passes, and refuses what comes.
    pub(crate) fn shut(&self) {
        if let Some(runtime) = self.passing.lock().expect("not poisoned").take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shut();
    }
}

async fn accept(listener: std::net::TcpListener, behind: u16) {
    let listener = TcpListener::from_std(listener).expect("it is bound");
    while let Ok((mut client, _)) = listener.accept().await {
        tokio::spawn(async move {
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", behind)).await else {
                return;
            };
            // What goes wrong on the way is for the client to notice.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}
