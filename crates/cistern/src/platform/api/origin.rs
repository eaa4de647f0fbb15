//! Where a request comes from, and under which address its sender knows us.
//!
//! Only a proxy in `trusted_proxies` is believed about either. `X-Forwarded-For` is read from the right, because
//! every proxy appends and a client may send a header of its own: the first address from the right that is not a
//! trusted proxy is the client.

use std::net::{IpAddr, SocketAddr};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use ipnet::IpNet;
use url::Url;

use crate::platform::error::Error;

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address, which may be a proxy's.
    pub address: SocketAddr,
    /// Whether the connection is TLS.
    pub is_tls: bool,
    /// Our end, for requests that name no host.
    pub local: SocketAddr,
}

/// What decides who is believed and how we are called.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The address users see; none takes each request's own.
    pub external_url: Option<Url>,
}

/// Where a request comes from. Every request of either listener has one, as an extension and an extractor.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The request's id, ours alone: the same as `x-request-id` in the answer.
    pub request_id: String,
    /// The client.
    pub address: IpAddr,
    base_url: String,
}

impl Origin {
    /// Reads a request's head.
    pub fn new(request_id: String, peer: &Peer, uri: &Uri, headers: &HeaderMap, network: &Network) -> Self {
        let is_trusted = network.trusts(peer.address.ip());
        let address = if is_trusted {
            network.client(peer, headers)
        } else {
            peer.address.ip().to_canonical()
        };
        let base_url = network.external_url.as_ref().map_or_else(
            || own_address(peer, uri, headers, is_trusted),
            |url| url.as_str().trim_end_matches('/').to_owned(),
        );
        Self {
            request_id,
            address,
            base_url,
        }
    }

    /// The address under which the client reaches us, such as `https://api.example.com`; no slash at the end.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// An absolute URL; `path` begins with a slash and may have a query.
    pub fn url(&self, path: &str) -> Result<Url, Error> {
        Url::parse(&format!("{}{path}", self.base_url)).map_err(|e| Error::internal("made an invalid URL", e))
    }
}

impl Network {
    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|net| net.contains(&address))
    }

    /// The first address from the right that is not a trusted proxy; where one is unreadable, who reported it.
    fn client(&self, peer: &Peer, headers: &HeaderMap) -> IpAddr {
        let mut address = peer.address.ip().to_canonical();
        let lines: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|v| v.to_str().ok())
            .collect();
        for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            let Some(next) = hop_address(hop.trim()) else {
                break;
            };
            address = next.to_canonical();
            if !self.trusts(address) {
                break;
            }
        }
        address
    }
}

/// Whether the request came straight from a program on this machine, not through a proxy that happens to run here.
pub fn is_local(peer: &Peer, headers: &HeaderMap) -> bool {
    let forwarded = ["x-forwarded-for", "x-real-ip", "forwarded", "via"]
        .iter()
        .any(|name| headers.contains_key(*name));
    peer.address.ip().to_canonical().is_loopback() && !forwarded
}

/// The host that a request names, lower-cased and without its port.
pub fn host_name(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    Some(
        authority(uri, headers)?
            .host()
            .trim_end_matches('.')
            .to_ascii_lowercase(),
    )
}

/// HTTP/2 names the host in the URI, HTTP/1.1 in a header.
fn authority(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    if let Some(authority) = uri.authority() {
        return Some(authority.clone());
    }
    let host: Authority = headers.get(header::HOST)?.to_str().ok()?.parse().ok()?;
    // Credentials before the host would end up in every link; what comes after a colon must be a port.
    let has_port = host
        .as_str()
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']'));
    let is_sound = !host.as_str().contains('@') && (!has_port || host.port_u16().is_some());
    is_sound.then_some(host)
}

fn own_address(peer: &Peer, uri: &Uri, headers: &HeaderMap, is_trusted: bool) -> String {
    let forwarded = headers
        .get("x-forwarded-proto")
        .filter(|_| is_trusted)
        .and_then(|v| v.to_str().ok());
    let scheme = match forwarded.map(|v| v.rsplit(',').next().unwrap_or_default().trim()) {
        Some("https") => "https",
        Some("http") => "http",
        _ if peer.is_tls => "https",
        _ => "http",
    };
    let host =
        authority(uri, headers).map_or_else(|| peer.local.to_string(), |a| a.as_str().to_ascii_lowercase());
    format!("{scheme}://{host}")
}

/// An element of `X-Forwarded-For`: an address, with or without a port.
fn hop_address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()))
}

impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Error::bug("a request without an origin"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(peer: &str, headers: &[(&'static str, &str)], network: &Network) -> Origin {
        let peer = Peer {
            address: peer.parse().expect("an address"),
            is_tls: false,
            local: "127.0.0.1:8080".parse().expect("an address"),
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a header"));
        }
        Origin::new("id".into(), &peer, &Uri::from_static("/v2/images"), &map, network)
    }

    fn proxied() -> Network {
        let nets = ["10.0.0.0/8", "127.0.0.1/32"].map(|n| n.parse().expect("a network"));
        Network {
            trusted_proxies: nets.to_vec(),
            external_url: None,
        }
    }

    #[test]
    fn a_stranger_is_not_believed() {
        let o = origin(
            "9.9.9.9:1",
            &[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https")],
            &proxied(),
        );
        assert_eq!(o.address.to_string(), "9.9.9.9");
        assert_eq!(o.base_url(), "http://127.0.0.1:8080");
    }

    #[test]
    fn a_chain_is_read_from_the_right() {
        let client = |value: &str| {
            origin("10.0.0.1:1", &[("x-forwarded-for", value)], &proxied())
                .address
                .to_string()
        };
        assert_eq!(client("6.6.6.6, 1.2.3.4, 10.0.0.9"), "1.2.3.4");
        assert_eq!(client("10.0.0.7, 10.0.0.9"), "10.0.0.7");
        assert_eq!(client("1.2.3.4:555"), "1.2.3.4");
        assert_eq!(client("[2001:db8::1]:5"), "2001:db8::1");
        assert_eq!(client("::ffff:1.2.3.4"), "1.2.3.4");
        assert_eq!(client("1.2.3.4, nonsense, 10.0.0.9"), "10.0.0.9");
        assert_eq!(client(""), "10.0.0.1");
    }

    #[test]
    fn several_header_lines_are_one_list() {
        let lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4")];
        assert_eq!(
            origin("10.0.0.1:1", &lines, &proxied()).address.to_string(),
            "1.2.3.4"
        );
    }

    #[test]
    fn links_follow_the_host_and_the_proxys_scheme() {
        let headers = [("host", "API.example.com"), ("x-forwarded-proto", "https")];
        assert_eq!(
            origin("127.0.0.1:1", &headers, &proxied()).base_url(),
            "https://api.example.com"
        );
        let url = origin("127.0.0.1:1", &headers, &proxied())
            .url("/v2/images?page=2")
            .expect("a URL");
        assert_eq!(url.as_str(), "https://api.example.com/v2/images?page=2");
    }

    #[test]
    fn a_hostile_host_does_not_reach_a_link() {
        for host in ["a/b", "user:pw@evil", "a b", "a:99999", "a:b", "a:"] {
            let o = origin("9.9.9.9:1", &[("host", host)], &proxied());
            assert_eq!(o.base_url(), "http://127.0.0.1:8080", "{host}");
        }
    }

    #[test]
    fn the_external_url_wins() {
        let mut network = proxied();
        network.external_url = Some("https://cistern.example/".parse().expect("a URL"));
        assert_eq!(
            origin("9.9.9.9:1", &[("host", "other")], &network).base_url(),
            "https://cistern.example"
        );
    }

    #[test]
    fn a_proxy_on_this_machine_does_not_make_its_clients_local() {
        let local = "127.0.0.1:8080".parse().expect("an address");
        let peer = Peer {
            address: "127.0.0.1:5".parse().expect("an address"),
            is_tls: false,
            local,
        };
        let mut headers = HeaderMap::new();
        assert!(is_local(&peer, &headers));
        headers.insert("x-forwarded-for", "1.2.3.4".parse().expect("a header"));
        assert!(!is_local(&peer, &headers));
    }
}
