//! A certificate authority and a certificate of our own, under `DATA/tls`.
//!
//! The authority is made once and lasts ten years, so that clients need to be told to trust it once only. The
//! certificate is made anew when it runs out within [`RENEW_DAYS`] or when the names it must have change.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};
use store::owner;

use super::tls::Files;
use crate::config::Config;
use crate::platform::error::{Context, Error, Result};

/// Days a certificate is valid: what Apple's and other clients accept at most is 825 for a private authority.
const VALID_DAYS: i64 = 397;
/// A certificate that has fewer days left is made anew.
const RENEW_DAYS: i64 = 30;
/// Years the authority is valid.
const CA_YEARS: i32 = 10;

/// What is known about the certificate, so that nobody needs to parse it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    expires_at: DateTime<Utc>,
    names: BTreeSet<String>,
}

/// Where the authority's certificate is, for clients to trust.
pub fn ca_path(config: &Config) -> PathBuf {
    config.path("tls").join("ca.pem")
}

/// The certificate's files, made anew where they are missing, too old or for other names.
pub fn ensure(config: &Config, now: DateTime<Utc>) -> Result<Files> {
    let dir = config.path("tls");
    owner::folder_make(&dir).context("could not make the folder for certificates")?;
    let files = Files {
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
    };
    let names = names(config);
    if is_good(&dir, &files, &names, now) {
        return Ok(files);
    }
    let ca_key = authority_key(&dir, now)?;
    leaf_make(&dir, &files, &ca_key, &names, now)?;
    Ok(files)
}

fn is_good(dir: &Path, files: &Files, names: &BTreeSet<String>, now: DateTime<Utc>) -> bool {
    let facts = std::fs::read(facts_path(dir))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Facts>(&bytes).ok());
    let wanted = [&files.cert, &files.key, &dir.join("ca.pem"), &dir.join("ca.key")];
    facts.is_some_and(|f| f.names == *names && f.expires_at - now > TimeDelta::days(RENEW_DAYS))
        && wanted.iter().all(|path| path.is_file())
}

/// Every name and address under which a client may reach us.
fn names(config: &Config) -> BTreeSet<String> {
    let mut names = BTreeSet::from(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    for listen in [config.listen_api, config.listen_registry] {
        if !listen.ip().is_unspecified() {
            names.insert(listen.ip().to_string());
        }
    }
    let hosts = [&config.host.api, &config.host.console, &config.host.registry];
    names.extend(hosts.into_iter().flatten().cloned());
    let urls = [&config.external_url.api, &config.external_url.registry];
    names.extend(
        urls.into_iter()
            .flatten()
            .filter_map(|u| u.host_str())
            .map(|h| h.trim_matches(['[', ']']).to_owned()),
    );
    if let Some(host) = rustix::system::uname()
        .nodename()
        .to_str()
        .ok()
        .filter(|h| !h.is_empty())
    {
        names.insert(host.to_ascii_lowercase());
    }
    names
}

/// The same parameters every time, so that the authority's certificate need not be read back to sign with it.
fn authority_params(now: DateTime<Utc>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "Cistern certificate authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let (year, month, day) = ymd(now - TimeDelta::days(1));
    params.not_before = rcgen::date_time_ymd(year, month, day);
    params.not_after = rcgen::date_time_ymd(year + CA_YEARS, 1, 1);
    params
}

fn authority_key(dir: &Path, now: DateTime<Utc>) -> Result<KeyPair> {
    let (cert, key) = (dir.join("ca.pem"), dir.join("ca.key"));
    if cert.is_file() && key.is_file() {
        let pem = std::fs::read_to_string(&key).context("could not read the certificate authority's key")?;
        return KeyPair::from_pem(&pem).context("could not understand the certificate authority's key");
    }
    let pair = KeyPair::generate().context("could not make a key")?;
    let made = authority_params(now)
        .self_signed(&pair)
        .context("could not make a certificate authority")?;
    write(&key, &pair.serialize_pem(), 0o600)?;
    write(&cert, &made.pem(), 0o644)?;
    Ok(pair)
}

fn leaf_make(
    dir: &Path,
    files: &Files,
    ca_key: &KeyPair,
    names: &BTreeSet<String>,
    now: DateTime<Utc>,
) -> Result<()> {
    let list: Vec<String> = names.iter().cloned().collect();
    let mut params = CertificateParams::new(list).context("a host name cannot be in a certificate")?;
    params.distinguished_name.push(DnType::CommonName, "Cistern");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let (year, month, day) = ymd(now - TimeDelta::days(1));
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let expires_at = now + TimeDelta::days(VALID_DAYS);
    let (year, month, day) = ymd(expires_at);
    params.not_after = rcgen::date_time_ymd(year, month, day);
    let pair = KeyPair::generate().context("could not make a key")?;
    let authority = authority_params(now);
    let issuer = Issuer::from_params(&authority, ca_key);
    let cert = params
        .signed_by(&pair, &issuer)
        .context("could not sign a certificate")?;
    write(&files.key, &pair.serialize_pem(), 0o600)?;
    write(&files.cert, &cert.pem(), 0o644)?;
    let facts = Facts {
        expires_at,
        names: names.clone(),
    };
    let text =
        serde_json::to_string_pretty(&facts).context("could not write down the certificate's names")?;
    write(&facts_path(dir), &text, 0o644)
}

fn facts_path(dir: &Path) -> PathBuf {
    dir.join("cert.json")
}

/// Year, month and day as rcgen takes them.
fn ymd(time: DateTime<Utc>) -> (i32, u8, u8) {
    let (month, day) = (u8::try_from(time.month()), u8::try_from(time.day()));
    (time.year(), month.unwrap_or(1), day.unwrap_or(1))
}

/// Written beside and renamed, so that a reader sees the old file or the new one.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file = owner::file_open(&beside)?;
        file.set_len(0)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|e| Error::internal(format!("could not write `{}`", path.display()), e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::serve::tls::{Certificate, provider_install};

    fn read(files: &Files) -> String {
        std::fs::read_to_string(&files.cert).expect("a certificate")
    }

    #[test]
    fn it_is_kept_until_its_time_or_its_names_change() {
        provider_install();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::for_data(dir.path());
        let now = crate::platform::clock::Clock::default().now();
        let files = ensure(&config, now).expect("makes one");
        Certificate::load(files.clone()).expect("rustls takes it");
        let (first, ca) = (
            read(&files),
            std::fs::read(ca_path(&config)).expect("an authority"),
        );

        ensure(&config, now + TimeDelta::days(VALID_DAYS - RENEW_DAYS - 1)).expect("nothing to do");
        assert_eq!(read(&files), first);
        ensure(&config, now + TimeDelta::days(VALID_DAYS - RENEW_DAYS + 1)).expect("renews");
        let second = read(&files);
        assert_ne!(second, first);

        config.host.registry = Some("registry.example.com".into());
        ensure(&config, now).expect("has another name");
        assert_ne!(read(&files), second);
        assert_eq!(
            std::fs::read(ca_path(&config)).expect("an authority"),
            ca,
            "clients go on trusting the same"
        );
        let mode = std::fs::metadata(&files.key).expect("a key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn names_are_those_clients_use() {
        let mut config = Config::for_data("/d");
        config.listen_api = "192.0.2.7:443".parse().expect("an address");
        config.listen_registry = "0.0.0.0:5000".parse().expect("an address");
        config.external_url.api = Some("https://cistern.example/".parse().expect("a URL"));
        let names = names(&config);
        for name in ["localhost", "127.0.0.1", "::1", "192.0.2.7", "cistern.example"] {
            assert!(names.contains(name), "{name}");
        }
        assert!(!names.contains("0.0.0.0"));
    }
}
