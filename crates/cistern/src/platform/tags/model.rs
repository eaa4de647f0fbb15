//! What a tag is.

use crate::platform::error::{Error, Result};

/// The longest name.
const MAX_NAME: usize = 255;
/// How many things one request may tag or untag.
pub const MAX_RESOURCES: usize = 1000;

/// Checks a name: letters, digits, `_`, `-` and `:`.
pub fn tag_name_check(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("a tag's name cannot be empty"));
    }
    if name.len() > MAX_NAME {
        return Err(Error::invalid("a tag's name has 255 characters at most"));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b':');
    if !name.bytes().all(allowed) {
        return Err(Error::invalid(format!(
            "the tag `{}` contains invalid characters; use letters, digits, `_`, `-` and `:`",
            name.escape_debug()
        )));
    }
    Ok(())
}

/// What makes two names the same tag.
pub fn tag_key(name: &str) -> String {
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_digitalocean_has_them() {
        for good in [
            "a",
            "extra-awesome",
            "terraform:default_node-pool",
            "007",
            &"x".repeat(255),
        ] {
            assert!(tag_name_check(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a,b", "a/b", "здорово", "a\n", &"x".repeat(256)] {
            assert!(tag_name_check(bad).is_err(), "{bad:?}");
        }
        assert_eq!(tag_key("PROD"), tag_key("prod"));
    }
}
