//! The members of a tar archive: POSIX ustar and pax, and what GNU tar adds for long names and large members. Only
//! where each member is, how long, and how its name ends; there is nothing to be had by links, devices and paths.

use super::UNPACK;
use crate::bytes::has;
use crate::error::{AGAIN, Error, Result};
use crate::source::Source;

const BLOCK: u64 = 512;
const BLOCK_BYTES: usize = 512;
/// An OVA has a handful.
const MAX_MEMBERS: usize = 64;
/// The longest pax header or GNU name that is read.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) at: u64,
    pub(super) length: u64,
    /// In lower case.
    name: Vec<u8>,
}

impl Member {
    /// Whether its name ends so, in whatever case.
    pub(super) fn ends_with(&self, end: &str) -> bool {
        self.name.ends_with(end.as_bytes())
    }
}

#[derive(Debug)]
pub(super) struct Members {
    pub(super) all: Vec<Member>,
}

impl Members {
    /// Reads every header up to the end mark; an archive that just ends is cut off.
    pub(super) fn read(source: &mut Source<'_>) -> Result<Self> {
        let (mut at, mut all, mut said) = (0, Vec::new(), Said::default());
        // Headers of all kinds: in front of each member may be some that speak of it.
        for _ in 0..MAX_MEMBERS * 4 {
            let mut header = [0; BLOCK_BYTES];
            if at == source.len() {
                // Some tools leave the end mark out.
                return Ok(Self { all });
            }
            source.read_at(at, &mut header)?;
            if header.iter().all(|byte| *byte == 0) {
                return Ok(Self { all });
            }
            check_sum(&header)?;
            let kind = header.get(156).copied().unwrap_or(0);
            let is_extension = matches!(kind, b'x' | b'g' | b'L' | b'K');
            let stated = number(header.get(124..136).unwrap_or_default())?;
            let length = if is_extension {
                stated
            } else {
                said.length.unwrap_or(stated)
            };
            let begin = at + BLOCK;
            let end = begin.checked_add(length).filter(|end| *end <= source.len());
            let Some(end) = end else {
                return Err(Error::damaged(format!(
                    "The archive is cut off: one of its members ends behind the end of the file. {AGAIN}"
                )));
            };
            match kind {
                b'x' | b'L' => said.read(source, kind, begin, length)?,
                // For the whole archive, and names of links.
                b'g' | b'K' => {}
                0 | b'0' | b'7' => all.push(said.member(&header, begin, length)),
                b'5' => said = Said::default(),
                _ => {
                    return Err(Error::refused(format!(
                        "The archive holds a link, a device or a sparse file, which an OVA does not. {UNPACK}"
                    )));
                }
            }
            if all.len() > MAX_MEMBERS {
                break;
            }
            at = end.next_multiple_of(BLOCK).min(source.len());
        }
        Err(Error::limit(format!(
            "The archive has more than {MAX_MEMBERS} members, which an OVA does not. {UNPACK}"
        )))
    }
}

/// What the headers in front of a member said of it.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    name: Option<Vec<u8>>,
}

impl Said {
    fn read(&mut self, source: &mut Source<'_>, kind: u8, at: u64, length: u64) -> Result<()> {
        if length > MAX_EXTENSION_BYTES {
            return Err(Error::limit(format!(
                "The archive has a header of {length} bytes, more than any tool writes. {UNPACK}"
            )));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        source.read_at(at, &mut bytes)?;
        if kind == b'L' {
            self.name = Some(until_nul(&bytes).to_ascii_lowercase());
            return Ok(());
        }
        let mut rest = bytes.as_slice();
        while let Some((key, value, after)) = record(rest) {
            match key {
                b"size" => self.length = Some(decimal(value)?),
                b"path" => self.name = Some(value.to_ascii_lowercase()),
                _ if key.starts_with(b"GNU.sparse") => {
                    return Err(Error::refused(format!(
                        "The archive holds a sparse file, which an OVA does not. {UNPACK}"
                    )));
                }
                _ => {}
            }
            rest = after;
        }
        Ok(())
    }

    /// The member that these headers and `header` speak of; the next has its own.
    fn member(&mut self, header: &[u8], at: u64, length: u64) -> Member {
        let said = std::mem::take(self);
        let own = until_nul(header.get(..100).unwrap_or_default()).to_ascii_lowercase();
        Member {
            at,
            length,
            name: said.name.unwrap_or(own),
        }
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The first `length key=value\n` of a pax header, and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
    let text = bytes.get(space + 1..length.checked_sub(1)?)?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((text.get(..equals)?, text.get(equals + 1..)?, bytes.get(length..)?))
}

fn decimal(text: &[u8]) -> Result<u64> {
    let number = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(bad_size)
}

fn bad_size() -> Error {
    Error::damaged(format!(
        "The archive is damaged: it has a member without a length. {AGAIN}"
    ))
}

/// A number in octal digits or, with the first bit set, in base 256 as GNU tar writes large ones.
fn number(field: &[u8]) -> Result<u64> {
    if let Some((first, rest)) = field.split_first().filter(|(first, _)| **first & 0x80 != 0) {
        let (high, low) = rest.split_at(rest.len().saturating_sub(8));
        if first & 0x7f != 0 || high.iter().any(|byte| *byte != 0) {
            return Err(bad_size());
        }
        return Ok(low.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let text = until_nul(field).trim_ascii();
    let text = str::from_utf8(text).map_err(|_| bad_size())?;
    u64::from_str_radix(text, 8).map_err(|_| bad_size())
}

/// The checksum is the sum of the header's bytes, with its own field as spaces.
fn check_sum(header: &[u8]) -> Result<()> {
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u64::from(*byte)
            }
        })
        .sum();
    if has(header, 257, b"ustar") && number(header.get(148..156).unwrap_or_default()).ok() == Some(sum) {
        return Ok(());
    }
    Err(Error::damaged(format!(
        "The archive is damaged: the checksum of one of its headers does not hold. {AGAIN}"
    )))
}
