//! Which bytes of a file a request wants: `Range` of RFC 9110 §14, one range at a time.
//!
//! What cannot be understood, other units and several ranges at once are answered with the whole file, which §14.2
//! allows; only a range that is understood and lies outside is refused.

use std::ops::Range;

/// What to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// 200: all of it.
    All,
    /// 206: these bytes; never empty.
    Part(Range<u64>),
    /// 416: nothing of what was asked for exists.
    Nothing,
}

/// Reads a `Range` header against a file of `length` bytes.
pub fn wanted(header: Option<&str>, length: u64) -> Wanted {
    let Some((unit, set)) = header.and_then(|text| text.split_once('=')) else {
        return Wanted::All;
    };
    let Some((first, last)) = set.trim().split_once('-') else {
        return Wanted::All;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::All;
    }
    let (first, last) = (first.trim(), last.trim());
    if [first, last]
        .iter()
        .any(|text| !text.bytes().all(|b| b.is_ascii_digit()))
    {
        return Wanted::All;
    }
    match (position(first), position(last)) {
        (Some(first), last) => from_first(first, last, length),
        (None, Some(suffix)) => from_suffix(suffix, length),
        (None, None) => Wanted::All,
    }
}

fn from_first(first: u64, last: Option<u64>, length: u64) -> Wanted {
    if last.is_some_and(|last| last < first) {
        // Invalid, not unsatisfiable: §14.1.1.
        return Wanted::All;
    }
    if first >= length {
        return Wanted::Nothing;
    }
    let end = last.map_or(length, |last| last.saturating_add(1).min(length));
    Wanted::Part(first..end)
}

/// The last `suffix` bytes; more than there are means all of them.
fn from_suffix(suffix: u64, length: u64) -> Wanted {
    match suffix.min(length) {
        0 => Wanted::Nothing,
        count => Wanted::Part(length - count..length),
    }
}

/// Digits as a number, nothing as `None`. A number too large for us is larger than any file.
fn position(digits: &str) -> Option<u64> {
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(u64::MAX))
}

/// `Content-Range` of an answer with `range` of `length` bytes.
pub fn content_range(range: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_rfc() {
        let of = |text| wanted(Some(text), 10_000);
        assert_eq!(of("bytes=0-499"), Wanted::Part(0..500));
        assert_eq!(of("bytes=500-999"), Wanted::Part(500..1000));
        assert_eq!(of("bytes=-500"), Wanted::Part(9500..10_000));
        assert_eq!(of("bytes=9500-"), Wanted::Part(9500..10_000));
        assert_eq!(of("bytes= 0-0"), Wanted::Part(0..1));
        assert_eq!(of("BYTES=0-99999999999999999999999"), Wanted::Part(0..10_000));
    }

    #[test]
    fn what_lies_outside_is_refused_and_what_is_no_range_is_ignored() {
        let of = |text| wanted(Some(text), 10);
        for outside in [
            "bytes=10-",
            "bytes=10-20",
            "bytes=-0",
            "bytes=99999999999999999999999-",
        ] {
            assert_eq!(of(outside), Wanted::Nothing, "{outside}");
        }
        for odd in [
            "bytes=",
            "bytes=-",
            "bytes=5-4",
            "bytes=a-b",
            "lines=0-1",
            "bytes=0-1,3-4",
            "0-1",
            "bytes=+1-2",
        ] {
            assert_eq!(of(odd), Wanted::All, "{odd}");
        }
        assert_eq!(wanted(None, 10), Wanted::All);
        assert_eq!(wanted(Some("bytes=-5"), 0), Wanted::Nothing);
    }

    proptest! {
        /// Against the definition: byte `i` is in the answer exactly when the header names it and the file has it.
        #[test]
        fn a_range_is_what_it_names_and_the_file_has(first in 0_u64..50, last in 0_u64..50, length in 0_u64..50) {
            let text = format!("bytes={first}-{last}");
            let named: Vec<u64> = (first..=last).filter(|i| *i < length).collect();
            match wanted(Some(&text), length) {
                Wanted::All => prop_assert!(last < first),
                Wanted::Nothing => prop_assert!(named.is_empty() && first <= last),
                Wanted::Part(range) => {
                    prop_assert!(!range.is_empty());
                    prop_assert_eq!(range.collect::<Vec<_>>(), named);
                }
            }
        }

        #[test]
        fn a_suffix_is_the_end_of_the_file(suffix in 0_u64..50, length in 0_u64..50) {
            let all: Vec<u64> = (0..length).collect();
            let end = &all[all.len().saturating_sub(usize::try_from(suffix).expect("small"))..];
            match wanted(Some(&format!("bytes=-{suffix}")), length) {
                Wanted::All => prop_assert!(false, "a suffix is a range"),
                Wanted::Nothing => prop_assert!(end.is_empty()),
                Wanted::Part(range) => prop_assert_eq!(range.collect::<Vec<_>>(), end),
            }
        }

        #[test]
        fn nothing_makes_it_panic_or_leave_the_file(text in "\\PC{0,40}", length in any::<u64>()) {
            if let Wanted::Part(range) = wanted(Some(&text), length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
