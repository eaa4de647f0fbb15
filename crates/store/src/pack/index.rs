//! Reading the index of a pack: where it lies, whether it is what was written, whether the frames are what it says, and
//! finding them without it.

use std::collections::BTreeMap;
use std::ops::Range;

use uuid::Uuid;

use super::{
    ENTRY_BYTES, Entry, FRAME_HEADER_BYTES, HEADER_BYTES, HEADER_MAGIC, LIMIT_BYTES, TRAILER_BYTES,
    TRAILER_MAGIC, frame_check, frame_decode, frame_of, header, u32_at,
};
use crate::digest::{Digest, FrameKind, Keys};
use crate::error::{Error, Kind, Result};
use crate::format::format_check;
use crate::seal::ObjectKey;

/// Refuses a pack of another format. Only where header and trailer both say so: one alone is a bit that is not what was
/// written, and the pack is damaged.
pub(crate) fn pack_format_check(header: &[u8], trailer: &[u8]) -> Result<()> {
    let is_marked = header.len() == HEADER_BYTES
        && trailer.len() == TRAILER_BYTES
        && &header[..8] == HEADER_MAGIC
        && &trailer[56..] == TRAILER_MAGIC;
    if !is_marked {
        return Ok(());
    }
    let (first, last) = (u32_at(header, 8), u32_at(trailer, 8));
    if first == last {
        return format_check("pack", first);
    }
    let text = format!("a pack says at its start that it has format {first}, and at its end {last}");
    Err(Error::new(Kind::Damaged, text))
}

/// Which bytes of a pack of `pack_bytes` hold footer and trailer, told by its last 64 bytes.
pub fn footer_range(pack_bytes: u64, trailer: &[u8]) -> Result<Range<u64>> {
    let damaged = |what: &str| Error::new(Kind::Damaged, format!("pack {what}"));
    if trailer.len() != TRAILER_BYTES || &trailer[56..] != TRAILER_MAGIC {
        return Err(damaged("has no trailer: it was cut or overwritten"));
    }
    let footer = u64::from(u32_at(trailer, 0));
    let length = u64::from(u32_at(trailer, 4)) * ENTRY_BYTES as u64 + TRAILER_BYTES as u64;
    if footer < HEADER_BYTES as u64 || pack_bytes > LIMIT_BYTES as u64 || footer + length != pack_bytes {
        return Err(damaged("has a footer that does not fit its size"));
    }
    Ok(footer..pack_bytes)
}

/// The dedup domain that a pack's header names.
pub(crate) fn domain(header: &[u8]) -> Result<i64> {
    if header.len() < HEADER_BYTES || &header[..8] != HEADER_MAGIC {
        return Err(Error::new(Kind::Damaged, "a pack does not begin as it should"));
    }
    Ok(i64::from_le_bytes(header[48..56].try_into().unwrap_or_default()))
}

/// Which of these dedup domains a pack is of whose header is damaged, as far as its index is not: the code of the index
/// is over the header too, and all else that the header holds is known.
pub(crate) fn domain_prove(
    keys: &Keys,
    (id, store_id): (Uuid, Uuid),
    pack: &[u8],
    among: &[i64],
) -> Option<i64> {
    let trailer = pack.get(pack.len().checked_sub(TRAILER_BYTES)?..)?;
    let footer = footer_range(pack.len() as u64, trailer).ok()?;
    let footer = pack.get(usize::try_from(footer.start).ok()?..)?;
    let is_of = |domain: &&i64| index_open(keys, id, &header(id, store_id, **domain), footer).is_ok();
    among.iter().find(is_of).copied()
}

/// The index of a whole pack.
pub(crate) fn index(keys: &Keys, id: Uuid, pack: &[u8]) -> Result<Vec<Entry>> {
    let damaged = || Error::new(Kind::Damaged, format!("pack {id} is shorter than its frames"));
    if pack.len() < HEADER_BYTES + TRAILER_BYTES {
        return Err(damaged());
    }
    let trailer = &pack[pack.len() - TRAILER_BYTES..];
    pack_format_check(&pack[..HEADER_BYTES], trailer)?;
    let footer = footer_range(pack.len() as u64, trailer)?;
    let start = usize::try_from(footer.start).map_err(|_| damaged())?;
    index_open(keys, id, &pack[..HEADER_BYTES], &pack[start..])
}

/// Parses and authenticates the index of a pack: its header, and its footer with the trailer.
pub(crate) fn index_open(keys: &Keys, id: Uuid, header: &[u8], footer: &[u8]) -> Result<Vec<Entry>> {
    let damaged = |what: &str| Error::new(Kind::Damaged, format!("pack {id} {what}"));
    if header.len() != HEADER_BYTES || &header[..8] != HEADER_MAGIC || &header[16..32] != id.as_bytes() {
        return Err(damaged("does not begin as it should"));
    }
    if footer.len() < TRAILER_BYTES {
        return Err(damaged("has no trailer"));
    }
    let (entries, trailer) = footer.split_at(footer.len() - TRAILER_BYTES);
    let (fields, mac) = trailer.split_at(24);
    if keys.footer_mac(&[header, entries, fields]) != mac[..32] {
        return Err(damaged("has an index that does not match its code"));
    }
    entries
        .chunks_exact(ENTRY_BYTES)
        .map(|entry| entry_decode(entry).ok_or_else(|| damaged("has an entry of unknown kind")))
        .collect()
}

/// Finds the frames of a pack whose footer is lost, from the front, by what they say of themselves. Only whole ones;
/// the search ends where a length cannot be right.
pub(crate) fn salvage(keys: &Keys, id: Uuid, pack: &[u8]) -> Result<Vec<Entry>> {
    let key = keys.pack_key(id)?;
    let (mut entries, mut at, mut index) = (Vec::new(), HEADER_BYTES, 0_u32);
    while let Some(header) = pack.get(at..at + FRAME_HEADER_BYTES) {
        let length = FRAME_HEADER_BYTES + u32_at(header, 8) as usize;
        let Some(frame) = pack.get(at..at + length).filter(|_| u32_at(header, 4) == index) else {
            break;
        };
        entries.extend(frame_describe(keys, key.as_ref(), at, frame));
        at += length;
        index += 1;
    }
    Ok(entries)
}

/// The entry that a whole frame would have in the footer.
fn frame_describe(keys: &Keys, key: Option<&ObjectKey>, at: usize, frame: &[u8]) -> Option<Entry> {
    let kind = FrameKind::from_code(frame[2])?;
    let plain = frame_decode(key, frame).ok()?;
    Some(Entry {
        digest: keys.digest(kind, &plain),
        offset: u32::try_from(at).ok()?,
        length: u32::try_from(frame.len()).ok()?,
        plain_bytes: u32::try_from(plain.len()).ok()?,
        kind,
        level: frame[3],
    })
}

/// What the footer would say of a frame whose digest and place are known; what it says of itself is not checked.
pub(crate) fn entry_at((digest, kind): (Digest, FrameKind), offset: u32, length: u32, pack: &[u8]) -> Entry {
    let header = pack
        .get(offset as usize..)
        .and_then(|frame| frame.get(..FRAME_HEADER_BYTES));
    Entry {
        digest,
        offset,
        length,
        plain_bytes: header.map_or(0, |header| u32_at(header, 12)),
        kind,
        level: header.map_or(0, |header| header[3]),
    }
}

fn entry_decode(entry: &[u8]) -> Option<Entry> {
    Some(Entry {
        digest: Digest::from_slice(&entry[..32])?,
        offset: u32_at(entry, 32),
        length: u32_at(entry, 36),
        plain_bytes: u32_at(entry, 40),
        kind: FrameKind::from_code(entry[44])?,
        level: entry[45],
    })
}

/// Parses a whole pack and decodes and re-hashes every frame of it, on all cores. The bytes are those that
/// will be written, so a fault of the compressor or of memory is found before anything is published.
pub(crate) fn verify(keys: &Keys, id: Uuid, pack: &[u8]) -> Result<Vec<Entry>> {
    use rayon::prelude::*;

    let entries = index(keys, id, pack)?;
    let key = keys.pack_key(id)?;
    entries
        .par_iter()
        .enumerate()
        .try_for_each(|(number, entry)| entry_check(keys, key.as_ref(), number, entry, pack))?;
    Ok(entries)
}

/// What is wrong with a whole pack, for people: with its index, or with how many of its frames what. `None` where
/// nothing is.
pub(crate) fn faults(keys: &Keys, id: Uuid, pack: &[u8]) -> Option<String> {
    use rayon::prelude::*;

    let opened = index(keys, id, pack).and_then(|entries| Ok((entries, keys.pack_key(id)?)));
    let (entries, key) = match opened {
        Ok(opened) => opened,
        Err(error) => return Some(error.to_string()),
    };
    let checked = entries.par_iter().enumerate();
    let found: Vec<String> = checked
        .filter_map(|(number, entry)| entry_check(keys, key.as_ref(), number, entry, pack).err())
        .map(|error| error.to_string())
        .collect();
    (!found.is_empty()).then(|| faults_text(&found, entries.len()))
}

/// Frames by what is wrong with them.
fn faults_text(found: &[String], frames: usize) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in found {
        *counts.entry(reason).or_default() += 1;
    }
    let reasons: Vec<String> = counts
        .iter()
        .map(|(reason, count)| format!("{count} × {reason}"))
        .collect();
    format!("{} of {frames} frames: {}", found.len(), reasons.join(", "))
}

/// Whether a frame is what index and digest say.
fn entry_check(
    keys: &Keys,
    key: Option<&ObjectKey>,
    number: usize,
    entry: &Entry,
    pack: &[u8],
) -> Result<()> {
    let frame = frame_of(entry, pack)?;
    if frame[2..4] != [entry.kind as u8, entry.level] || u32_at(frame, 4) as usize != number {
        return Err(Error::new(Kind::Damaged, "frame contradicts the index"));
    }
    frame_check(keys, key, entry, frame)
}

/// Parts entries of a pack into those whose frames are what they are said to be, and those whose are not.
pub(crate) fn entries_check(
    keys: &Keys,
    id: Uuid,
    entries: Vec<Entry>,
    pack: &[u8],
) -> Result<(Vec<Entry>, Vec<Entry>)> {
    let key = keys.pack_key(id)?;
    let is_whole = |entry: &Entry| {
        frame_of(entry, pack).is_ok_and(|frame| frame_check(keys, key.as_ref(), entry, frame).is_ok())
    };
    Ok(entries.into_iter().partition(is_whole))
}
