//! How many files this process may have open, and how many connections that leaves room for.
//!
//! A connection too many is told to wait; a file too many fails whoever opens it: the database, an import, a parser. So
//! connections get what those leave.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Files that the server needs whatever it does: listeners, logs, locks, the runtime's own, objects being looked at.
const ALWAYS: u64 = 128;
/// Files of one job: what is fetched and unwrapped, the pipes of a parser, packs on their way to the store.
const A_WORKER: u64 = 16;
/// Files of one connection to the database: SQLite has three.
const A_DATABASE_CONNECTION: u64 = 3;
/// Files of one connection: its socket, and what its request reads or writes. Where HTTP/2 has several at once, those
/// besides the first take theirs from connections that are not there ([`super::rooms`]).
pub(super) const A_CONNECTION: u32 = 2;
/// Where there is not even room for the rest, connections get this part of all files, so that somebody can look.
const AT_LEAST: u64 = 4;

/// Lets this process open as many files as the system allows it; the limit it starts with is often 1024, which is
/// there for programs that use select(2).
pub(super) fn files_raise() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

/// Files that this process may have open at most; none where there is no limit.
pub fn files_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    limit.maximum
}

/// Connections that a listener takes, of those that the settings allow it, where so many files may be open.
pub fn connections(config: &Config, files: Option<u64>) -> usize {
    let wanted = config.http.max_connections;
    let Some(files) = files else { return wanted };
    let room = files.saturating_sub(reserve(config)).max(files / AT_LEAST);
    let each = usize::try_from(room / u64::from(A_CONNECTION) / listeners(config)).unwrap_or(usize::MAX);
    each.clamp(1, wanted.max(1))
}

/// What is wrong with this limit of files for these settings, and what helps; none where it is high enough.
pub fn files_shortage(config: &Config, files: Option<u64>) -> Option<String> {
    let (room, wanted) = (connections(config, files), config.http.max_connections);
    let needed = reserve(config) + listeners(config) * u64::from(A_CONNECTION) * wanted as u64;
    let files = files.filter(|files| *files < needed)?;
    Some(format!(
        "at most {files} files may be open, which leaves room for {room} connections at each listener, of {wanted} \
         (`http.max_connections`); allow {needed} (`LimitNOFILE={needed}` in a systemd unit, `ulimit -Hn {needed}` in a shell), or lower \
         `http.max_connections`"
    ))
}

/// Files that are kept for everything but connections.
fn reserve(config: &Config) -> u64 {
    ALWAYS
        + A_WORKER * config.jobs.workers as u64
        + A_DATABASE_CONNECTION * u64::from(config.database_max_connections)
}

fn listeners(config: &Config) -> u64 {
    if config.one_port() { 1 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_the_others_leave() {
        let config = Config::default();
        let wanted = config.http.max_connections;
        assert_eq!(connections(&config, None), wanted);
        assert_eq!(connections(&config, Some(1 << 20)), wanted);
        assert_eq!(files_shortage(&config, None), None);
        assert_eq!(files_shortage(&config, Some(1 << 20)), None);
        for files in [4, 64, 256, 1024, 4096] {
            let each = connections(&config, Some(files)) as u64;
            assert!(each >= 1, "{files}");
            let taken = each * u64::from(A_CONNECTION) * listeners(&config);
            let is_scarce = files < 2 * reserve(&config);
            assert!(is_scarce || taken + reserve(&config) <= files, "{files}: {each}");
        }
    }

    #[test]
    fn what_is_said_to_be_enough_is() {
        let config = Config::default();
        let told = files_shortage(&config, Some(1024)).expect("is too few");
        let needed = told
            .split("LimitNOFILE=")
            .nth(1)
            .and_then(|rest| rest.split('`').next());
        let needed: u64 = needed.and_then(|text| text.parse().ok()).expect("a number");
        assert_eq!(connections(&config, Some(needed)), config.http.max_connections);
        assert_eq!(files_shortage(&config, Some(needed)), None);
        assert!(files_shortage(&config, Some(needed - 1)).is_some());
    }
}
