//! Images as data: kinds, states, names, where one comes from. Pure rules, no database.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use crate::platform::error::{Error, Result};

/// What an image is, in DigitalOcean's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everyone's: a distribution or an application.
    Base,
    /// Brought by a user.
    Custom,
    /// Taken of a droplet by a user.
    Snapshot,
    /// Taken of a droplet by its plan.
    Backup,
}

impl Kind {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Custom => "custom",
            Self::Snapshot => "snapshot",
            Self::Backup => "backup",
        }
    }

    /// The kind of a row; an unknown word is a user's own.
    pub fn of(word: &str) -> Self {
        let all = [Self::Base, Self::Snapshot, Self::Backup];
        all.into_iter()
            .find(|kind| kind.as_str() == word)
            .unwrap_or(Self::Custom)
    }

    /// The `type` that clients see. DigitalOcean answers `snapshot` for its own distributions too, and Terraform's
    /// data source expects it.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Base => "snapshot",
            other => other.as_str(),
        }
    }
}

/// Where an image stands, in DigitalOcean's words; Terraform waits for exactly these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Waits for its import to start.
    New,
    /// Is being imported.
    Pending,
    /// Can be used.
    Available,
    /// Deleted, or its import failed: then there is an error message.
    Deleted,
}

impl Status {
    /// The word in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Pending => "pending",
            Self::Available => "available",
            Self::Deleted => "deleted",
        }
    }
}

/// Where a new image's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum ImportSource {
    /// An address to download from. May hold credentials: never shown, kept only while the import runs.
    Url {
        /// The address as the user gave it.
        url: Url,
    },
    /// A finished upload.
    Upload {
        /// Its id.
        id: Uuid,
    },
    /// An open file that `cistern image import` on this machine handed over.
    Local {
        /// What [`crate::images::local`] calls it.
        id: Uuid,
    },
}

/// A new image, as a user asks for it.
#[derive(Clone, Debug)]
pub struct NewImport {
    /// Any name; names need not differ.
    pub name: String,
    /// Only shown; what DigitalOcean does not know becomes `Unknown`.
    pub distribution: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// A region's slug.
    pub region: String,
    /// Tags to give it.
    pub tags: Vec<String>,
    /// Where the bytes come from.
    pub source: ImportSource,
    /// The SHA-256 that the source must have, 64 hex digits.
    pub expected_sha256: Option<String>,
}

/// Which images a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `distribution` or `application`: only those.
    pub kind: Option<ListKind>,
    /// Only the team's own.
    pub private: bool,
    /// Only those with this tag.
    pub tag_name: Option<String>,
    /// The team's deleted images instead, and those whose import failed.
    pub deleted: bool,
}

/// The `type` parameter of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Plain operating systems.
    Distribution,
    /// 1-Click applications.
    Application,
}

/// Everyone's distributions are listed under this number, a team's own images under the team's.
pub const LISTING_DISTRIBUTION: i64 = 0;
/// Everyone's applications.
pub const LISTING_APPLICATION: i64 = -1;

/// A team's deleted images are listed under a number of their own.
pub fn listing_deleted(team_id: i64) -> i64 {
    LISTING_APPLICATION - team_id
}

impl Filter {
    /// The listings whose images are shown to `team_id`.
    pub fn listings(&self, team_id: i64) -> Vec<i64> {
        if self.deleted {
            return vec![listing_deleted(team_id)];
        }
        match (self.kind, self.private) {
            (None, false) => vec![team_id, LISTING_DISTRIBUTION, LISTING_APPLICATION],
            (None, true) => vec![team_id],
            (Some(_), true) => Vec::new(),
            (Some(ListKind::Distribution), false) => vec![LISTING_DISTRIBUTION],
            (Some(ListKind::Application), false) => vec![LISTING_APPLICATION],
        }
    }
}

/// DigitalOcean's distributions. Others are taken too and become the last, except `Unknown OS`, which Terraform
/// sends and expects back.
pub const DISTRIBUTIONS: [&str; 13] = [
    "Arch Linux",
    "CentOS",
    "CoreOS",
    "Debian",
    "Fedora",
    "Fedora Atomic",
    "FreeBSD",
    "Gentoo",
    "openSUSE",
    "RancherOS",
    "Rocky Linux",
    "Ubuntu",
    "Unknown",
];

/// The distribution that is kept for what a user wrote.
pub fn distribution(given: Option<&str>) -> &'static str {
    let given = given.unwrap_or_default().trim();
    if given == "Unknown OS" {
        return "Unknown OS";
    }
    let known = DISTRIBUTIONS.iter().find(|d| d.eq_ignore_ascii_case(given));
    known.copied().unwrap_or("Unknown")
}

/// Refuses names that cannot be shown in a list.
pub fn name_check(name: &str) -> Result<()> {
    if name.trim().is_empty() || name.chars().count() > 255 || name.chars().any(char::is_control) {
        return Err(Error::invalid(
            "an image's name has 1 to 255 printable characters",
        ));
    }
    Ok(())
}

/// Refuses descriptions that are too long.
pub fn description_check(text: &str) -> Result<()> {
    if text.chars().count() > 4096 {
        return Err(Error::invalid(
            "an image's description has at most 4096 characters",
        ));
    }
    Ok(())
}

/// The digest in lower case, or a refusal.
pub fn sha256_check(given: &str) -> Result<String> {
    let given = given.trim().to_ascii_lowercase();
    let bare = given.strip_prefix("sha256:").unwrap_or(&given);
    if bare.len() != 64 || !bare.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::invalid(
            "`expected_sha256` is not a SHA-256 digest; give its 64 hex digits, as `sha256sum` prints them",
        ));
    }
    Ok(bare.to_owned())
}

/// A download's address as it may be shown and kept: without user name and password, and without the query and
/// fragment, where signed links carry their signature.
pub fn url_shown(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for addresses that cannot have credentials.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    if shown.query().is_some() {
        shown.set_query(Some("redacted"));
    }
    shown.into()
}

/// The smallest droplet disk for an image of this size, in DigitalOcean's GB, which are GiB for disks.
pub fn min_disk_size(virtual_bytes: u64) -> i32 {
    i32::try_from(virtual_bytes.div_ceil(1 << 30)).unwrap_or(i32::MAX)
}

/// Bytes as the GB that `size_gigabytes` counts, to two places, never 0 for something.
pub fn gigabytes(bytes: u64) -> f64 {
    let hundredths = (u128::from(bytes) * 100).div_ceil(1 << 30);
    f64::from(u32::try_from(hundredths).unwrap_or(u32::MAX)) / 100.0
}

/// What a user may change of an image; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub name: Option<String>,
    pub distribution: Option<String>,
    pub description: Option<String>,
    pub protected: Option<bool>,
}

impl Change {
    /// What an event tells of it; a description can be long.
    pub fn told(&self) -> Value {
        let fields = [
            ("name", self.name.as_ref().map(|name| json!(name))),
            ("distribution", self.distribution.as_ref().map(|name| json!(name))),
            ("description", self.description.as_ref().map(|_| json!("changed"))),
            ("protected", self.protected.map(|is| json!(is))),
        ];
        let known = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        known.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_digitaloceans_or_unknown() {
        assert_eq!(distribution(Some("ubuntu")), "Ubuntu");
        assert_eq!(distribution(Some("Unknown OS")), "Unknown OS");
        for other in [None, Some(""), Some("Alpine"), Some("Unknown")] {
            assert_eq!(distribution(other), "Unknown");
        }
    }

    #[test]
    fn what_is_shown_of_an_address_holds_no_secret() {
        let url =
            Url::parse("https://me:pw@host.example:8443/a/b.img?X-Amz-Signature=s3cret#frag").expect("valid");
        assert_eq!(url_shown(&url), "https://host.example:8443/a/b.img?redacted");
        let plain = Url::parse("http://host.example/b.img").expect("valid");
        assert_eq!(url_shown(&plain), "http://host.example/b.img");
    }

    #[test]
    fn sizes_round_up() {
        assert_eq!(min_disk_size(1), 1);
        assert_eq!(min_disk_size(10 << 30), 10);
        assert_eq!(min_disk_size((10 << 30) + 512), 11);
        assert!(gigabytes(0).abs() < f64::EPSILON);
        assert!((gigabytes(1) - 0.01).abs() < 1e-9);
        assert!((gigabytes(1 << 30) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn digests_are_taken_as_people_paste_them() {
        let hex = "AB".repeat(32);
        assert_eq!(
            sha256_check(&format!(" sha256:{hex} ")).expect("fine"),
            hex.to_lowercase()
        );
        for bad in ["", "abc", &"g".repeat(64), &"a".repeat(63)] {
            assert!(sha256_check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn filters_choose_listings() {
        let list = |kind, private| {
            Filter {
                kind,
                private,
                tag_name: None,
                deleted: false,
            }
            .listings(7)
        };
        let deleted = Filter {
            deleted: true,
            ..Filter::default()
        };
        assert_eq!((deleted.listings(1), deleted.listings(7)), (vec![-2], vec![-8]));
        assert_eq!(list(None, false), [7, 0, -1]);
        assert_eq!(list(None, true), [7]);
        assert_eq!(list(Some(ListKind::Application), false), [-1]);
        assert!(list(Some(ListKind::Distribution), true).is_empty());
    }
}
