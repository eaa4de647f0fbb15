use super::*;

const T0: u64 = 1_000_000 * HOUR_SLOT;

fn passes(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Pass(_))
}

#[test]
fn each_request_counts_for_an_hour() {
    let mut w = Window::new(T0);
    for i in 0..10 {
        assert!(passes(w.take(T0 + i * 100, 10, 1000)));
    }
    let Verdict::Spent(s) = w.take(T0 + 1000, 10, 1000) else {
        panic!("the hour is spent")
    };
    assert_eq!((s.limit, s.remaining), (10, 0));
    assert!(
        s.reset >= T0 + 3600 && s.reset <= T0 + 3600 + HOUR_SLOT,
        "{}",
        s.reset - T0
    );
    assert!(!passes(w.take(T0 + 3599, 10, 1000)));
    assert!(
        passes(w.take(s.reset, 10, 1000)),
        "at `reset` one request is free again"
    );
    assert!(!passes(w.take(s.reset, 10, 1000)), "but only one");
}

#[test]
fn a_burst_says_how_long_to_wait_and_the_wait_is_enough() {
    let mut w = Window::new(T0);
    assert!((0..5).all(|_| passes(w.take(T0, 100, 5))));
    let Verdict::Burst(_, wait) = w.take(T0 + 20, 100, 5) else {
        panic!("a burst")
    };
    assert!((1..=61).contains(&wait), "{wait}");
    assert!(!passes(w.take(T0 + 20 + wait - 2, 100, 5)));
    assert!(passes(w.take(T0 + 20 + wait, 100, 5)));
}

#[test]
fn remaining_goes_down_by_one() {
    let mut w = Window::new(T0);
    let seen: Vec<u32> = (0..3)
        .map(|_| match w.take(T0, 10, 10) {
            Verdict::Pass(s) => s.remaining,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, [9, 8, 7]);
}

#[test]
fn a_clock_that_goes_back_frees_nothing() {
    let mut w = Window::new(T0);
    assert!(passes(w.take(T0, 2, 2)));
    assert!(passes(w.take(T0 - 5000, 2, 2)));
    assert!(!passes(w.take(T0 - 9000, 2, 2)));
}

#[test]
fn the_ring_agrees_with_a_list_of_times() {
    let mut ring = Ring::<61>::new(T0);
    let mut times: Vec<u64> = Vec::new();
    let mut now = T0;
    let mut state = 1_u64;
    for _ in 0..5_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        now += (state >> 60) * u64::from((state >> 40).is_multiple_of(7));
        ring.advance(now);
        times.retain(|t| now - t <= 60);
        if (state >> 33).is_multiple_of(4) && !times.is_empty() {
            ring.remove();
            times.pop();
        } else {
            ring.add();
            times.push(now);
        }
        assert_eq!(ring.total as usize, times.len());
        assert_eq!(ring.oldest(), times.first().copied().unwrap_or(now));
    }
}

#[test]
fn memory_is_bounded_and_the_quietest_go_first() {
    let mut table = Table::<u32>::default();
    for i in 0..u32::try_from(MAX_KEYS).expect("fits") + 1000 {
        table
            .window(i, T0 + u64::from(i) / 100)
            .take(T0 + u64::from(i) / 100, 10, 10);
    }
    assert!(table.windows.len() <= MAX_KEYS);
    assert!(!table.windows.contains_key(&0), "the oldest is gone");
    assert!(
        table
            .windows
            .contains_key(&(u32::try_from(MAX_KEYS).expect("fits") + 999))
    );
}

#[test]
fn an_ipv6_network_is_one_stranger() {
    let a: IpAddr = "2001:db8:1:2::1".parse().expect("an address");
    let b: IpAddr = "2001:db8:1:2:ffff::9".parse().expect("an address");
    let c: IpAddr = "2001:db8:1:3::1".parse().expect("an address");
    assert_eq!(network_of(a), network_of(b));
    assert_ne!(network_of(a), network_of(c));
}

fn limiter(per_minute: u32, anonymous_per_minute: u32) -> RateLimiter {
    RateLimiter::new(
        RateLimit {
            per_hour: 1000,
            per_minute,
            anonymous_per_minute,
        },
        Clock::default(),
    )
}

#[test]
fn a_proved_token_leaves_its_address_free() {
    let l = limiter(100, 2);
    let address = IpAddr::from([192, 0, 2, 1]);
    for key in 0..10_u8 {
        assert!(passes(l.stranger(address)), "{key}");
        assert!(passes(l.token_proved([key; 16], address, &Who::default())));
        assert!(l.token_known(&[key; 16]).is_some_and(passes));
    }
}

#[test]
fn wrong_tokens_use_up_their_address_only() {
    let l = limiter(100, 3);
    let address = IpAddr::from([192, 0, 2, 1]);
    assert!(passes(l.stranger(address)));
    assert!(passes(l.token_proved([1; 16], address, &Who::default())));
    assert_eq!((0..5).filter(|_| passes(l.stranger(address))).count(), 3);
    assert!(passes(l.stranger(IpAddr::from([192, 0, 2, 2]))));
    assert!(
        l.token_known(&[1; 16]).is_some_and(passes),
        "a good token goes on"
    );
    l.token_forget(&[1; 16]);
    assert!(l.token_known(&[1; 16]).is_none());
}
