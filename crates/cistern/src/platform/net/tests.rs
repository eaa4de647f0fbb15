//! The tables of the guard: every family of addresses, in every notation.

use super::*;

fn guard(allow: &[&str]) -> Guard {
    let mut config = Config::for_data("unused");
    config.fetch.allow = allow.iter().map(|n| n.parse().expect("a network")).collect();
    config.external_url.api = Some("https://cistern.example".parse().expect("a URL"));
    Guard::new(&config)
}

fn is_allowed(guard: &Guard, ip: &str) -> bool {
    guard.address_check("host.example", at(ip, 443)).is_ok()
}

fn at(ip: &str, port: u16) -> SocketAddr {
    (ip.parse::<IpAddr>().expect("an address"), port).into()
}

#[test]
fn what_is_not_the_public_internet_is_refused() {
    let refused = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "169.254.0.1",
        "168.63.129.16",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001::1",
        "2001:10::1",
        "2001:db8::1",
        "3fff::1",
        "100::1",
        "4000::1",
    ];
    for ip in refused {
        assert!(!is_allowed(&guard(&[]), ip), "{ip}");
    }
}

#[test]
fn the_public_internet_is_allowed() {
    let allowed = [
        "1.1.1.1",
        "9.9.9.9",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.0.1",
        "172.32.0.1",
        "192.167.1.1",
        "223.255.255.255",
        "2606:4700::1111",
        "2a01:4f8::1",
        "::ffff:9.9.9.9",
        "64:ff9b::9.9.9.9",
        "2001:4860::8888",
    ];
    for ip in allowed {
        assert!(is_allowed(&guard(&[]), ip), "{ip}");
    }
}

#[test]
fn the_allow_list_counts_for_every_notation() {
    let guard = guard(&["10.1.0.0/16", "fd00::/8", "127.0.0.1/32"]);
    for ip in [
        "10.1.2.3",
        "::ffff:10.1.2.3",
        "64:ff9b::10.1.2.3",
        "fd12::1",
        "127.0.0.1",
    ] {
        assert!(is_allowed(&guard, ip), "{ip}");
    }
    for ip in ["10.2.0.1", "127.0.0.2", "fc00::1"] {
        assert!(!is_allowed(&guard, ip), "{ip}");
    }
}

#[test]
fn our_own_names_and_addresses_are_refused() {
    let guard = guard(&[]);
    for name in ["cistern.example", "CISTERN.example."] {
        assert!(guard.address_check(name, at("9.9.9.9", 443)).is_err(), "{name}");
    }
    assert!(is_own("127.0.0.1".parse().expect("an address")));
    assert!(!is_own("9.9.9.9".parse().expect("an address")));
}

#[tokio::test]
async fn odd_notations_of_an_address_are_seen_through() {
    for url in [
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://[::1]/",
        "http://[::ffff:7f00:1]/",
        "http://localhost/",
        "http://0/",
        "http://①②⑦.⓪.⓪.①/",
    ] {
        let url = Url::parse(url).expect("a URL");
        assert!(
            matches!(guard(&[]).resolve(&url).await, Err(NetError::Refused(_))),
            "{url}"
        );
    }
}

#[test]
fn only_web_addresses_are_taken() {
    for url in [
        "ftp://host/a",
        "file:///etc/passwd",
        "gopher://host/",
        "data:text/plain,x",
        "unix:/run/x",
    ] {
        assert!(url_check(&Url::parse(url).expect("a URL")).is_err(), "{url}");
    }
    for url in ["http://host/a", "https://user:pw@host:8443/a"] {
        assert!(url_check(&Url::parse(url).expect("a URL")).is_ok(), "{url}");
    }
}

#[test]
fn our_own_listeners_are_refused_even_where_their_network_is_allowed() {
    let mut config = Config::for_data("unused");
    config.fetch.allow = ["127.0.0.0/8", "0.0.0.0/0", "::/0"]
        .map(|n| n.parse().expect("a network"))
        .into();
    config.listen_api = "127.0.0.1:8080".parse().expect("an address");
    config.listen_registry = "0.0.0.0:5000".parse().expect("an address");
    let guard = Guard::new(&config);
    for ip in ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::ffff:127.0.0.1"] {
        for port in [8080, 5000] {
            let refusal = guard.address_check("host.example", at(ip, port));
            assert!(
                refusal.is_err_and(|e| e.contains("this server itself")),
                "{ip}:{port}"
            );
        }
        assert!(guard.address_check("host.example", at(ip, 8081)).is_ok(), "{ip}");
    }
    assert!(guard.address_check("host.example", at("9.9.9.9", 8080)).is_ok());
    let url = Url::parse("http://127.0.0.1:8080/metrics").expect("a URL");
    assert!(guard.url_check(&url).is_err(), "before anything is stored");
}

#[test]
fn a_name_with_one_forbidden_address_is_refused() {
    let public = at("9.9.9.9", 80);
    for inside in [
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "::ffff:192.168.0.1",
        "fd00::1",
    ] {
        for both in [[public, at(inside, 80)], [at(inside, 80), public]] {
            assert!(
                guard(&[]).addresses_check("rebind.example", &both).is_err(),
                "{both:?}"
            );
        }
    }
    assert!(
        guard(&[])
            .addresses_check("rebind.example", &[public, public])
            .is_ok()
    );
}

/// What a name means is asked once: the connection goes to what was checked, whatever the name means by then.
#[tokio::test]
async fn a_connection_goes_to_the_checked_address_and_nowhere_else() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let checked = listener.local_addr().expect("is bound");
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = vec![0; 4096];
        let length = stream.read(&mut head).await.expect("reads");
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
        stream.write_all(answer).await.expect("writes");
        String::from_utf8_lossy(&head[..length]).to_lowercase()
    };
    // A name that no resolver knows (RFC 6761).
    let url = format!("http://rebind.invalid:{}/disk", checked.port());
    let request = client(vec![checked]).expect("makes").get(&url).send();
    let (head, response) = tokio::join!(server, request);
    assert_eq!(response.expect("answers").text().await.expect("reads"), "ok");
    assert!(
        head.contains(&format!("host: rebind.invalid:{}", checked.port())),
        "{head}"
    );
}
