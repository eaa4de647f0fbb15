//! The bodies of records, as bytes.

use super::{Failure, MAX_DATA_BYTES, Record};
use crate::error::ErrorKind;
use crate::extents::{Content, Extent};
use crate::format::{Format, Info, Probe, Wrapper};

const PROBE: u8 = 1;
const INFO: u8 = 2;
const ZERO: u8 = 3;
const SOURCE: u8 = 4;
const DATA: u8 = 5;
const DONE: u8 = 6;
const BYTES: u8 = 7;
const UNWRAPPED: u8 = 8;
const FAILURE: u8 = 9;

const MAX_TEXT_BYTES: usize = 2048;
const MAX_WARNINGS: usize = 32;
const KINDS: [ErrorKind; 4] = [
    ErrorKind::Refused,
    ErrorKind::Damaged,
    ErrorKind::Limit,
    ErrorKind::Io,
];

pub(super) fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; 5]);
    let kind = match record {
        Record::Probe(probe) => {
            let name = match probe {
                Probe::Wrapped(wrapper) => wrapper.name(),
                Probe::Disk(format) => format.name(),
            };
            out.extend(name.as_bytes());
            PROBE
        }
        Record::Info(info) => {
            put_info(info, out);
            INFO
        }
        Record::Extent(extent) => put_extent(extent, out),
        Record::Done(info) => {
            put_info(info, out);
            DONE
        }
        Record::Bytes(bytes) => {
            out.extend_from_slice(bytes);
            BYTES
        }
        Record::Unwrapped(total) => {
            out.extend(total.to_le_bytes());
            UNWRAPPED
        }
        Record::Failure(failure) => {
            let kind = KINDS.iter().position(|kind| *kind == failure.kind).unwrap_or(0);
            out.push(u8::try_from(kind).unwrap_or(0));
            put_text(&failure.message, out);
            FAILURE
        }
    };
    let length = u32::try_from(out.len() - start - 5)
        .unwrap_or(u32::MAX)
        .to_le_bytes();
    if let Some(head) = out.get_mut(start..start + 5) {
        let [a, b, c, d] = length;
        head.copy_from_slice(&[kind, a, b, c, d]);
    }
}

fn put_extent(extent: &Extent<'_>, out: &mut Vec<u8>) -> u8 {
    out.extend(extent.offset.to_le_bytes());
    match extent.content {
        Content::Zero => {
            out.extend(extent.length.to_le_bytes());
            ZERO
        }
        Content::Source(at) => {
            out.extend(extent.length.to_le_bytes());
            out.extend(at.to_le_bytes());
            SOURCE
        }
        Content::Data(bytes) => {
            out.extend_from_slice(bytes);
            DATA
        }
    }
}

fn put_info(info: &Info, out: &mut Vec<u8>) {
    put_text(info.format.name(), out);
    out.extend(info.virtual_bytes.to_le_bytes());
    put_text(&info.variant, out);
    let warnings = info.warnings.iter().take(MAX_WARNINGS);
    out.push(u8::try_from(warnings.len()).unwrap_or(0));
    warnings.for_each(|warning| put_text(warning, out));
}

/// Text, cut at a character and without control characters, behind its length.
fn put_text(text: &str, out: &mut Vec<u8>) {
    let mut plain = String::new();
    for letter in text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
    {
        if plain.len() + letter.len_utf8() > MAX_TEXT_BYTES {
            break;
        }
        plain.push(letter);
    }
    out.extend(u16::try_from(plain.len()).unwrap_or(0).to_le_bytes());
    out.extend(plain.as_bytes());
}

/// Decodes a body; nothing where it is malformed or longer than its contents.
pub(super) fn decode(kind: u8, body: &[u8]) -> Option<Record<'_>> {
    let mut rest = body;
    let record = match kind {
        PROBE => Record::Probe(probe(take(&mut rest, body.len())?)?),
        INFO => Record::Info(info(&mut rest)?),
        ZERO | SOURCE => {
            let (offset, length) = (number(&mut rest)?, number(&mut rest)?);
            let content = if kind == ZERO {
                Content::Zero
            } else {
                Content::Source(number(&mut rest)?)
            };
            Record::Extent(Extent {
                offset,
                length,
                content,
            })
        }
        DATA => {
            let offset = number(&mut rest)?;
            let bytes = data(&mut rest)?;
            Record::Extent(Extent {
                offset,
                length: bytes.len() as u64,
                content: Content::Data(bytes),
            })
        }
        DONE => Record::Done(info(&mut rest)?),
        BYTES => Record::Bytes(data(&mut rest)?),
        UNWRAPPED => Record::Unwrapped(number(&mut rest)?),
        FAILURE => {
            let kind = *KINDS.get(usize::from(*take(&mut rest, 1)?.first()?))?;
            Record::Failure(Failure {
                kind,
                message: text(&mut rest)?,
            })
        }
        _ => return None,
    };
    rest.is_empty().then_some(record)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn data<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = rest.len();
    take(rest, length).filter(|bytes| !bytes.is_empty() && bytes.len() <= MAX_DATA_BYTES)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(rest, 8)?.try_into().ok()?))
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::from(u16::from_le_bytes(take(rest, 2)?.try_into().ok()?));
    let text = str::from_utf8(take(rest, length)?).ok()?;
    let plain = length <= MAX_TEXT_BYTES && !text.chars().any(char::is_control);
    plain.then(|| text.to_owned())
}

fn probe(name: &[u8]) -> Option<Probe> {
    let name = str::from_utf8(name).ok()?;
    let disk = name.parse::<Format>().map(Probe::Disk);
    disk.or_else(|_| name.parse::<Wrapper>().map(Probe::Wrapped)).ok()
}

fn info(rest: &mut &[u8]) -> Option<Info> {
    let format = text(rest)?.parse().ok()?;
    let virtual_bytes = number(rest)?;
    let variant = text(rest)?;
    let count = usize::from(*take(rest, 1)?.first()?);
    let warnings = (0..count).map(|_| text(rest)).collect::<Option<Vec<_>>>()?;
    (count <= MAX_WARNINGS).then_some(Info {
        format,
        variant,
        virtual_bytes,
        warnings,
    })
}
