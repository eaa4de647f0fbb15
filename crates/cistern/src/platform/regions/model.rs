//! The regions. The slugs are those of DigitalOcean's specification (`shared/attributes/region_slug.yml`) and, newer
//! than that list, `atl1`.

/// A place that something can be in.
#[derive(Debug, PartialEq, Eq)]
pub struct Region {
    /// As in requests, such as `nyc3`.
    pub slug: &'static str,
    /// For people, such as `New York 3`.
    pub name: &'static str,
}

/// What every region can do, in DigitalOcean's words.
pub const FEATURES: [&str; 7] = [
    "backups",
    "ipv6",
    "metadata",
    "install_agent",
    "storage",
    "image_transfer",
    "private_networking",
];

const fn region(slug: &'static str, name: &'static str) -> Region {
    Region { slug, name }
}

/// Every region, by slug.
pub static REGIONS: [Region; 16] = [
    region("ams1", "Amsterdam 1"),
    region("ams2", "Amsterdam 2"),
    region("ams3", "Amsterdam 3"),
    region("atl1", "Atlanta 1"),
    region("blr1", "Bangalore 1"),
    region("fra1", "Frankfurt 1"),
    region("lon1", "London 1"),
    region("nyc1", "New York 1"),
    region("nyc2", "New York 2"),
    region("nyc3", "New York 3"),
    region("sfo1", "San Francisco 1"),
    region("sfo2", "San Francisco 2"),
    region("sfo3", "San Francisco 3"),
    region("sgp1", "Singapore 1"),
    region("syd1", "Sydney 1"),
    region("tor1", "Toronto 1"),
];

/// The region of this slug.
pub fn region_find(slug: &str) -> Option<&'static Region> {
    REGIONS.iter().find(|region| region.slug == slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_sorted_and_once_each() {
        assert!(REGIONS.windows(2).all(|pair| pair[0].slug < pair[1].slug));
        assert_eq!(region_find("nyc3").map(|r| r.name), Some("New York 3"));
        assert_eq!(region_find("NYC3"), None);
    }
}
