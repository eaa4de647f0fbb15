//! The one table of settings. A setting's variable and flag follow from its key, its default from
//! [`Config::default`]; the tests hold this table, the struct and `docs/configuration.md` in step.

use serde_json::Value;

use super::Config;

/// How a setting's value is written outside the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// A whole number.
    Number,
    /// `true` or `false`; the bare flag means `true`.
    Switch,
    /// Values with commas between them; an array in the file.
    List,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name in the file; a dot stands for a section.
    pub key: &'static str,
    /// How its value is written.
    pub kind: Kind,
    /// What it means, with its unit, as a sentence.
    pub text: &'static str,
    /// What stands in the documentation where the default is "unset".
    pub unset: &'static str,
}

impl Setting {
    /// Its environment variable.
    pub fn env(&self) -> String {
        format!("CISTERN_{}", self.key.replace('.', "__").to_ascii_uppercase())
    }

    /// Its flag, without the dashes before it. The S3 keys have none: every user of the machine can read the
    /// flags of a process.
    pub fn flag(&self) -> Option<String> {
        let hidden = self.kind == Kind::Secret && self.key != "database";
        (!hidden).then(|| self.key.replace(['.', '_'], "-"))
    }

    /// Its default, as people write it.
    pub fn default_text(&self) -> String {
        let all = serde_json::to_value(Config::default()).unwrap_or_default();
        match lookup(&all, self.key) {
            None | Some(Value::Null) => self.unset.to_owned(),
            Some(value) => shown(value),
        }
    }
}

/// The setting of this key.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.key == key)
}

/// Follows a dotted key into a JSON object.
pub fn lookup<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(value, |at, part| at.get(part))
}

/// A value as people write it: text bare, lists with commas, "" for nothing.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

const fn row(key: &'static str, kind: Kind, text: &'static str) -> Setting {
    Setting {
        key,
        kind,
        text,
        unset: "",
    }
}

const fn row_unset(key: &'static str, kind: Kind, unset: &'static str, text: &'static str) -> Setting {
    Setting {
        key,
        kind,
        text,
        unset,
    }
}

/// All settings, in the order of the documentation.
pub const SETTINGS: &[Setting] = &[
    row(
        "data",
        Kind::Text,
        "The folder that holds everything that `database` and `objects` do not put elsewhere.",
    ),
    row(
        "listen_api",
        Kind::Text,
        "Address and port of the API and the console. Port 0 takes any free one.",
    ),
    row(
        "listen_registry",
        Kind::Text,
        "Address and port of the container registry. The same as `listen_api` to share one port; then set \
         `host.registry`.",
    ),
    row_unset(
        "database",
        Kind::Secret,
        "sqlite:DATA/cistern.sqlite",
        "Where the metadata lives: `sqlite:FILE`, or `postgres://USER:PASSWORD@HOST/NAME`.",
    ),
    row(
        "database_max_connections",
        Kind::Number,
        "Connections to the database at most.",
    ),
    row_unset(
        "objects",
        Kind::Text,
        "DATA/store",
        "Where the objects live: a folder, or `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`.",
    ),
    row(
        "dedup_domain",
        Kind::Text,
        "Who shares stored data: `installation` stores what several teams have once, `team` stores it once a team, so that \
         nobody can find out by what it takes what others have. Decided when the store is made, and kept.",
    ),
    row(
        "objects_access_key",
        Kind::Secret,
        "The S3 access key's id. `AWS_ACCESS_KEY_ID` is read where this is unset.",
    ),
    row(
        "objects_secret_key",
        Kind::Secret,
        "The S3 access key's secret. `AWS_SECRET_ACCESS_KEY` is read where this is unset.",
    ),
    row(
        "key_file",
        Kind::Text,
        "A file with one of the keys that open an encrypted store; nobody but its owner may be able to read it.",
    ),
    row(
        "key_command",
        Kind::Text,
        "A command, run by `sh` at each start, that prints such a key; in place of `key_file`.",
    ),
    row_unset(
        "secrets_key_file",
        Kind::Text,
        "DATA/secrets.key",
        "The file with the key that secrets in the database are sealed with; made at the first start. The same on all \
         servers of an installation.",
    ),
    row(
        "external_url.api",
        Kind::Text,
        "The address under which users reach the API, for links in answers. Unset: taken from each request.",
    ),
    row(
        "external_url.registry",
        Kind::Text,
        "The address under which users reach the registry.",
    ),
    row(
        "host.api",
        Kind::Text,
        "The API's host name; with `host.console` too, each answers under its own name alone.",
    ),
    row(
        "host.console",
        Kind::Text,
        "The console's host name; sign-in links lead there.",
    ),
    row(
        "host.registry",
        Kind::Text,
        "The registry's host name, where one port serves both.",
    ),
    row(
        "trusted_proxies",
        Kind::List,
        "Networks (CIDR) whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.",
    ),
    row(
        "tls.cert",
        Kind::Text,
        "A PEM file with the certificate and its chain; read again when it changes.",
    ),
    row(
        "tls.key",
        Kind::Text,
        "A PEM file with the certificate's private key.",
    ),
    row(
        "tls.self_signed",
        Kind::Switch,
        "Makes a certificate authority and a certificate under `DATA/tls`, and renews the certificate in time.",
    ),
    row(
        "insecure_http",
        Kind::Switch,
        "Allows listening beyond this machine without TLS.",
    ),
    row(
        "http.max_connections",
        Kind::Number,
        "Open connections a listener takes at most, fewer where too few files may be open; further ones wait.",
    ),
    row(
        "http.max_downloads",
        Kind::Number,
        "Downloads of images that a token may have open at once.",
    ),
    row(
        "http.header_seconds",
        Kind::Number,
        "Seconds a request's head may take, and a connection may wait for its next request.",
    ),
    row(
        "http.idle_seconds",
        Kind::Number,
        "Seconds a connection may move no byte in either direction, and one request of an HTTP/2 connection send nothing, or its answer be left unread; pings do not count.",
    ),
    row(
        "http.max_header_bytes",
        Kind::Number,
        "Largest head of a request, in bytes.",
    ),
    row(
        "http.max_body_bytes",
        Kind::Number,
        "Largest body of a request that is not an upload, in bytes.",
    ),
    row(
        "fetch.allow",
        Kind::List,
        "Networks (CIDR) that images may be downloaded from although they are private, loopback or otherwise \
         refused. Our own listeners stay refused.",
    ),
    row("fetch.max_bytes", Kind::Number, "Largest download, in bytes."),
    row(
        "fetch.timeout_seconds",
        Kind::Number,
        "Seconds a download may take in all.",
    ),
    row(
        "fetch.redirects",
        Kind::Number,
        "Redirects that a download follows at most.",
    ),
    row(
        "image.max_virtual_bytes",
        Kind::Number,
        "Largest virtual size of an image, in bytes.",
    ),
    row("upload.max_bytes", Kind::Number, "Largest upload, in bytes."),
    row(
        "upload.expiry_hours",
        Kind::Number,
        "Hours an unused upload is kept.",
    ),
    row(
        "rate_limit.per_hour",
        Kind::Number,
        "Requests a token may make in any hour.",
    ),
    row(
        "rate_limit.per_minute",
        Kind::Number,
        "Requests a token may make in any minute.",
    ),
    row(
        "rate_limit.anonymous_per_minute",
        Kind::Number,
        "Requests without a valid token that one address may make in any minute.",
    ),
    row("events.retention_days", Kind::Number, "Days an event is kept."),
    row(
        "jobs.workers",
        Kind::Number,
        "Jobs that run at once in this process. Where there are several teams, one team has all of them but one at \
         most.",
    ),
    row(
        "jobs.lease_seconds",
        Kind::Number,
        "Seconds a job stays with a server that has stopped answering, before another server takes it. The same on \
         all servers of an installation.",
    ),
    row(
        "jobs.keep_days",
        Kind::Number,
        "Days a job that has ended is kept, for `GET /v2/jobs` and the report of a verification. Actions are kept.",
    ),
    row(
        "gc.every_minutes",
        Kind::Number,
        "Minutes between the end of one run of `gc` and the next. 0: only when it is asked for.",
    ),
    row(
        "gc.grace_minutes",
        Kind::Number,
        "Minutes that garbage can still be used again by an import of the same content, before `gc` frees it.",
    ),
    row(
        "gc.repack_below_percent",
        Kind::Number,
        "Packs are written anew by `gc` when less than so many percent of them are needed; those of which something was found \
         damaged are in any case. 0: only these.",
    ),
    row(
        "scrub.every_days",
        Kind::Number,
        "Days in which everything that is stored is read and hashed once, what was read longest ago first. 0: never.",
    ),
    row(
        "scrub.mib_per_second",
        Kind::Number,
        "MiB that the scrub reads a second at most.",
    ),
    row(
        "cache.mib",
        Kind::Number,
        "MiB that parts of packs take at most in DATA/cache, so that a bucket is not asked for them again. 0: none. A folder of \
         objects needs none.",
    ),
    row(
        "cache.memory_mib",
        Kind::Number,
        "MiB that chunks read up to 64 KiB at a time lately take in memory, decoded. 0: none.",
    ),
    row(
        "disk.refuse_below_percent",
        Kind::Number,
        "While less than so many percent of a disk are free, no image is taken in; of a disk above 200 GiB, percent of 200 \
         GiB. 0: until it is full.",
    ),
    row(
        "disk.purge_below_percent",
        Kind::Number,
        "While less than so many percent of the objects' disk are free (as above), deleted images are given up before their \
         day is over, and `gc` frees all it can at once. 0: never.",
    ),
    row(
        "log.level",
        Kind::Text,
        "`error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,cistern::images=debug`.",
    ),
    row(
        "log.format",
        Kind::Text,
        "`text` for people, `json` for one JSON object a line.",
    ),
    row(
        "shutdown_seconds",
        Kind::Number,
        "Seconds a stop may take before what is left is cut off.",
    ),
];
