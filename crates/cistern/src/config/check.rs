//! What a value must be, as sentences that say what to do.

use url::Url;

use super::load::Problem;
use super::{Config, Database, Objects, Secret};

/// Everything that is wrong with `config`.
pub(super) fn check(config: &Config) -> Vec<Problem> {
    let mut out = Vec::new();
    let mut refuse = |wrong: bool, text: String| {
        if wrong {
            out.push(Problem(text));
        }
    };
    refuse(
        config.data.as_os_str().is_empty(),
        "`data` is empty; give a folder".into(),
    );
    refuse(
        config.key_file.is_some() && config.key_command.is_some(),
        "`key_file` and `key_command` exclude each other; leave one out".into(),
    );
    refuse(
        config.tls.cert.is_some() != config.tls.key.is_some(),
        "`tls.cert` and `tls.key` belong together; give both".into(),
    );
    refuse(
        config.tls.self_signed && config.tls.cert.is_some(),
        "`tls.self_signed` and `tls.cert` exclude each other; leave one out".into(),
    );
    for (key, value) in positive(config) {
        refuse(value == 0, format!("`{key}` is 0; give at least 1"));
    }
    refuse(
        config.jobs.lease_seconds < 3,
        "`jobs.lease_seconds` is below 3; a busy server would lose its jobs while it works on them".into(),
    );
    for (key, percent) in [
        ("gc.repack_below_percent", config.gc.repack_below_percent),
        ("disk.refuse_below_percent", config.disk.refuse_below_percent),
        ("disk.purge_below_percent", config.disk.purge_below_percent),
    ] {
        refuse(percent > 90, format!("`{key}` is {percent}; give 90 at most"));
    }
    refuse(
        config.http.max_header_bytes < 8192,
        "`http.max_header_bytes` is below 8192, which browsers and proxies may need".into(),
    );
    refuse(
        !is_level(&config.log.level),
        format!(
            "`log.level` is `{}`; give `error`, `warn`, `info`, `debug` or `trace`",
            config.log.level
        ),
    );
    out.extend(check_network(config));
    out.extend(check_places(config));
    out
}

/// The settings of which 0 makes no sense.
fn positive(config: &Config) -> [(&'static str, u64); 17] {
    [
        (
            "database_max_connections",
            u64::from(config.database_max_connections),
        ),
        ("http.max_connections", config.http.max_connections as u64),
        ("http.max_downloads", config.http.max_downloads as u64),
        ("http.header_seconds", config.http.header_seconds),
        ("http.idle_seconds", config.http.idle_seconds),
        ("http.max_body_bytes", config.http.max_body_bytes as u64),
        ("fetch.max_bytes", config.fetch.max_bytes),
        ("fetch.timeout_seconds", config.fetch.timeout_seconds),
        ("image.max_virtual_bytes", config.image.max_virtual_bytes),
        ("upload.max_bytes", config.upload.max_bytes),
        ("upload.expiry_hours", config.upload.expiry_hours),
        ("rate_limit.per_hour", u64::from(config.rate_limit.per_hour)),
        ("rate_limit.per_minute", u64::from(config.rate_limit.per_minute)),
        (
            "rate_limit.anonymous_per_minute",
            u64::from(config.rate_limit.anonymous_per_minute),
        ),
        ("events.retention_days", u64::from(config.events.retention_days)),
        ("jobs.workers", config.jobs.workers as u64),
        ("jobs.keep_days", u64::from(config.jobs.keep_days)),
    ]
}

/// A level, or levels by target. A word alone that is no level would be a target, of which there is none.
fn is_level(text: &str) -> bool {
    if text.contains('=') {
        return text.parse::<tracing_subscriber::filter::Targets>().is_ok();
    }
    text.parse::<tracing::Level>().is_ok()
}

/// The listeners, host names and outside addresses.
fn check_network(config: &Config) -> Vec<Problem> {
    let mut out = Vec::new();
    for (key, addr) in [
        ("listen_api", config.listen_api),
        ("listen_registry", config.listen_registry),
    ] {
        if !addr.ip().is_loopback() && !config.has_tls() && !config.insecure_http {
            out.push(Problem(format!(
                "`{key}` is `{addr}`, which other machines can reach, and there is no TLS; tokens would travel in \
                 the clear. Give `--tls-cert` and `--tls-key`, or `--tls-self-signed`, or, behind a proxy that \
                 does TLS, `--insecure-http`"
            )));
        }
    }
    if config.one_port() && config.host.registry.is_none() {
        out.push(Problem(format!(
            "`listen_api` and `listen_registry` are both `{}`; set `host.registry` to the registry's host name, so \
             that the two can share it, or give the registry another port",
            config.listen_api
        )));
    }
    let hosts = [&config.host.api, &config.host.console, &config.host.registry];
    for host in hosts.into_iter().flatten() {
        if !is_host_name(host) {
            out.push(Problem(format!(
                "`{host}` is not a host name; give the name alone, such as `api.example.com`"
            )));
        }
    }
    if config.host.registry.is_some()
        && [&config.host.api, &config.host.console].contains(&&config.host.registry)
    {
        out.push(Problem(
            "`host.registry` must differ from `host.api` and `host.console`".into(),
        ));
    }
    let urls = [
        ("external_url.api", &config.external_url.api),
        ("external_url.registry", &config.external_url.registry),
    ];
    for (key, url) in urls {
        let Some(url) = url else { continue };
        let plain = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain {
            out.push(Problem(format!(
                "`{key}` must be an address without a path, such as `https://api.example.com`"
            )));
        }
    }
    out
}

/// The database and the objects.
fn check_places(config: &Config) -> Vec<Problem> {
    let mut out = Vec::new();
    if let Database::Postgres(url) = config.database()
        && !is_postgres(&url)
    {
        out.push(Problem(
            "`database` must begin with `sqlite:` or `postgres://`".into(),
        ));
    }
    out.extend(
        config
            .objects
            .as_deref()
            .and_then(|text| objects_check(text).err()),
    );
    let has_half_a_key = config.objects_access_key.is_some() != config.objects_secret_key.is_some();
    if matches!(config.objects(), Objects::S3(_)) && has_half_a_key {
        out.push(Problem(
            "`objects_access_key` and `objects_secret_key` belong together; give both".into(),
        ));
    }
    out
}

fn is_postgres(url: &Secret) -> bool {
    Url::parse(url.expose()).is_ok_and(|u| matches!(u.scheme(), "postgres" | "postgresql"))
}

fn is_host_name(host: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// Refuses what is neither a folder nor `s3://bucket/prefix?endpoint=…&region=…`. Keys are not part of it.
fn objects_check(text: &str) -> Result<(), Problem> {
    let Some((scheme, _)) = text.split_once("://") else {
        return Ok(());
    };
    if scheme != "s3" {
        return Err(Problem(format!(
            "`objects` begins with `{scheme}://`; give a folder or `s3://BUCKET/PREFIX`"
        )));
    }
    let url = Url::parse(text)
        .map_err(|_| Problem("`objects` is not a valid `s3://BUCKET/PREFIX` address".into()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Problem(
            "`objects` must not hold the access key; set `objects_access_key` and `objects_secret_key`"
                .into(),
        ));
    }
    if url.host_str().unwrap_or_default().is_empty() {
        return Err(Problem(
            "`objects` names no bucket; give `s3://BUCKET/PREFIX`".into(),
        ));
    }
    let unknown = url
        .query_pairs()
        .find(|(key, _)| !matches!(key.as_ref(), "endpoint" | "region"));
    match unknown {
        Some((key, _)) => Err(Problem(format!(
            "`objects` has `{key}=`; only `endpoint` and `region` are known there"
        ))),
        None => Ok(()),
    }
}
