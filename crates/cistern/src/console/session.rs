//! A browser's session as text: its cookie, the token in its forms, and whether a form comes from our own pages.
//!
//! Two independent guards against forged forms (OWASP, Cross-Site Request Forgery Prevention): the browser must say
//! that the form is of our own origin, and the form must carry a token that only pages of this session have. Forms
//! without a session (signing in) have the first alone.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use url::Url;

use crate::platform::accounts::service::SESSION_LIFE;

/// The cookie's name. Over TLS the prefix makes browsers refuse it from other hosts, paths and plain HTTP (RFC 6265bis,
/// 4.1.3.2).
fn cookie_name(is_tls: bool) -> &'static str {
    if is_tls { "__Host-cistern" } else { "cistern" }
}

/// `Set-Cookie` for a new session.
pub fn cookie_set(secret: &str, is_tls: bool) -> String {
    cookie(secret, SESSION_LIFE.num_seconds(), is_tls)
}

/// `Set-Cookie` that ends one.
pub fn cookie_clear(is_tls: bool) -> String {
    cookie("", 0, is_tls)
}

fn cookie(value: &str, max_age: i64, is_tls: bool) -> String {
    let secure = if is_tls { "; Secure" } else { "" };
    let name = cookie_name(is_tls);
    format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}")
}

/// The session's secret out of a `Cookie` header.
pub fn cookie_read(header: &str, is_tls: bool) -> Option<&str> {
    header
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == cookie_name(is_tls))
        .map(|(_, value)| value)
        .filter(|value| value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The token that forms of this session carry; the secret cannot be told from it.
pub fn form_token(secret: &str) -> String {
    hex::encode(Sha256::digest(format!("cistern console form\0{secret}")))
}

/// Whether a form's token is this session's.
pub fn form_token_is_right(secret: &str, given: &str) -> bool {
    form_token(secret).as_bytes().ct_eq(given.as_bytes()).into()
}

/// Whether a browser says that a form comes from our own pages. A client that says nothing is no browser, and has no
/// cookies that somebody else could use.
pub fn is_same_origin(fetch_site: Option<&str>, origin: Option<&str>, base_url: &str) -> bool {
    if let Some(site) = fetch_site {
        return matches!(site, "same-origin" | "none");
    }
    let Some(origin) = origin else { return true };
    Url::parse(base_url).is_ok_and(|ours| ours.origin().ascii_serialization() == origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_cookie_is_bound_to_this_host_and_hidden_from_scripts() {
        let set = cookie_set(SECRET, true);
        assert_eq!(
            set,
            format!("__Host-cistern={SECRET}; Path=/; Max-Age=604800; HttpOnly; SameSite=Lax; Secure")
        );
        assert!(!cookie_set(SECRET, false).contains("Secure"));
        assert!(cookie_clear(true).starts_with("__Host-cistern=; Path=/; Max-Age=0;"));
    }

    #[test]
    fn a_cookie_is_found_among_others_and_only_in_its_shape() {
        let header = format!("a=b; cistern={SECRET}; c");
        assert_eq!(cookie_read(&header, false), Some(SECRET));
        assert_eq!(
            cookie_read(&header, true),
            None,
            "one of plain HTTP does not count over TLS"
        );
        for bad in [
            "",
            "cistern=",
            "cistern=short",
            "xcistern=0123",
            &format!("cistern={SECRET}0"),
        ] {
            assert_eq!(cookie_read(bad, false), None, "{bad}");
        }
    }

    #[test]
    fn a_form_token_belongs_to_one_session_and_does_not_show_it() {
        let token = form_token(SECRET);
        assert!(form_token_is_right(SECRET, &token));
        assert!(!form_token_is_right(&SECRET.replace('0', "1"), &token));
        assert!(!form_token_is_right(SECRET, "") && !form_token_is_right(SECRET, SECRET));
    }

    #[test]
    fn forms_of_other_sites_are_told() {
        let base = "https://cistern.example";
        let table = [
            (Some("same-origin"), None, true),
            (Some("none"), None, true),
            (Some("same-site"), Some(base), false),
            (Some("cross-site"), Some(base), false),
            (None, Some("https://cistern.example"), true),
            (None, Some("http://cistern.example"), false),
            (None, Some("https://evil.example"), false),
            (None, Some("https://cistern.example.evil.example"), false),
            (None, Some("null"), false),
            (None, None, true),
        ];
        for (site, origin, wanted) in table {
            assert_eq!(is_same_origin(site, origin, base), wanted, "{site:?} {origin:?}");
        }
    }
}
