//! Encryption at rest (docs/store-format.md §10): keys derived from the store's one key, and what is sealed with
//! them: frames of packs, longer objects in segments, and small texts. Pure bytes in, bytes out.
//!
//! AES-256-GCM by AWS-LC, which TLS uses as well; for working files outside the store AES-256-CTR. No key seals two
//! things with the same nonce: every object has a key of its own (HKDF-SHA-256 of the store's key and the object's id,
//! and no object is ever written twice), and in it frames and segments are counted. A small text has a key of its own
//! too, drawn with 16 random bytes that stand before it.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};

use crate::error::{Error, Kind, Result};

/// Bytes that sealing adds to a frame or a segment.
pub const TAG_BYTES: usize = 16;
/// Plain bytes of a segment; the last one of an object may have fewer.
pub const SEGMENT_BYTES: usize = 64 * 1024;
/// Bytes of a segment with its tag.
pub const SEALED_SEGMENT_BYTES: usize = SEGMENT_BYTES + TAG_BYTES;
/// Random bytes before a sealed text.
const SALT_BYTES: usize = 16;
/// Bytes that sealing adds to a text.
pub const TEXT_BYTES: usize = SALT_BYTES + TAG_BYTES;

/// What a key is for; no two purposes share one. The text goes into the derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The frames of a pack.
    Pack,
    /// A whole object.
    Object,
    /// A part of the catalogue journal.
    Journal,
    /// What the store header holds.
    Header,
    /// Working files outside the store.
    Spool,
}

impl Purpose {
    fn text(self) -> &'static [u8] {
        match self {
            Self::Pack => b"cistern store seal pack",
            Self::Object => b"cistern store seal object",
            Self::Journal => b"cistern store seal journal",
            Self::Header => b"cistern store seal header",
            Self::Spool => b"cistern store seal spool",
        }
    }
}

/// The key of an encrypted store, from which all others come. Never printed.
#[derive(Clone)]
pub struct StoreKey {
    bytes: [u8; 32],
    prk: Prk,
}

impl StoreKey {
    /// From 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        let prk = Salt::new(HKDF_SHA256, &[]).extract(&bytes);
        Self { bytes, prk }
    }

    /// The key itself, to be wrapped.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// 32 bytes for one purpose and one id.
    pub fn derive(&self, purpose: Purpose, id: &[u8]) -> Result<[u8; 32]> {
        expand(&self.prk, &[purpose.text(), id])
    }

    /// The key of the object `id`, ready for use: making it costs about as much as sealing a few KiB.
    pub fn object(&self, purpose: Purpose, id: [u8; 16]) -> Result<ObjectKey> {
        let key = self.derive(purpose, &id)?;
        Ok(ObjectKey { key: aes(&key)?, id })
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey")
    }
}

/// The key of one object. What is sealed by it is bound to the object's id.
pub struct ObjectKey {
    key: LessSafeKey,
    id: [u8; 16],
}

impl ObjectKey {
    /// Seals the payload of a frame in place; gives the tag that belongs behind it. `header` is the frame's own, and
    /// `number` its place in the pack: to be used once.
    pub(crate) fn frame_seal(
        &self,
        header: &[u8],
        number: u32,
        payload: &mut [u8],
    ) -> Result<[u8; TAG_BYTES]> {
        let nonce = nonce(u64::from(number), 0);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, self.aad(header), payload);
        let tag = tag.map_err(|_| unsealed())?;
        tag.as_ref().try_into().map_err(|_| unsealed())
    }

    /// Opens the payload of a frame, with its tag, into a vector, whose content it replaces.
    pub(crate) fn frame_open(
        &self,
        header: &[u8],
        number: u32,
        payload: &[u8],
        to: &mut Vec<u8>,
    ) -> Result<()> {
        self.open(nonce(u64::from(number), 0), header, payload, to)
    }

    /// Seals segment `number` of an object, [`SEGMENT_BYTES`] long but for the last, behind what is in `to`.
    pub fn segment_seal(&self, number: u64, is_last: bool, plain: &[u8], to: &mut Vec<u8>) -> Result<()> {
        let start = to.len();
        to.extend_from_slice(plain);
        let nonce = nonce(number, 1 + u8::from(is_last));
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, self.aad(&[]), &mut to[start..]);
        to.extend_from_slice(tag.map_err(|_| unsealed())?.as_ref());
        Ok(())
    }

    /// Opens segment `number`, with its tag, into a vector, whose content it replaces. A segment of another number or
    /// object, and a last one that is not (or the other way round), fails with [`Kind::Damaged`].
    pub fn segment_open(&self, number: u64, is_last: bool, sealed: &[u8], to: &mut Vec<u8>) -> Result<()> {
        self.open(nonce(number, 1 + u8::from(is_last)), &[], sealed, to)
    }

    /// Seals an object that is in memory. The empty one has one empty segment.
    pub fn segments_seal(&self, plain: &[u8]) -> Result<Vec<u8>> {
        self.part_seal(0, true, plain)
    }

    /// Seals segments of an object from number `first` on. All but those of the last part, which is not empty unless
    /// the object is, are whole segments.
    pub fn part_seal(&self, first: u64, is_last: bool, plain: &[u8]) -> Result<Vec<u8>> {
        let count = plain.len().div_ceil(SEGMENT_BYTES).max(usize::from(is_last));
        let mut out = Vec::with_capacity(plain.len() + count * TAG_BYTES);
        for n in 0..count {
            let from = n * SEGMENT_BYTES;
            let part = &plain[from..plain.len().min(from + SEGMENT_BYTES)];
            self.segment_seal(first + n as u64, is_last && n + 1 == count, part, &mut out)?;
        }
        Ok(out)
    }

    /// Opens an object that is in memory.
    pub fn segments_open(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        let count = sealed.len().div_ceil(SEALED_SEGMENT_BYTES).max(1);
        self.part_open(0, count as u64, sealed)
    }

    /// Opens segments from number `first` on of an object that has `count` in all.
    pub fn part_open(&self, first: u64, count: u64, sealed: &[u8]) -> Result<Vec<u8>> {
        let parts = sealed.len().div_ceil(SEALED_SEGMENT_BYTES).max(1);
        let (mut out, mut part) = (Vec::with_capacity(sealed.len()), Vec::new());
        for n in 0..parts {
            let (from, number) = (n * SEALED_SEGMENT_BYTES, first + n as u64);
            let segment = &sealed[from..sealed.len().min(from + SEALED_SEGMENT_BYTES)];
            self.segment_open(number, number + 1 == count, segment, &mut part)?;
            out.append(&mut part);
        }
        Ok(out)
    }

    fn open(&self, nonce: Nonce, more: &[u8], sealed: &[u8], to: &mut Vec<u8>) -> Result<()> {
        let Some(length) = sealed.len().checked_sub(TAG_BYTES) else {
            return Err(Error::new(
                Kind::Damaged,
                "what is sealed is shorter than its code",
            ));
        };
        let (text, tag) = sealed.split_at(length);
        to.clear();
        to.resize(length, 0);
        let opened = self
            .key
            .open_separate_gather(nonce, self.aad(more), text, tag, to);
        opened.map_err(|_| {
            to.clear();
            Error::new(
                Kind::Damaged,
                "what is sealed was changed, belongs elsewhere, or has another key",
            )
        })
    }

    fn aad(&self, more: &[u8]) -> Aad<Vec<u8>> {
        Aad::from([&self.id, more].concat())
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectKey")
    }
}

/// Segments of an object of `plain` bytes.
pub fn segments_count(plain: u64) -> u64 {
    plain.div_ceil(SEGMENT_BYTES as u64).max(1)
}

/// Bytes that an object of `plain` bytes has when it is sealed in segments.
pub fn segments_sealed_bytes(plain: u64) -> u64 {
    plain + segments_count(plain) * TAG_BYTES as u64
}

/// The way back; `None` for a size that no sealed object has.
pub fn segments_plain_bytes(sealed: u64) -> Option<u64> {
    let count = sealed.div_ceil(SEALED_SEGMENT_BYTES as u64);
    let plain = sealed.checked_sub(count * TAG_BYTES as u64)?;
    (segments_sealed_bytes(plain) == sealed).then_some(plain)
}

/// A key stream (AES-256-CTR) for bytes that are read and written in any order, of a file that is nobody's record: it
/// keeps them from being read, and does not notice a change. No place may be given two different contents under one
/// key.
pub struct StreamKey(EncryptingKey);

impl StreamKey {
    /// With 32 bytes that are used for nothing else.
    pub fn new(key: &[u8; 32]) -> Result<Self> {
        let key = UnboundCipherKey::new(&AES_256, key).and_then(EncryptingKey::ctr);
        key.map(Self).map_err(|_| unsealed())
    }

    /// Encrypts what stands at `offset`, or decrypts it.
    pub fn apply(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let within = usize::try_from(offset % 16).unwrap_or_default();
        let head = bytes.len().min((16 - within) % 16);
        let (head, rest) = bytes.split_at_mut(head);
        if !head.is_empty() {
            let mut block = [0; 16];
            self.blocks(offset / 16, &mut block)?;
            for (byte, key) in head.iter_mut().zip(&block[within..]) {
                *byte ^= key;
            }
        }
        self.blocks(offset.div_ceil(16), rest)
    }

    /// The same from a whole block on.
    fn blocks(&self, number: u64, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let first = u128::from(number).to_be_bytes();
        let context = EncryptionContext::Iv128(first.into());
        self.0
            .less_safe_encrypt(bytes, context)
            .map(drop)
            .map_err(|_| unsealed())
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamKey")
    }
}

/// Seals a small text with `key`; what it is sealed for (`context`) is asked for when it is opened. `salt` is 16
/// fresh random bytes. Adds [`TEXT_BYTES`].
pub fn text_seal(key: &[u8; 32], salt: [u8; 16], context: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
    let mut text = plain.to_vec();
    let tag = text_key(key, &salt)?
        .seal_in_place_separate_tag(nonce(0, 0), Aad::from(context), &mut text)
        .map_err(|_| unsealed())?;
    Ok([&salt[..], &text, tag.as_ref()].concat())
}

/// Opens what [`text_seal`] made of the same key and context; `None` for anything else.
pub fn text_open(key: &[u8; 32], context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (salt, rest) = sealed.split_at_checked(SALT_BYTES)?;
    let mut text = rest.to_vec();
    let key = text_key(key, salt).ok()?;
    let length = key
        .open_in_place(nonce(0, 0), Aad::from(context), &mut text)
        .ok()?
        .len();
    text.truncate(length);
    Some(text)
}

fn text_key(key: &[u8; 32], salt: &[u8]) -> Result<LessSafeKey> {
    aes(&key_derive(key, salt, b"cistern sealed text")?)
}

/// 32 bytes from key material, a salt and what they are for: HKDF-SHA-256.
pub fn key_derive(material: &[u8], salt: &[u8], info: &[u8]) -> Result<[u8; 32]> {
    expand(&Salt::new(HKDF_SHA256, salt).extract(material), &[info])
}

fn expand(prk: &Prk, info: &[&[u8]]) -> Result<[u8; 32]> {
    let mut out = [0; 32];
    prk.expand(info, HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out))
        .map_err(|_| unsealed())?;
    Ok(out)
}

fn aes(key: &[u8; 32]) -> Result<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| unsealed())?;
    Ok(LessSafeKey::new(key))
}

/// 96 bits: a number, little-endian in 8 bytes, and what is counted (0 frames, 1 segments, 2 the last segment).
fn nonce(number: u64, what: u8) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8] = what;
    Nonce::assume_unique_for_key(bytes)
}

/// AWS-LC says no more than that it did not work; with keys of the right length, only a lack of memory is left.
fn unsealed() -> Error {
    Error::new(Kind::Io, "cannot encrypt")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8, id: u8) -> ObjectKey {
        StoreKey::new([seed; 32])
            .object(Purpose::Object, [id; 16])
            .unwrap()
    }

    #[test]
    fn objects_of_every_length_come_back() {
        let all: Vec<u8> = (0..200_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for length in [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000] {
            let sealed = key(1, 1).segments_seal(&all[..length]).unwrap();
            assert_eq!(sealed.len() as u64, segments_sealed_bytes(length as u64));
            assert_eq!(segments_plain_bytes(sealed.len() as u64), Some(length as u64));
            assert_eq!(key(1, 1).segments_open(&sealed).unwrap(), &all[..length]);
        }
    }

    #[test]
    fn no_sealed_object_has_a_size_between() {
        let (tag, whole) = (TAG_BYTES as u64, SEALED_SEGMENT_BYTES as u64);
        for bytes in [0, tag - 1, whole + 1, whole + tag, 2 * whole + tag] {
            assert_eq!(segments_plain_bytes(bytes), None, "{bytes}");
        }
        assert_eq!(
            segments_plain_bytes(whole + tag + 1),
            Some(SEGMENT_BYTES as u64 + 1)
        );
    }

    #[test]
    fn an_object_is_sealed_and_opened_in_parts() {
        let plain: Vec<u8> = (0..200_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let (one, two) = plain.split_at(2 * SEGMENT_BYTES);
        let key = key(1, 1);
        let parts = [
            key.part_seal(0, false, one).unwrap(),
            key.part_seal(2, false, &[]).unwrap(),
            key.part_seal(2, true, two).unwrap(),
        ];
        let sealed = parts.concat();
        assert_eq!(sealed, key.segments_seal(&plain).unwrap());
        let end = &sealed[2 * SEALED_SEGMENT_BYTES..];
        let count = segments_count(plain.len() as u64);
        assert_eq!(key.part_open(2, count, end).unwrap(), two);
        assert_eq!(
            key.part_open(2, count + 1, end).unwrap_err().kind(),
            Kind::Damaged
        );
        assert_eq!(
            key.part_open(1, count - 1, end).unwrap_err().kind(),
            Kind::Damaged
        );
    }

    #[test]
    fn any_flipped_bit_cut_swap_and_other_key_is_noticed() {
        let plain = vec![7; 3 * SEGMENT_BYTES];
        let sealed = key(1, 1).segments_seal(&plain).unwrap();
        let fails = |key: &ObjectKey, bytes: &[u8]| {
            assert_eq!(key.segments_open(bytes).unwrap_err().kind(), Kind::Damaged);
        };
        for at in (0..sealed.len())
            .step_by(1009)
            .chain(sealed.len() - 20..sealed.len())
        {
            let mut bad = sealed.clone();
            bad[at] ^= 0x20;
            fails(&key(1, 1), &bad);
        }
        let size = SEGMENT_BYTES + TAG_BYTES;
        // Also where a segment ends: the one before it was not sealed as the last.
        for cut in [0, 15, size - 1, size, 2 * size, sealed.len() - 1] {
            fails(&key(1, 1), &sealed[..cut]);
        }
        let swapped = [&sealed[size..2 * size], &sealed[..size], &sealed[2 * size..]].concat();
        fails(&key(1, 1), &swapped);
        fails(&key(2, 1), &sealed);
        fails(&key(1, 2), &sealed);
        let pack = StoreKey::new([1; 32]).object(Purpose::Pack, [1; 16]).unwrap();
        fails(&pack, &sealed);
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let key = StreamKey::new(&[4; 32]).unwrap();
        let plain: Vec<u8> = (0..5000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut whole = plain.clone();
        key.apply(0, &mut whole).unwrap();
        assert_ne!(whole[..64], plain[..64]);
        for cut in [1, 3, 15, 16, 17, 31, 32, 1000] {
            let mut parts = plain.clone();
            for (n, part) in parts.chunks_mut(cut).enumerate() {
                key.apply((n * cut) as u64, part).unwrap();
            }
            assert_eq!(parts, whole, "in pieces of {cut}");
        }
        // Far away the counter has more than 32 bits.
        let far = (1_u64 << 36) - 8;
        let mut one = [0; 32];
        key.apply(far, &mut one).unwrap();
        let mut two = [0; 24];
        key.apply(far + 8, &mut two).unwrap();
        assert_eq!(one[8..], two);
    }

    #[test]
    fn texts_open_with_their_key_for_their_purpose_only() {
        let sealed = text_seal(&[1; 32], [2; 16], b"image.source_url.7", b"https://a:b@c").unwrap();
        assert_eq!(sealed.len(), 13 + TEXT_BYTES);
        assert!(!sealed.windows(5).any(|part| part == b"https"));
        let open = |key: u8, context: &[u8], sealed: &[u8]| text_open(&[key; 32], context, sealed);
        assert_eq!(open(1, b"image.source_url.7", &sealed).unwrap(), b"https://a:b@c");
        assert!(open(2, b"image.source_url.7", &sealed).is_none());
        assert!(open(1, b"image.source_url.8", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(open(1, b"image.source_url.7", &bad).is_none(), "byte {at}");
            assert!(
                open(1, b"image.source_url.7", &sealed[..at]).is_none(),
                "cut at {at}"
            );
        }
        let again = text_seal(&[1; 32], [3; 16], b"image.source_url.7", b"https://a:b@c").unwrap();
        assert_ne!(sealed[16..], again[16..], "two of the same text cannot be told");
    }
}
