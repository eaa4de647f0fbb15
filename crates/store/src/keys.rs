//! What opens an encrypted store: wrapping keys, each of which holds the store's key sealed in the header
//! (docs/store-format.md §3).
//!
//! A wrapping key is any secret of at least 32 bytes: the content of a key file, what a command prints, or the
//! printed recovery key. All are treated alike, and the header says which kind each is for people only.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::seal::{self, StoreKey};
use crate::world::World;

/// Key material has at least so many bytes: fewer could be guessed.
pub const MATERIAL_BYTES: usize = 32;
/// And at most so many: more is no key, but something else by mistake.
pub const MATERIAL_LIMIT: usize = 64 << 10;
const WRAPPING: &[u8] = b"cistern store wrapping key";
const RECOVERY_BYTES: usize = 20;
const GROUP: usize = 4;
/// Without letters that are read as digits or as each other: Crockford's.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Where a wrapping key is kept. For people: all kinds open alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyKind {
    /// In a file.
    KeyFile,
    /// A command prints it.
    KeyCommand,
    /// On paper.
    Recovery,
}

impl KeyKind {
    /// As the header writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::KeyFile => "key-file",
            Self::KeyCommand => "key-command",
            Self::Recovery => "recovery",
        }
    }
}

/// A secret that opens a store. Never printed.
#[derive(Clone)]
pub struct WrappingKey {
    kind: KeyKind,
    material: Vec<u8>,
}

impl WrappingKey {
    /// From a file's or a command's bytes; line ends at their end do not count, so that a file and a command that
    /// prints it are the same key. Fails with [`Kind::Invalid`] where there are fewer than [`MATERIAL_BYTES`] or more
    /// than [`MATERIAL_LIMIT`].
    pub fn new(kind: KeyKind, bytes: &[u8]) -> Result<Self> {
        let end = bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'));
        let material = &bytes[..end.map_or(0, |at| at + 1)];
        let is_short = bytes.len() < MATERIAL_BYTES || material.len() + 2 < MATERIAL_BYTES;
        if is_short || bytes.len() > MATERIAL_LIMIT {
            let text = format!(
                "a key has {MATERIAL_BYTES} bytes at least and {MATERIAL_LIMIT} at most, this one has {}: make one \
                 with `head -c 32 /dev/urandom | base64`",
                bytes.len()
            );
            return Err(Error::new(Kind::Invalid, text));
        }
        let material = material.to_vec();
        Ok(Self { kind, material })
    }

    /// Where it is kept.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    fn key(&self, store: Uuid) -> Result<[u8; 32]> {
        seal::key_derive(&self.material, store.as_bytes(), WRAPPING)
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappingKey({})", self.kind.name())
    }
}

/// A wrapping key as the header has it: the store's key sealed with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// Names it: 8 hex digits.
    pub id: String,
    /// Where the wrapping key is kept.
    pub kind: KeyKind,
    /// When it was added, microseconds since 1970 (UTC).
    pub created_us: i64,
    /// The store's key, sealed, in hex.
    pub wrapped: String,
}

impl WrappedKey {
    pub(crate) fn new(world: &World, store: Uuid, wrapping: &WrappingKey, key: &StoreKey) -> Result<Self> {
        let id = hex::encode(&world.secret()[..4]);
        let context = context(store, &id);
        let sealed = seal::text_seal(&wrapping.key(store)?, world.salt(), &context, key.bytes())?;
        Ok(Self {
            id,
            kind: wrapping.kind,
            created_us: world.now_us(),
            wrapped: hex::encode(sealed),
        })
    }

    /// The store's key, where `wrapping` is the one that it was sealed with.
    pub(crate) fn open(&self, store: Uuid, wrapping: &WrappingKey) -> Option<StoreKey> {
        let sealed = hex::decode(&self.wrapped).ok()?;
        let key = wrapping.key(store).ok()?;
        let plain = seal::text_open(&key, &context(store, &self.id), &sealed)?;
        plain.try_into().ok().map(StoreKey::new)
    }
}

fn context(store: Uuid, id: &str) -> Vec<u8> {
    [store.as_bytes(), id.as_bytes()].concat()
}

/// A wrapping key for paper: 160 random bits as eight groups of four letters and digits, and a ninth that tells
/// typing mistakes.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey([u8; RECOVERY_BYTES]);

impl RecoveryKey {
    /// A new one.
    pub fn draw(world: &World) -> Self {
        let mut bytes = [0; RECOVERY_BYTES];
        bytes.copy_from_slice(&world.secret()[..RECOVERY_BYTES]);
        Self(bytes)
    }

    /// As it is printed: 9 groups of 4 with dashes.
    pub fn text(&self) -> String {
        let symbols: Vec<u8> = symbols(&self.0).chain(check(&self.0)).collect();
        let groups: Vec<_> = symbols.chunks(GROUP).map(String::from_utf8_lossy).collect();
        groups.join("-")
    }

    /// From what somebody typed: case, dashes and spaces do not matter, and letters that look like a digit are it.
    /// Fails with [`Kind::Invalid`] and a sentence where it was not copied right.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |text: String| Error::new(Kind::Invalid, text);
        let mut values = Vec::new();
        for letter in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let value = value(letter);
            values.push(value.ok_or_else(|| {
                invalid(format!(
                    "a recovery key has letters and digits only, and no `{letter}`: look at it again"
                ))
            })?);
        }
        let wanted = (RECOVERY_BYTES * 8 / 5) + GROUP;
        if values.len() != wanted {
            return Err(invalid(format!(
                "a recovery key has 9 groups of 4 ({wanted} letters and digits), this one has {}: look whether all of \
                 it is there",
                values.len()
            )));
        }
        let (data, end) = values.split_at(wanted - GROUP);
        let mut bytes = [0; RECOVERY_BYTES];
        for (five, eight) in data.chunks(8).zip(bytes.chunks_mut(5)) {
            let bits = five
                .iter()
                .fold(0_u64, |bits, value| bits << 5 | u64::from(*value));
            eight.copy_from_slice(&bits.to_be_bytes()[3..]);
        }
        if !check(&bytes).eq(end.iter().map(|value| ALPHABET[usize::from(*value)])) {
            return Err(invalid(
                "the recovery key has a typing mistake: its last group does not fit the others".into(),
            ));
        }
        Ok(Self(bytes))
    }

    /// As a key that opens a store.
    pub fn wrapping(&self) -> WrappingKey {
        WrappingKey {
            kind: KeyKind::Recovery,
            material: self.0.to_vec(),
        }
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey")
    }
}

/// Five bits a symbol, from the first byte's highest bit on.
fn symbols(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.chunks(5).flat_map(|five| {
        let bits = five.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        (0..8)
            .rev()
            .map(move |at| ALPHABET[usize::try_from(bits >> (5 * at) & 31).unwrap_or_default()])
    })
}

/// The last group: the first 20 bits of a digest.
fn check(bytes: &[u8; RECOVERY_BYTES]) -> impl Iterator<Item = u8> {
    let sum = blake3::derive_key("cistern store recovery key check", bytes);
    let all: Vec<u8> = symbols(&sum[..5]).take(GROUP).collect();
    all.into_iter()
}

fn value(letter: char) -> Option<u8> {
    let letter = match letter.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let at = ALPHABET.iter().position(|symbol| char::from(*symbol) == letter)?;
    u8::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_keys_are_read_as_people_write_them_and_mistakes_are_told() {
        let key = RecoveryKey::draw(&World::system());
        let text = key.text();
        assert_eq!(text.len(), 9 * GROUP + 8);
        assert_eq!(RecoveryKey::parse(&text).unwrap(), key);
        let sloppy = text
            .to_lowercase()
            .replace('-', " ")
            .replace('0', "o")
            .replace('1', "l");
        assert_eq!(RecoveryKey::parse(&format!(" {sloppy}\n")).unwrap(), key);
        for at in text.match_indices(|c| c != '-').map(|(at, _)| at) {
            let other = if text.as_bytes()[at] == b'7' { "8" } else { "7" };
            let mistyped = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            let error = RecoveryKey::parse(&mistyped).unwrap_err();
            assert!(error.to_string().contains("typing mistake"), "{error}");
        }
        let swapped = format!("{}-{}{}", &text[5..9], &text[..4], &text[9..]);
        assert!(text[..4] == text[5..9] || RecoveryKey::parse(&swapped).is_err());
        let error = RecoveryKey::parse(&text[..40]).unwrap_err();
        assert!(error.to_string().contains("all of it"), "{error}");
        let error = RecoveryKey::parse(&text.replace('-', "U")).unwrap_err();
        assert!(error.to_string().contains("no `U`"), "{error}");
    }

    #[test]
    fn a_key_opens_what_it_wrapped_for_that_store_under_that_name() {
        let (world, store) = (World::system(), Uuid::from_u128(5));
        let one = WrappingKey::new(KeyKind::KeyFile, &[b'x'; 40]).unwrap();
        let key = StoreKey::new([9; 32]);
        let wrapped = WrappedKey::new(&world, store, &one, &key).unwrap();
        assert_eq!(wrapped.open(store, &one).unwrap().bytes(), key.bytes());
        let printed = WrappingKey::new(KeyKind::KeyCommand, &[&[b'x'; 40][..], b"\r\n"].concat()).unwrap();
        assert!(wrapped.open(store, &printed).is_some(), "line ends do not count");
        let other = WrappingKey::new(KeyKind::KeyFile, &[b'y'; 40]).unwrap();
        assert!(wrapped.open(store, &other).is_none());
        assert!(wrapped.open(Uuid::from_u128(6), &one).is_none());
        let renamed = WrappedKey {
            id: "00000000".into(),
            ..wrapped
        };
        assert!(renamed.open(store, &one).is_none());
        assert!(WrappingKey::new(KeyKind::KeyFile, &[1; 31]).is_err());
    }
}
