//! Requests to addresses that a user chose (SSRF guard).
//!
//! A name is resolved once, every address it has is checked, and the connection goes to the checked addresses only,
//! so a name that changes its mind between check and connect gains nothing. Redirects are followed by hand and each
//! is checked the same way. No proxy is used: a proxy would resolve the name again. (CVE-2024-29007, CVE-2026-25077,
//! OSSA-2026-004: imports by URL that reached metadata services through a redirect.)
//!
//! Our own listeners are refused whatever is allow-listed: who allows loopback means a file server beside us, not that
//! a user's URL may reach what we keep for this machine (`/metrics`, say).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Client, Response, StatusCode, redirect};
use url::{Host, Url};

use crate::config::Config;

/// How long resolving a name may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the head of an answer may take.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest address.
const MAX_URL_BYTES: usize = 8 << 10;
/// Lines in the head of an answer at most.
const MAX_HEADERS: usize = 100;

/// Why a request did not happen; each is a sentence for the user, without credentials.
#[derive(Debug, PartialEq, Eq)]
pub enum NetError {
    /// Trying again does not help.
    Refused(String),
    /// It may work later.
    Passing(String),
}

/// Decides where requests may go.
#[derive(Clone, Debug)]
pub struct Guard {
    allow: Arc<[IpNet]>,
    own_hosts: Arc<[String]>,
    own_ports: [u16; 2],
    redirects: u32,
}

impl Guard {
    /// The guard that the settings describe.
    pub fn new(config: &Config) -> Self {
        let urls = [&config.external_url.api, &config.external_url.registry];
        let of_urls = urls
            .into_iter()
            .flatten()
            .filter_map(|u| u.host_str().map(str::to_owned));
        let hosts = [&config.host.api, &config.host.console, &config.host.registry];
        let own_hosts = of_urls.chain(hosts.into_iter().flatten().cloned());
        Self {
            allow: config.fetch.allow.iter().copied().collect(),
            own_hosts: own_hosts.map(|h| host_plain(&h)).collect(),
            own_ports: [config.listen_api.port(), config.listen_registry.port()],
            redirects: config.fetch.redirects,
        }
    }

    /// Sends a GET and follows redirects, checking each address. Returns the first answer that is not a redirect.
    pub async fn get(&self, url: &Url, headers: HeaderMap) -> Result<Response, NetError> {
        let mut url = url.clone();
        for _ in 0..=self.redirects {
            let response = self.get_once(&url, headers.clone()).await?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            url = redirect_target(&url, &response)?;
        }
        Err(NetError::Refused(format!(
            "The address redirects more than {} times. Give the address that it leads to.",
            self.redirects
        )))
    }

    /// Refuses what can be refused without asking the network: what is no web address, or a forbidden literal one.
    pub fn url_check(&self, url: &Url) -> Result<(), String> {
        url_check(url)?;
        let port = url.port_or_known_default().unwrap_or(80);
        match url.host() {
            Some(Host::Ipv4(ip)) => self.address_check(&ip.to_string(), (ip, port).into()),
            Some(Host::Ipv6(ip)) => self.address_check(&ip.to_string(), (ip, port).into()),
            _ => Ok(()),
        }
    }

    async fn get_once(&self, url: &Url, headers: HeaderMap) -> Result<Response, NetError> {
        let addresses = self.resolve(url).await?;
        let client = client(addresses)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let send = client.get(url.clone()).headers(headers).send();
        match tokio::time::timeout(HEAD_TIMEOUT, send).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(send_error(&host, &error)),
            Err(_) => Err(NetError::Passing(format!("{host} does not answer."))),
        }
    }

    /// The addresses of a URL's host, each checked.
    async fn resolve(&self, url: &Url) -> Result<Vec<SocketAddr>, NetError> {
        url_check(url).map_err(NetError::Refused)?;
        let port = url.port_or_known_default().unwrap_or(80);
        let (name, addresses) = match url.host() {
            Some(Host::Ipv4(ip)) => (ip.to_string(), vec![SocketAddr::from((ip, port))]),
            Some(Host::Ipv6(ip)) => (ip.to_string(), vec![SocketAddr::from((ip, port))]),
            Some(Host::Domain(name)) => (name.to_owned(), lookup(name, port).await?),
            None => return Err(NetError::Refused("The address names no host.".into())),
        };
        self.addresses_check(&name, &addresses)
            .map_err(NetError::Refused)?;
        Ok(addresses)
    }

    /// Refuses a name when one of its addresses is refused: which of them answers is not ours to choose.
    fn addresses_check(&self, name: &str, addresses: &[SocketAddr]) -> Result<(), String> {
        addresses
            .iter()
            .try_for_each(|address| self.address_check(name, *address))
    }

    /// Refuses an address that requests may not go to, with the reason.
    fn address_check(&self, name: &str, address: SocketAddr) -> Result<(), String> {
        let (ip, port) = (address.ip(), address.port());
        let target = target(ip);
        let is_here = target.is_unspecified() || target.is_loopback() || is_own(target);
        if self.own_ports.contains(&port) && is_here {
            return Err(format!(
                "{name} is this server itself, and it does not fetch from there. An image that it holds can be \
                 exported, and imported again as a file."
            ));
        }
        if self
            .allow
            .iter()
            .any(|net| net.contains(&ip) || net.contains(&target))
        {
            return Ok(());
        }
        let reason = if self.own_hosts.contains(&host_plain(name)) {
            "is this server itself"
        } else if let Some(reason) = reserved(target) {
            reason
        } else if is_own(target) {
            "is this server itself"
        } else {
            return Ok(());
        };
        // The address itself is not told: what a name means inside this network is nobody's business.
        Err(format!(
            "{name} {reason}, and this server does not fetch from there. Serve the image from a public address, \
             upload it, or ask the operator to add the network to `fetch.allow`."
        ))
    }
}

/// Refuses what is not a plain web address.
fn url_check(url: &Url) -> Result<(), String> {
    match url.scheme() {
        "http" | "https" => {}
        other => {
            return Err(format!(
                "Images are fetched by http and https, not by `{other}`. Give another address or upload the image."
            ));
        }
    }
    if url.as_str().len() > MAX_URL_BYTES {
        return Err(format!("The address is longer than {MAX_URL_BYTES} bytes."));
    }
    match url.host_str() {
        Some(host) if !host.is_empty() => Ok(()),
        _ => Err("The address names no host.".into()),
    }
}

/// A host name as it is compared: lower case, without the root's dot.
fn host_plain(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

async fn lookup(name: &str, port: u16) -> Result<Vec<SocketAddr>, NetError> {
    let unknown = || {
        NetError::Passing(format!(
            "The host {name} was not found. Check the address for a typing mistake."
        ))
    };
    let found = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name, port))).await;
    let addresses: Vec<SocketAddr> = found.map_err(|_| unknown())?.map_err(|_| unknown())?.collect();
    if addresses.is_empty() {
        Err(unknown())
    } else {
        Ok(addresses)
    }
}

fn client(addresses: Vec<SocketAddr>) -> Result<Client, NetError> {
    Client::builder()
        .dns_resolver(Arc::new(Pinned(addresses)))
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .http1_max_headers(MAX_HEADERS)
        .http2_max_header_list_size(64 << 10)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("cistern/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| {
            tracing::error!(error = error_text(&error), "could not set up a client");
            NetError::Passing("This server could not set up its TLS; its log has the details.".into())
        })
}

/// Answers every name with the addresses that were checked.
struct Pinned(Vec<SocketAddr>);

impl Resolve for Pinned {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses: Addrs = Box::new(self.0.clone().into_iter());
        Box::pin(async move { Ok(addresses) })
    }
}

/// Where something is, for people: scheme, host, port and path, without credentials and whatever else may be a secret.
pub fn place_shown(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let path = url.path().trim_end_matches('/');
    format!(
        "{}://{}{port}{path}",
        url.scheme(),
        url.host_str().unwrap_or_default()
    )
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn redirect_target(url: &Url, response: &Response) -> Result<Url, NetError> {
    let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
    location
        .and_then(|to| url.join(to).ok())
        .ok_or_else(|| NetError::Refused("The server redirects without saying where to.".into()))
}

fn send_error(host: &str, error: &reqwest::Error) -> NetError {
    let text = error_text(error);
    if text.contains("certificate") {
        return NetError::Refused(format!(
            "{host} has no valid certificate ({}). Use an address with one, or upload the image.",
            innermost(error)
        ));
    }
    if text.contains("InvalidContentType") {
        return NetError::Refused(format!(
            "{host} does not speak TLS at this address. Use http:// if that is meant, or the right port."
        ));
    }
    NetError::Passing(format!("{host} could not be reached ({}).", innermost(error)))
}

/// The chain of causes. The outermost is left out: it repeats the address with its credentials.
fn error_text(error: &reqwest::Error) -> String {
    let mut out = String::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        out.push_str(&cause.to_string());
        out.push_str("; ");
        next = cause.source();
    }
    out
}

/// The last cause of a failed request, in a few words without the address.
pub fn innermost(error: &reqwest::Error) -> String {
    let mut next = std::error::Error::source(error);
    let mut out = if error.is_timeout() {
        "timed out"
    } else {
        "the connection failed"
    }
    .to_owned();
    while let Some(cause) = next {
        out = cause.to_string();
        next = cause.source();
    }
    out
}

/// Where packets to `ip` really go: the IPv4 address inside a mapped (RFC 4291) or translated (NAT64's well-known
/// prefix, RFC 6052) IPv6 one.
fn target(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into()
        }
        _ => ip,
    }
}

/// Why an address is not one of the public Internet; IANA's special-purpose registries (RFC 6890).
fn reserved(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => reserved_v4(ip),
        IpAddr::V6(ip) => reserved_v6(ip),
    }
}

fn reserved_v4(ip: Ipv4Addr) -> Option<&'static str> {
    match ip.octets() {
        // Azure's is the only metadata service on a public address.
        [169, 254, ..] | [168, 63, 129, 16] => Some("is a link-local or metadata address"),
        [127, ..] => Some("is this server itself"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("is a private address"),
        [100, 64..=127, ..] => Some("is a carrier's private address"),
        [224..=239, ..] => Some("is a multicast address"),
        [0 | 240..=255, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => Some("is a reserved address"),
        _ => None,
    }
}

fn reserved_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let [a, b, ..] = ip.segments();
    match (a, b) {
        _ if ip.is_loopback() => Some("is this server itself"),
        (0xfe80..=0xfeff, _) => Some("is a link-local address"),
        (0xfc00..=0xfdff, _) => Some("is a private address"),
        (0xff00..=0xffff, _) => Some("is a multicast address"),
        // Teredo and the other IETF protocol ranges, documentation, 6to4: tunnels may end anywhere.
        (0x2001, 0x0000..=0x01ff | 0x0db8) | (0x2002, _) | (0x3fff, 0x0000..=0x0fff) => {
            Some("is a reserved address")
        }
        (0x2000..=0x3fff, _) => None,
        _ => Some("is a reserved address"),
    }
}

/// Whether an address is one of this machine's: then the kernel answers a connection to it from itself. Sends
/// nothing.
fn is_own(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}

#[cfg(test)]
mod tests;
