//! Packs: immutable objects of many frames with an authenticated index at the end
//! (docs/store-format.md §4-5). Pure bytes in, bytes out.

mod index;

use std::cell::RefCell;

use bytes::Bytes;
use uuid::Uuid;
use zstd::bulk::{Compressor, Decompressor};

use crate::digest::{Digest, FrameKind, Keys};
use crate::error::{Error, Kind, Result};
use crate::memory::PackBytes;
use crate::seal::{ObjectKey, TAG_BYTES};
use crate::{CHUNK_BYTES, FORMAT};

pub use index::footer_range;
pub(crate) use index::{
    domain, domain_prove, entries_check, entry_at, faults, index, index_open, pack_format_check, salvage,
    verify,
};

/// Bytes before the first frame.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a frame's own header.
pub const FRAME_HEADER_BYTES: usize = 16;
/// Bytes of one footer entry.
pub const ENTRY_BYTES: usize = 48;
/// Bytes after the footer.
pub const TRAILER_BYTES: usize = 64;
/// A pack is sealed when it holds this much.
const TARGET_BYTES: usize = 12 << 20;
/// And when it has so many frames, so that what is known of each of them is bounded, and the transaction that publishes
/// them short, where frames are tiny: a GiB of chunks.
const TARGET_FRAMES: usize = 16 << 10;
/// Bytes that a pack being filled takes in memory: what is sealed, the frame that makes it full, and some.
pub(crate) const CAPACITY_BYTES: usize = TARGET_BYTES + (1 << 20);
/// The largest pack that a reader has to accept.
pub const LIMIT_BYTES: usize = 16 << 20;
/// The largest plain frame: a full tree node is longer than nothing else but a chunk.
const PLAIN_LIMIT: u32 = CHUNK_BYTES;

/// The longest frame that is ever written: what would not shrink is stored as it is.
pub(crate) const FRAME_LIMIT_BYTES: usize = FRAME_HEADER_BYTES + PLAIN_LIMIT as usize + TAG_BYTES;

const HEADER_MAGIC: &[u8; 8] = b"CISTPACK";
const TRAILER_MAGIC: &[u8; 8] = b"CISTPEND";
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const CIPHER_NONE: u8 = 0;
const CIPHER_AES: u8 = 1;
const ZSTD_LEVEL: i32 = 1;

/// One frame of a pack, as its footer has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Digest of the plain bytes.
    pub digest: Digest,
    /// Where the frame's header begins in the pack.
    pub offset: u32,
    /// Bytes of the frame with its header.
    pub length: u32,
    /// Bytes it has when decoded.
    pub plain_bytes: u32,
    /// What it holds.
    pub kind: FrameKind,
    /// A node's level; 0 for data.
    pub level: u8,
}

/// A frame compressed but not yet placed in a pack. Its payload lies where its plain bytes were.
pub(crate) struct Encoded {
    digest: Digest,
    pub(crate) kind: FrameKind,
    level: u8,
    codec: u8,
    plain_bytes: u32,
    payload_bytes: usize,
}

thread_local! {
    /// Making a context costs as much as a chunk or two: each thread keeps its own, and room for one frame.
    static COMPRESSOR: RefCell<Option<(Compressor<'static>, Vec<u8>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    static DECODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static OPENED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Compresses in place; gives the length, or nothing (and changes nothing) where that does not shrink it.
fn compress(bytes: &mut [u8]) -> Result<Option<usize>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let (compressor, scratch) = if let Some(slot) = slot {
            slot
        } else {
            let compressor = Compressor::new(ZSTD_LEVEL)
                .map_err(|error| Error::io("cannot start the compressor", error))?;
            slot.insert((compressor, vec![0; PLAIN_LIMIT as usize]))
        };
        // A destination smaller than the input makes zstd give up early on what does not shrink.
        let room = bytes.len().saturating_sub(1);
        let Ok(length) = compressor.compress_to_buffer(bytes, &mut scratch[..room]) else {
            return Ok(None);
        };
        bytes[..length].copy_from_slice(&scratch[..length]);
        Ok(Some(length))
    })
}

/// Decompresses into a slice, or an empty vector, at most as much as there is room for; gives how much that was.
fn decompress<T: zstd::zstd_safe::WriteBuf + ?Sized>(payload: &[u8], to: &mut T) -> Result<usize> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(
                Decompressor::new().map_err(|error| Error::io("cannot start the decompressor", error))?,
            ),
        };
        decompressor
            .decompress_to_buffer(payload, to)
            .map_err(|error| Error::new(Kind::Damaged, "frame does not decompress").with_source(error))
    })
}

/// Compresses plain bytes in place; keeps them as they are where that does not shrink them.
pub(crate) fn frame_encode(digest: Digest, kind: FrameKind, level: u8, bytes: &mut [u8]) -> Result<Encoded> {
    let plain_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    if plain_bytes > PLAIN_LIMIT {
        let text = format!("a frame of {} bytes is too long", bytes.len());
        return Err(Error::new(Kind::Invalid, text));
    }
    let (codec, payload_bytes) = match compress(bytes)? {
        Some(length) => (CODEC_ZSTD, length),
        None => (CODEC_RAW, bytes.len()),
    };
    Ok(Encoded {
        digest,
        kind,
        level,
        codec,
        plain_bytes,
        payload_bytes,
    })
}

/// Decodes one frame of the pack that `key` is of; `None` where the store is not encrypted. Checks the frame's
/// structure and, in an encrypted store, that it is what was written in this pack at the place that it names; the
/// caller compares the digest.
pub fn frame_decode(key: Option<&ObjectKey>, frame: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    frame_decode_to(key, frame, &mut plain)?;
    Ok(plain)
}

/// What a frame says of itself.
struct FrameHeader {
    codec: u8,
    plain_bytes: u32,
}

/// Checks that the parts of a frame can belong together.
fn header_of(frame: &[u8]) -> Result<FrameHeader> {
    if frame.len() < FRAME_HEADER_BYTES {
        return Err(header_damaged("is shorter than its header"));
    }
    let (header, payload) = frame.split_at(FRAME_HEADER_BYTES);
    let plain_bytes = u32_at(header, 12);
    if u32_at(header, 8) as usize != payload.len() || plain_bytes > PLAIN_LIMIT {
        return Err(header_damaged("has lengths that cannot be"));
    }
    Ok(FrameHeader {
        codec: header[0],
        plain_bytes,
    })
}

fn header_damaged(what: &str) -> Error {
    Error::new(Kind::Damaged, format!("frame {what}"))
}

/// A later version that has more codecs or ciphers writes packs of another format: in one of ours such a byte is not
/// what was written.
fn codec_unknown(codec: u8) -> Error {
    header_damaged(&format!("has unknown codec {codec}"))
}

/// Decodes one frame into an empty vector.
fn frame_decode_to(key: Option<&ObjectKey>, frame: &[u8], plain: &mut Vec<u8>) -> Result<()> {
    let header = header_of(frame)?;
    OPENED.with_borrow_mut(|opened| {
        let payload = payload_open(key, frame, opened)?;
        payload_decode(header.codec, payload, header.plain_bytes, plain)
    })?;
    if plain.len() != header.plain_bytes as usize {
        return Err(header_damaged("has the wrong length when decoded"));
    }
    Ok(())
}

/// The payload of a frame that is longer than its header, as it was before it was encrypted; `opened` is room for it.
fn payload_open<'a>(key: Option<&ObjectKey>, frame: &'a [u8], opened: &'a mut Vec<u8>) -> Result<&'a [u8]> {
    let (header, payload) = frame.split_at(FRAME_HEADER_BYTES);
    match (header[1], key) {
        (CIPHER_NONE, None) => Ok(payload),
        (CIPHER_AES, Some(key)) => {
            let opening = key.frame_open(header, u32_at(header, 4), payload, opened);
            opening.map_err(|error| error.context("frame"))?;
            Ok(opened)
        }
        // Also what should be encrypted and is not: somebody put it there.
        (CIPHER_NONE, Some(_)) => Err(header_damaged("is not encrypted as it should be")),
        (CIPHER_AES, None) => Err(header_damaged("is encrypted, the store is not")),
        (cipher, _) => Err(header_damaged(&format!("has unknown cipher {cipher}"))),
    }
}

fn payload_decode(codec: u8, payload: &[u8], plain_bytes: u32, plain: &mut Vec<u8>) -> Result<()> {
    plain.reserve_exact(plain_bytes as usize);
    match codec {
        CODEC_RAW => plain.extend_from_slice(payload),
        CODEC_ZSTD => drop(decompress(payload, plain)?),
        codec => return Err(codec_unknown(codec)),
    }
    Ok(())
}

/// Decodes a frame and compares the digest: wrong bytes never leave here.
pub(crate) fn frame_open(
    keys: &Keys,
    pack: Uuid,
    kind: FrameKind,
    digest: Digest,
    frame: &[u8],
) -> Result<Vec<u8>> {
    frame_open_with(keys, keys.pack_key(pack)?.as_ref(), kind, digest, frame)
}

/// The same for who has the pack's key already.
pub(crate) fn frame_open_with(
    keys: &Keys,
    key: Option<&ObjectKey>,
    kind: FrameKind,
    digest: Digest,
    frame: &[u8],
) -> Result<Vec<u8>> {
    let plain = frame_decode(key, frame)?;
    digest_check(keys, kind, digest, &plain)?;
    Ok(plain)
}

/// The same of a chunk into a place, which it has to fill; `key` is the pack's. After an error anything may be there.
pub(crate) fn chunk_open_to(
    keys: &Keys,
    key: Option<&ObjectKey>,
    digest: Digest,
    frame: &[u8],
    to: &mut [u8],
) -> Result<()> {
    let header = header_of(frame)?;
    if header.plain_bytes as usize != to.len() {
        return Err(Error::new(Kind::Damaged, "a chunk has the wrong size"));
    }
    OPENED.with_borrow_mut(|opened| {
        let payload = payload_open(key, frame, opened)?;
        match header.codec {
            CODEC_RAW if payload.len() == to.len() => to.copy_from_slice(payload),
            CODEC_ZSTD if decompress(payload, to)? == to.len() => {}
            CODEC_RAW | CODEC_ZSTD => return Err(header_damaged("has the wrong length when decoded")),
            codec => return Err(codec_unknown(codec)),
        }
        digest_check(keys, FrameKind::Data, digest, to)
    })
}

/// Decodes a frame and compares the digest, and keeps nothing.
fn frame_check(keys: &Keys, key: Option<&ObjectKey>, entry: &Entry, frame: &[u8]) -> Result<()> {
    DECODED.with_borrow_mut(|plain| {
        plain.clear();
        frame_decode_to(key, frame, plain)?;
        digest_check(keys, entry.kind, entry.digest, plain)
    })
}

fn digest_check(keys: &Keys, kind: FrameKind, digest: Digest, plain: &[u8]) -> Result<()> {
    if keys.digest(kind, plain) == digest {
        return Ok(());
    }
    // The same words for all frames with this fault, so that they can be told of together.
    let error = Error::new(Kind::Damaged, "frame does not match its digest");
    Err(error.with_source(format!("its digest should be {digest}")))
}

/// The bytes of a frame in its pack: its header at least.
fn frame_of<'a>(entry: &Entry, pack: &'a [u8]) -> Result<&'a [u8]> {
    let from = entry.offset as usize;
    pack.get(from..from + entry.length as usize)
        .filter(|frame| frame.len() >= FRAME_HEADER_BYTES)
        .ok_or_else(|| Error::new(Kind::Damaged, "a pack is shorter than its frames"))
}

/// What a pack of a dedup domain begins with.
fn header(id: Uuid, store_id: Uuid, domain: i64) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(HEADER_MAGIC);
    header.extend_from_slice(&FORMAT.to_le_bytes());
    header.extend_from_slice(&64_u32.to_le_bytes());
    header.extend_from_slice(id.as_bytes());
    header.extend_from_slice(store_id.as_bytes());
    header.extend_from_slice(&domain.to_le_bytes());
    header.resize(HEADER_BYTES, 0);
    header
}

/// A pack being filled. In an encrypted store its frames are in clear until it is sealed, each with room for its tag.
pub(crate) struct Builder {
    pub(crate) id: Uuid,
    tag_bytes: usize,
    bytes: PackBytes,
    entries: Vec<Entry>,
}

impl Builder {
    /// Begins a pack of a dedup domain in `bytes`, which are empty.
    pub(crate) fn new(
        keys: &Keys,
        id: Uuid,
        store_id: Uuid,
        domain: i64,
        mut bytes: PackBytes,
    ) -> Result<Self> {
        bytes.append(&header(id, store_id, domain))?;
        Ok(Self {
            id,
            tag_bytes: keys.store_key().map_or(0, |_| TAG_BYTES),
            bytes,
            entries: Vec::new(),
        })
    }

    /// Bytes that the pack would have if it were sealed now.
    pub(crate) fn sealed_bytes(&self) -> usize {
        self.bytes.len() + self.entries.len() * ENTRY_BYTES + TRAILER_BYTES
    }

    /// Whether it is to be sealed.
    pub(crate) fn is_full(&self) -> bool {
        self.sealed_bytes() >= TARGET_BYTES || self.entries.len() >= TARGET_FRAMES
    }

    /// Adds a frame; `bytes` begins with its payload.
    pub(crate) fn push(&mut self, frame: &Encoded, bytes: &[u8]) -> Result<()> {
        let entry = Entry {
            digest: frame.digest,
            offset: 0,
            length: 0,
            plain_bytes: frame.plain_bytes,
            kind: frame.kind,
            level: frame.level,
        };
        self.place(entry, frame.codec, &bytes[..frame.payload_bytes])
    }

    /// Adds all frames of another pack that is being filled.
    pub(crate) fn append(&mut self, other: &Self) -> Result<()> {
        let tag_bytes = other.tag_bytes;
        other.entries.iter().try_for_each(|entry| {
            let frame = frame_of(entry, &other.bytes)?;
            let payload = &frame[FRAME_HEADER_BYTES..frame.len() - tag_bytes];
            self.place(*entry, frame[0], payload)
        })
    }

    /// Adds a frame of a sealed pack, whose key `key` is where the store is encrypted: it is opened with it, and sealed
    /// with this pack's.
    pub(crate) fn copy(&mut self, key: Option<&ObjectKey>, entry: Entry, pack: &[u8]) -> Result<()> {
        let frame = frame_of(&entry, pack)?;
        OPENED.with_borrow_mut(|opened| {
            let payload = payload_open(key, frame, opened)?;
            self.place(entry, frame[0], payload)
        })
    }

    fn place(&mut self, entry: Entry, codec: u8, payload: &[u8]) -> Result<()> {
        let too_long = |_| Error::new(Kind::Invalid, "the pack is full");
        let offset = u32::try_from(self.bytes.len()).map_err(too_long)?;
        let length = u32::try_from(payload.len() + self.tag_bytes).map_err(too_long)?;
        let index = u32::try_from(self.entries.len()).map_err(too_long)?;
        let mut header = [0; FRAME_HEADER_BYTES];
        header[..4].copy_from_slice(&[codec, self.cipher(), entry.kind as u8, entry.level]);
        header[4..8].copy_from_slice(&index.to_le_bytes());
        header[8..12].copy_from_slice(&length.to_le_bytes());
        header[12..].copy_from_slice(&entry.plain_bytes.to_le_bytes());
        self.bytes.append(&header)?;
        self.bytes.append(payload)?;
        self.bytes.append(&[0; TAG_BYTES][..self.tag_bytes])?;
        self.entries.push(Entry {
            offset,
            length: length + 16,
            ..entry
        });
        Ok(())
    }

    fn cipher(&self) -> u8 {
        if self.tag_bytes == 0 {
            CIPHER_NONE
        } else {
            CIPHER_AES
        }
    }

    /// Encrypts every frame where it is, on all cores.
    fn frames_seal(&mut self, key: &ObjectKey) -> Result<()> {
        use rayon::prelude::*;

        let (mut rest, mut frames) = (&mut self.bytes.bytes_mut()[HEADER_BYTES..], Vec::new());
        for entry in &self.entries {
            let (frame, after) = rest.split_at_mut(entry.length as usize);
            frames.push(frame);
            rest = after;
        }
        frames.into_par_iter().try_for_each(|frame| {
            let (header, payload) = frame.split_at_mut(FRAME_HEADER_BYTES);
            let (payload, tag) = payload.split_at_mut(payload.len() - TAG_BYTES);
            tag.copy_from_slice(&key.frame_seal(header, u32_at(header, 4), payload)?);
            Ok(())
        })
    }

    /// Encrypts the frames where the store is encrypted, and writes footer and trailer.
    pub(crate) fn seal(mut self, keys: &Keys) -> Result<Sealed> {
        if let Some(key) = keys.pack_key(self.id)? {
            self.frames_seal(&key)?;
        }
        let start = self.bytes.len();
        let mut footer = Vec::with_capacity(self.entries.len() * ENTRY_BYTES + TRAILER_BYTES);
        for entry in &self.entries {
            let codec = self.bytes[entry.offset as usize];
            footer.extend_from_slice(&entry.digest.0);
            footer.extend_from_slice(&entry.offset.to_le_bytes());
            footer.extend_from_slice(&entry.length.to_le_bytes());
            footer.extend_from_slice(&entry.plain_bytes.to_le_bytes());
            footer.extend_from_slice(&[entry.kind as u8, entry.level, codec, self.cipher()]);
        }
        let too_long = |_| Error::new(Kind::Invalid, "the pack is full");
        let footer_offset = u32::try_from(start).map_err(too_long)?;
        let count = u32::try_from(self.entries.len()).map_err(too_long)?;
        let mut fields = [0_u8; 24];
        fields[0..4].copy_from_slice(&footer_offset.to_le_bytes());
        fields[4..8].copy_from_slice(&count.to_le_bytes());
        fields[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        let mac = keys.footer_mac(&[&self.bytes[..HEADER_BYTES], &footer, &fields]);
        footer.extend_from_slice(&fields);
        footer.extend_from_slice(&mac);
        footer.extend_from_slice(TRAILER_MAGIC);
        self.bytes.append(&footer)?;
        Ok(Sealed {
            id: self.id,
            bytes: Bytes::from_owner(self.bytes),
            entries: self.entries,
        })
    }
}

/// A finished pack.
pub(crate) struct Sealed {
    pub(crate) id: Uuid,
    pub(crate) bytes: Bytes,
    pub(crate) entries: Vec<Entry>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests;
