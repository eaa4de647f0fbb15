//! Which bucket a URL names, and the client for it.

use opendal::{Operator, services};

use crate::backend::Settings;
use crate::error::{Error, Kind, Result};

/// A bucket's URL taken apart.
pub(super) struct Place {
    pub(super) scheme: String,
    pub(super) bucket: String,
    pub(super) prefix: String,
    pub(super) settings: Settings,
}

impl Place {
    pub(super) fn parse(url: &str, settings: &Settings) -> Result<Self> {
        let wrong = || {
            let text = "a bucket is written `s3://BUCKET/PREFIX?endpoint=…&region=…` (or gcs, azblob, b2)";
            Error::new(Kind::Invalid, text)
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        if bucket.is_empty() || bucket.contains('@') {
            return Err(wrong());
        }
        let mut all = Settings::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
            all.insert(name.to_owned(), percent_decode(value).ok_or_else(wrong)?);
        }
        all.extend(settings.iter().map(|(name, value)| (name.clone(), value.clone())));
        let prefix = format!("/{}", prefix.trim_matches('/'));
        Ok(Self {
            scheme: scheme.to_owned(),
            bucket: bucket.to_owned(),
            prefix,
            settings: all,
        })
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.settings.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Nothing is read from the environment, from profiles or from metadata services: `config` decides.
    pub(super) fn operator(&self) -> Result<Operator> {
        let built = match self.scheme.as_str() {
            "s3" => Operator::new(self.s3()),
            "gcs" | "gs" => Operator::new(
                services::Gcs::default()
                    .bucket(&self.bucket)
                    .root(&self.prefix)
                    .endpoint(self.get("endpoint"))
                    .credential(self.get("credential"))
                    .disable_config_load()
                    .disable_vm_metadata(),
            ),
            "azblob" => Operator::new(
                services::Azblob::default()
                    .container(&self.bucket)
                    .root(&self.prefix)
                    .endpoint(self.get("endpoint"))
                    .account_name(self.get("account_name"))
                    .account_key(self.get("account_key")),
            ),
            "b2" => Operator::new(
                services::B2::default()
                    .bucket(&self.bucket)
                    .bucket_id(self.get("bucket_id"))
                    .root(&self.prefix)
                    .application_key_id(self.get("application_key_id"))
                    .application_key(self.get("application_key")),
            ),
            other => {
                let text =
                    format!("`{other}://` is not a kind of store: use a folder, s3, gcs, azblob or b2");
                return Err(Error::new(Kind::Invalid, text));
            }
        };
        built.map_err(|error| {
            let text = format!("the bucket `{}` cannot be used: {}", self.bucket, error.kind());
            Error::new(Kind::Invalid, text)
        })
    }

    fn s3(&self) -> services::S3 {
        let region = if self.get("region").is_empty() {
            "us-east-1"
        } else {
            self.get("region")
        };
        let mut s3 = services::S3::default()
            .bucket(&self.bucket)
            .root(&self.prefix)
            .region(region)
            .disable_config_load()
            .disable_ec2_metadata();
        if !self.get("endpoint").is_empty() {
            s3 = s3.endpoint(self.get("endpoint"));
        }
        if !self.get("access_key_id").is_empty() {
            s3 = s3
                .access_key_id(self.get("access_key_id"))
                .secret_access_key(self.get("secret_access_key"));
        }
        if !self.get("session_token").is_empty() {
            s3 = s3.session_token(self.get("session_token"));
        }
        s3
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let hex = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
    }
    String::from_utf8(out).ok()
}
