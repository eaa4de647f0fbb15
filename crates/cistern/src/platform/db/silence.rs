//! How long one end of a connection to PostgreSQL believes in the other without hearing of it.
//!
//! Nobody says goodbye when a machine dies, sleeps, or its cable is pulled. What a server of ours held in a transaction
//! then would be held for two hours, or for ever where it only sleeps, and all others would wait for it: the gate of
//! the store is such a row. And a server of ours whose answer was lost would wait for it for ever, with the job or the
//! request behind it. So PostgreSQL is told to end a transaction of which it hears nothing, and a connection whose
//! other end does not acknowledge; and the kernel here is told to ask after a silent PostgreSQL.
//!
//! The driver neither sets these options of a socket nor shows its socket. It is found among the open files of this
//! process by the port that it leads to.

use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::net::{SocketAddr, getpeername, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::rows;

/// Transactions are short: nothing else is waited for in one (ARCHITECTURE.md, invariants). After that the next
/// statement fails, with an error that means a database that was away.
const TRANSACTION: &str = "10s";
/// What is sent has to be acknowledged in this time.
const ACKNOWLEDGED: Duration = Duration::from_secs(15);
/// A connection that has been silent for so long is asked after, this often, and given up after as many questions.
const ASK_AFTER: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_TIMES: u32 = 2;

/// The same for PostgreSQL's end (its manual, 19.3.2 and 19.11.1). Numbers are seconds, but for the milliseconds of
/// `tcp_user_timeout`.
const SERVER: [(&str, &str); 5] = [
    ("idle_in_transaction_session_timeout", TRANSACTION),
    ("tcp_user_timeout", "15000"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "2"),
];

/// The port that a `postgres://` URL leads to.
pub fn port_of(url: &str) -> u16 {
    let port = url::Url::parse(url).ok().and_then(|url| url.port());
    port.unwrap_or(5432)
}

/// Bounds the silence of a new connection to `port`, at both ends.
pub async fn bound(conn: &mut sqlx::PgConnection, port: u16) -> Result<(), sqlx::Error> {
    rows::postgres_set(conn, &SERVER).await?;
    if let Err(error) = sockets_watch(port) {
        // A sandbox may forbid to look. All works without, until an answer is lost on its way.
        tracing::warn!(%error, "cannot have connections to the database watched: one that is cut off may hang");
    }
    Ok(())
}

/// Watches all sockets of this process that lead to this port; gives how many.
fn sockets_watch(port: u16) -> std::io::Result<usize> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    let mut watched = 0;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match pidfd_getfd(&this, number, PidfdGetfdFlags::empty()) {
            Ok(file) if leads_to(&file, port) => {
                watch(&file)?;
                watched += 1;
            }
            // Another file, or one that was closed meanwhile.
            Ok(_) | Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(watched)
}

fn leads_to(file: &OwnedFd, port: u16) -> bool {
    let Ok(Some(peer)) = getpeername(file) else {
        return false;
    };
    SocketAddr::try_from(peer).is_ok_and(|peer| peer.port() == port)
}

/// The options are the socket's, whichever of its descriptors they are set by.
fn watch(socket: &OwnedFd) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(socket, ASK_AFTER)?;
    sockopt::set_tcp_keepintvl(socket, ASK_EVERY)?;
    sockopt::set_tcp_keepcnt(socket, ASK_TIMES)?;
    sockopt::set_tcp_user_timeout(
        socket,
        u32::try_from(ACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX),
    )?;
    sockopt::set_socket_keepalive(socket, true)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_sockets_that_lead_to_a_port_are_found_and_watched_and_no_others() {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let (database, other) = (listen(), listen());
        let connect = |to: &TcpListener| {
            let address = to.local_addr().expect("is bound");
            TcpStream::connect(address).expect("connects")
        };
        let (watched, unwatched) = (connect(&database), connect(&other));
        let port = database.local_addr().expect("is bound").port();
        assert_eq!(sockets_watch(port).expect("may look"), 1);
        assert!(sockopt::socket_keepalive(&watched).expect("can be asked"));
        assert_eq!(sockopt::tcp_keepidle(&watched).expect("can be asked"), ASK_AFTER);
        assert_eq!(sockopt::tcp_user_timeout(&watched).expect("can be asked"), 15_000);
        assert!(!sockopt::socket_keepalive(&unwatched).expect("can be asked"));
    }

    #[test]
    fn a_database_without_a_port_has_the_usual_one() {
        assert_eq!(port_of("postgres://me@db/rows"), 5432);
        assert_eq!(port_of("postgres://me@db:6432/rows"), 6432);
    }
}
