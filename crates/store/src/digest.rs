//! Digests and the keys that they are made with (docs/store-format.md §2).
//!
//! One installation key; the others are derived from it, so that no bytes a user writes to a disk can pass for
//! a tree node, a footer or a part of the journal.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::Result;
use crate::seal::{ObjectKey, Purpose, StoreKey};

/// A keyed BLAKE3 digest of a chunk or of a tree node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of the empty tree: a disk of zeros only has no node at all.
    pub const EMPTY: Digest = Digest([0; 32]);

    /// From the 32 bytes of a database column.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..6]))
    }
}

/// What a frame holds. The code is the byte in the frame header, the footer and the chunk row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// 64 KiB of a disk.
    Data = 1,
    /// A node of a disk's tree.
    Node = 2,
    /// The name of a whole object. Never a frame.
    Whole = 3,
}

impl FrameKind {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Data),
            2 => Some(Self::Node),
            _ => None,
        }
    }
}

/// The keys derived from the installation key, and the store's own key where it is encrypted. Never printed.
#[derive(Clone)]
pub(crate) struct Keys {
    data: [u8; 32],
    node: [u8; 32],
    whole: [u8; 32],
    footer: [u8; 32],
    journal: [u8; 32],
    id: [u8; 8],
    seal: Option<Arc<StoreKey>>,
}

impl Keys {
    pub(crate) fn new(digest_key: &[u8; 32]) -> Self {
        let id = blake3::derive_key("cistern store key id", digest_key);
        Self {
            data: blake3::derive_key("cistern store data chunk", digest_key),
            node: blake3::derive_key("cistern store tree node", digest_key),
            whole: blake3::derive_key("cistern store object name", digest_key),
            footer: blake3::derive_key("cistern store pack footer", digest_key),
            journal: blake3::derive_key("cistern store journal", digest_key),
            id: id[..8].try_into().unwrap_or_default(),
            seal: None,
        }
    }

    /// The same of a store that is encrypted with `key`.
    pub(crate) fn sealing(self, key: StoreKey) -> Self {
        let seal = Some(Arc::new(key));
        Self { seal, ..self }
    }

    /// The store's key, where it is encrypted.
    pub(crate) fn store_key(&self) -> Option<&StoreKey> {
        self.seal.as_deref()
    }

    /// What the frames of a pack are sealed with; `None` where the store is not encrypted. To be made once for all
    /// frames that are wanted of a pack.
    pub(crate) fn pack_key(&self, pack: Uuid) -> Result<Option<ObjectKey>> {
        let key = self.store_key();
        key.map(|key| key.object(Purpose::Pack, pack.into_bytes()))
            .transpose()
    }

    /// What a whole object is sealed with; `None` where the store is not encrypted.
    pub(crate) fn whole_key(&self, id: Uuid) -> Result<Option<ObjectKey>> {
        let key = self.store_key();
        key.map(|key| key.object(Purpose::Object, id.into_bytes()))
            .transpose()
    }

    pub(crate) fn digest(&self, kind: FrameKind, plain: &[u8]) -> Digest {
        let key = match kind {
            FrameKind::Data => &self.data,
            FrameKind::Node => &self.node,
            FrameKind::Whole => &self.whole,
        };
        Digest(*blake3::keyed_hash(key, plain).as_bytes())
    }

    /// The authentication code of a footer, given the parts that it covers in their order.
    pub(crate) fn footer_mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.footer);
        for part in parts {
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }

    /// The authentication code of a journal object, over everything before it.
    pub(crate) fn journal_mac(&self, covered: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.journal, covered).as_bytes()
    }

    /// Names the key without telling it: 16 hex digits.
    pub(crate) fn id(&self) -> String {
        hex::encode(self.id)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.id())
    }
}
