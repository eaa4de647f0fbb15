//! Settings: what they are, where they come from, and the only place that reads the environment.
//!
//! Later wins: the defaults here, then one TOML file, then `CISTERN_…` in the environment, then flags. Every
//! setting is one row of [`settings::SETTINGS`]; names, flags, help and `docs/configuration.md` are made from it.

mod check;
mod env;
mod load;
mod secret;
pub mod settings;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::Url;

pub use env::Env;
pub use load::{Loaded, Origin, load};
pub use secret::Secret;

/// Everything that can be set. Plain data: [`load`] has checked it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The folder that holds everything that is not elsewhere by `database` or `objects`.
    pub data: PathBuf,
    /// Where the API and the console listen; port 0 takes any free one.
    pub listen_api: SocketAddr,
    /// Where the container registry listens; the same as `listen_api` to share one port by host name.
    pub listen_registry: SocketAddr,
    /// `sqlite:FILE` or `postgres://…`; see [`Config::database`].
    pub database: Option<Secret>,
    /// Connections kept to the database at most.
    pub database_max_connections: u32,
    /// A folder or `s3://bucket/prefix?endpoint=…&region=…`; see [`Config::objects`].
    pub objects: Option<String>,
    /// Who shares stored data with whom. Decided when the store is made; [`App::open`](crate::app::App::open) refuses
    /// another one later.
    pub dedup_domain: store::DedupDomain,
    /// The S3 access key's id.
    pub objects_access_key: Option<Secret>,
    /// The S3 access key's secret.
    pub objects_secret_key: Option<Secret>,
    /// A file with a key of the store, where the store is encrypted.
    pub key_file: Option<PathBuf>,
    /// A command that prints one.
    pub key_command: Option<String>,
    /// The file with the key that secrets in the database are sealed with; see [`Config::secrets_key_file`].
    pub secrets_key_file: Option<PathBuf>,
    /// The addresses that users see, where they are not the listeners'.
    pub external_url: ExternalUrl,
    /// The host names that share one port.
    pub host: Hosts,
    /// Networks whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Certificates.
    pub tls: Tls,
    /// Allows a listener off loopback without TLS.
    pub insecure_http: bool,
    /// Limits on connections and requests.
    pub http: Http,
    /// Limits on what users let us download.
    pub fetch: Fetch,
    /// Limits on disk images.
    pub image: Image,
    /// Limits on uploads.
    pub upload: Upload,
    /// How often a token may call.
    pub rate_limit: RateLimit,
    /// What happened, and for how long it is kept.
    pub events: Events,
    /// Long work.
    pub jobs: Jobs,
    /// Freeing what nothing needs.
    pub gc: Gc,
    /// Reading what is stored again.
    pub scrub: Scrub,
    /// What was read and is kept at hand.
    pub cache: Cache,
    /// Disks that fill.
    pub disk: Disk,
    /// What is logged.
    pub log: Log,
    /// How long a stop may take, in seconds.
    pub shutdown_seconds: u64,
}

/// Addresses that users see.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExternalUrl {
    /// Of the API and the console.
    pub api: Option<Url>,
    /// Of the registry.
    pub registry: Option<Url>,
}

/// Host names.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Hosts {
    /// The API's.
    pub api: Option<String>,
    /// The console's.
    pub console: Option<String>,
    /// The registry's.
    pub registry: Option<String>,
}

/// Certificates.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tls {
    /// A PEM file with the certificate and its chain.
    pub cert: Option<PathBuf>,
    /// A PEM file with its private key.
    pub key: Option<PathBuf>,
    /// Makes and renews a certificate of our own under `data`/tls.
    pub self_signed: bool,
}

/// Limits on connections and requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Http {
    /// Open connections a listener takes at most, fewer where too few files may be open; further ones wait.
    pub max_connections: usize,
    /// Downloads that a token may have open at once.
    pub max_downloads: usize,
    /// How long a request's head may take, and a connection may wait for its next request, in seconds.
    pub header_seconds: u64,
    /// How long a connection may move no byte in either direction, and one request of an HTTP/2 connection send
    /// nothing, or its answer be left unread, in seconds; pings do not count.
    pub idle_seconds: u64,
    /// Largest head of a request, in bytes.
    pub max_header_bytes: usize,
    /// Largest body of a request that is not an upload, in bytes.
    pub max_body_bytes: usize,
}

/// Limits on what users let us download.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fetch {
    /// Networks that may be fetched from although they are private.
    pub allow: Vec<IpNet>,
    /// Largest download, in bytes.
    pub max_bytes: u64,
    /// How long a download may take in all, in seconds.
    pub timeout_seconds: u64,
    /// How many redirects are followed.
    pub redirects: u32,
}

/// Limits on disk images.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Image {
    /// Largest virtual size, in bytes.
    pub max_virtual_bytes: u64,
}

/// Limits on uploads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upload {
    /// Largest file, in bytes.
    pub max_bytes: u64,
    /// How long an upload is kept after its last byte came, in hours.
    pub expiry_hours: u64,
}

/// How often a token may call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RateLimit {
    /// Requests a token may make in any hour.
    pub per_hour: u32,
    /// Requests a token may make in any minute.
    pub per_minute: u32,
    /// Requests without a valid token that one address may make in any minute.
    pub anonymous_per_minute: u32,
}

/// What happened, and for how long it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Events {
    /// In days.
    pub retention_days: u32,
}

/// Long work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Jobs {
    /// Jobs that run at once in this process.
    pub workers: usize,
    /// How long a job stays with a server that does not answer, in seconds.
    pub lease_seconds: u32,
    /// How long a job that has ended is kept, in days.
    pub keep_days: u32,
}

impl Jobs {
    /// How long a job stays with a server that does not answer.
    pub fn lease(&self) -> TimeDelta {
        TimeDelta::seconds(i64::from(self.lease_seconds))
    }
}

/// Freeing what nothing needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gc {
    /// Minutes between the end of a run and the next; 0 for none by itself.
    pub every_minutes: u32,
    /// Minutes that garbage can still be used again by an import of the same content.
    pub grace_minutes: u32,
    /// Packs are written anew when less than so many percent of them are needed; 0 for never.
    pub repack_below_percent: u8,
}

/// Reading what is stored again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scrub {
    /// Everything is read once in so many days; 0 for never.
    pub every_days: u32,
    /// How fast.
    pub mib_per_second: u64,
}

impl Scrub {
    /// The days in microseconds.
    pub fn every_us(&self) -> i64 {
        i64::from(self.every_days) * 86_400_000_000
    }
}

/// Packs of a bucket that are kept at hand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cache {
    /// MiB that packs of a bucket take on the disk of the data folder at most; 0 for none.
    pub mib: u64,
    /// MiB that decoded chunks take in memory at most; 0 for none.
    pub memory_mib: u64,
}

/// Disks that fill.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// Nothing new is taken in while less than so many percent are free.
    pub refuse_below_percent: u8,
    /// What can be restored is given up, and gc run at once, while less than so many percent are free.
    pub purge_below_percent: u8,
}

/// What is logged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,cistern::images=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the rows live, from `database`.
#[derive(Clone, Debug)]
pub enum Database {
    /// A file; its folder must exist.
    Sqlite(PathBuf),
    /// A `postgres://` URL.
    Postgres(Secret),
}

/// Where the objects live, from `objects`.
#[derive(Clone, Debug)]
pub enum Objects {
    /// A folder.
    Folder(PathBuf),
    /// The `s3://` URL of a bucket; the keys to it are settings of their own.
    S3(String),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("./cistern-data"),
            listen_api: (Ipv4Addr::LOCALHOST, 8080).into(),
            listen_registry: (Ipv4Addr::LOCALHOST, 5000).into(),
            database: None,
            database_max_connections: 16,
            objects: None,
            dedup_domain: store::DedupDomain::default(),
            objects_access_key: None,
            objects_secret_key: None,
            key_file: None,
            key_command: None,
            secrets_key_file: None,
            external_url: ExternalUrl::default(),
            host: Hosts::default(),
            trusted_proxies: Vec::new(),
            tls: Tls::default(),
            insecure_http: false,
            http: Http::default(),
            fetch: Fetch::default(),
            image: Image {
                // DigitalOcean says 100 GB; a disk that was made as "100G" has 100 GiB.
                max_virtual_bytes: 100 << 30,
            },
            upload: Upload {
                // The largest disk, and what a format adds around it.
                max_bytes: 101 << 30,
                expiry_hours: 24,
            },
            rate_limit: RateLimit {
                per_hour: 360_000,
                per_minute: 30_000,
                anonymous_per_minute: 6_000,
            },
            events: Events { retention_days: 90 },
            jobs: Jobs {
                workers: 4,
                lease_seconds: 30,
                keep_days: 30,
            },
            gc: Gc {
                every_minutes: 60,
                grace_minutes: 60,
                repack_below_percent: 60,
            },
            scrub: Scrub {
                every_days: 30,
                mib_per_second: 16,
            },
            cache: Cache {
                mib: 4096,
                memory_mib: 32,
            },
            disk: Disk {
                refuse_below_percent: 5,
                purge_below_percent: 8,
            },
            log: Log {
                level: "info".into(),
                format: LogFormat::Text,
            },
            shutdown_seconds: 10,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_downloads: 64,
            header_seconds: 30,
            idle_seconds: 300,
            max_header_bytes: 64 << 10,
            max_body_bytes: 1 << 20,
        }
    }
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            max_bytes: 101 << 30,
            timeout_seconds: 6 * 3600,
            redirects: 5,
        }
    }
}

impl Config {
    /// The settings for a folder, everything else as by default.
    #[cfg(test)]
    pub fn for_data(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            ..Self::default()
        }
    }

    /// Where the rows live; `DIR/cistern.sqlite` unless set. Cannot fail after [`load`].
    pub fn database(&self) -> Database {
        let Some(url) = &self.database else {
            return Database::Sqlite(self.data.join("cistern.sqlite"));
        };
        match url.expose().strip_prefix("sqlite:") {
            Some(path) => Database::Sqlite(PathBuf::from(path.strip_prefix("//").unwrap_or(path))),
            None => Database::Postgres(url.clone()),
        }
    }

    /// SQLite's file, where the rows live in one.
    pub fn sqlite(&self) -> Option<PathBuf> {
        match self.database() {
            Database::Sqlite(path) => Some(path),
            Database::Postgres(_) => None,
        }
    }

    /// Where the objects live; `DIR/store` unless set. Cannot fail after [`load`].
    pub fn objects(&self) -> Objects {
        let Some(text) = &self.objects else {
            return Objects::Folder(self.data.join("store"));
        };
        if text.starts_with("s3://") {
            Objects::S3(text.clone())
        } else {
            Objects::Folder(PathBuf::from(text))
        }
    }

    /// The key that secrets in the database are sealed with; `DIR/secrets.key` unless set.
    pub fn secrets_key_file(&self) -> PathBuf {
        let usual = || self.data.join("secrets.key");
        self.secrets_key_file.clone().unwrap_or_else(usual)
    }

    /// The console's address, where `api` is the API's: the same, unless it has a host name of its own.
    pub fn console_url(&self, api: &str) -> String {
        let named = self.host.console.as_deref().zip(Url::parse(api).ok());
        let Some((host, mut url)) = named else {
            return api.to_owned();
        };
        // Only names that were checked are in the settings.
        let _ = url.set_host(Some(host));
        url.as_str().trim_end_matches('/').to_owned()
    }

    /// Whether both listeners are one.
    pub fn one_port(&self) -> bool {
        self.listen_api == self.listen_registry && self.listen_api.port() != 0
    }

    /// Whether the listeners speak TLS.
    pub fn has_tls(&self) -> bool {
        self.tls.self_signed || self.tls.cert.is_some()
    }

    /// How long a stop may take.
    pub fn shutdown_limit(&self) -> Duration {
        Duration::from_secs(self.shutdown_seconds)
    }

    /// A file or folder in `data`.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.data.join(name)
    }
}
