//! The tables of the guard: every family of addresses, in every notation.

use super::*;

fn guard(allow: &[&str]) -> Guard {
    let mut config = Config::for_data("unused");
    config.fetch.allow = allow.iter().map(|n| n.parse().expect("a network")).collect();
    config.external_url.api = Some("https://cistern.example".parse().expect("a URL"));
    Guard::new(&config)
}

fn is_allowed(guard: &Guard, ip: &str) -> bool {
    guard
        .address_check("host.example", ip.parse().expect("an address"))
        .is_ok()
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
        assert!(
            guard
                .address_check(name, "9.9.9.9".parse().expect("an address"))
                .is_err(),
            "{name}"
        );
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
