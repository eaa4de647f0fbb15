//! Looks at what is in no index, and without which the store alone is not enough: its headers, and the journal objects
//! that a recovery would need.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _};

use crate::backend::Listed;
use crate::error::{Kind, Result};
use crate::header::Header;
use crate::journal::{Journal, JournalHead, JournalListed, JournalPart, JournalPlace, place_of};
use crate::store::Store;
use crate::verify::{Damage, tolerated};

/// Journal objects that are read at once.
const AT_ONCE: usize = 8;
/// How often it is looked where generations begin and go meanwhile.
const LOOKS: usize = 3;

/// What is wrong with one generation of the journal.
#[derive(Default)]
struct Looked {
    /// The objects read so far, with their codes where these were.
    codes: HashMap<u64, Option<[u8; 32]>>,
    /// Those that are missing or damaged.
    faults: BTreeMap<JournalPlace, String>,
    /// Whether the last part of its dump was seen.
    has_end: bool,
}

impl Store {
    /// Verifies headers and journal: with `read_data` every byte of what a recovery would need, without whether it is
    /// there.
    pub async fn alone_verify(&self, read_data: bool) -> Result<Vec<Damage>> {
        let mut damage = self.headers_verify().await?;
        damage.extend(self.journal_verify(read_data).await?);
        Ok(damage)
    }

    /// Verifies the headers. They are small: all of each is read.
    pub async fn headers_verify(&self) -> Result<Vec<Damage>> {
        let mut looked = self.headers_look().await;
        if looked.as_ref().is_ok_and(|headers| !headers.stale.is_empty()) {
            // A change of keys may be about to delete them.
            looked = self.headers_look().await;
        }
        let headers = match looked {
            Err(error) if error.kind() == Kind::StoreAway => {
                return Ok(vec![told("h/".into(), 0, error.to_string())]);
            }
            headers => headers?,
        };
        let mut damage = Vec::new();
        if let Some(number) = headers.alone() {
            let key = Header::key(number);
            let reason = format!("there is only one copy of the store's header left, `{key}`");
            damage.push(told(key, 0, reason));
        }
        damage.extend(headers.stale.into_iter().map(|number| {
            let key = Header::key(number);
            let reason =
                format!("header `{key}` is an older one: a key that was removed may open the store by it");
            told(key, 0, reason)
        }));
        damage.extend(headers.damaged.into_iter().map(|(number, error)| {
            let key = Header::key(number);
            let reason = format!("header `{key}` cannot be read ({error})");
            told(key, 0, reason)
        }));
        Ok(damage)
    }

    async fn journal_verify(&self, read_data: bool) -> Result<Vec<Damage>> {
        let journal = self.journal();
        let newest = |listed: &[JournalListed]| listed.last().map(|item| item.place.generation);
        let mut listed = journal.list().await?;
        for _ in 1..LOOKS {
            let found = generations_verify(&journal, &listed, read_data).await?;
            if found.is_empty() {
                return Ok(found);
            }
            // A dump that ended meanwhile has taken older objects away.
            let now = journal.list().await?;
            if newest(&now) == newest(&listed) {
                return Ok(found);
            }
            listed = now;
        }
        generations_verify(&journal, &listed, read_data).await
    }
}

/// Newest generation first, until one is whole: a recovery begins from that.
async fn generations_verify(
    journal: &Journal,
    listed: &[JournalListed],
    read_data: bool,
) -> Result<Vec<Damage>> {
    let sizes: HashMap<_, _> = listed.iter().map(|item| (item.place, item.bytes)).collect();
    let mut damage = Vec::new();
    for items in listed
        .chunk_by(|a, b| a.place.generation == b.place.generation)
        .rev()
    {
        let looked = generation_verify(journal, items, read_data).await?;
        let is_whole = looked.is_whole();
        damage.extend(looked.faults.into_iter().map(|(place, reason)| {
            let bytes = sizes.get(&place).copied().unwrap_or_default();
            told(place.key(), bytes, reason)
        }));
        if is_whole {
            break;
        }
    }
    Ok(damage)
}

/// What is missing of these objects of the journal down to the newest generation that is whole: keys and reasons. Of
/// each its head alone is read.
pub(crate) async fn journal_missing(journal: &Journal, listed: &[Listed]) -> Result<Vec<(String, String)>> {
    let damage = generations_verify(journal, &journal_items(listed), false).await?;
    let there: HashSet<&String> = listed.iter().map(|item| &item.key).collect();
    let missing = damage.into_iter().filter(|damage| !there.contains(&damage.owner));
    Ok(missing.map(|damage| (damage.owner, damage.reason)).collect())
}

/// The newest generation that is whole among these objects of the journal: a recovery begins from that, and reads none
/// before it.
pub(crate) async fn generation_whole(journal: &Journal, listed: &[Listed]) -> Result<Option<u32>> {
    for items in journal_items(listed)
        .chunk_by(|a, b| a.place.generation == b.place.generation)
        .rev()
    {
        if generation_verify(journal, items, true).await?.is_whole() {
            return Ok(items.first().map(|item| item.place.generation));
        }
    }
    Ok(None)
}

/// Those of the journal, in its order.
fn journal_items(listed: &[Listed]) -> Vec<JournalListed> {
    let of = |item: &Listed| {
        let place = place_of(&item.key)?;
        let bytes = item.bytes;
        Some(JournalListed { place, bytes })
    };
    let mut items: Vec<JournalListed> = listed.iter().filter_map(of).collect();
    items.sort_unstable_by_key(|item| item.place);
    items
}

async fn generation_verify(journal: &Journal, items: &[JournalListed], read_data: bool) -> Result<Looked> {
    let mut looked = Looked::default();
    let mut objects = futures::stream::iter(items.to_vec())
        .map(|item| async move { Ok((item.place, tolerated(journal.look(item.place, read_data).await)?)) })
        .buffered(AT_ONCE);
    while let Some((place, read)) = objects.try_next().await? {
        match read {
            Ok((head, code)) => looked.add(journal, &head, code).await?,
            Err(error) => {
                let reason = format!("journal object `{}` cannot be read ({error})", place.key());
                looked.faults.insert(place, reason);
            }
        }
    }
    Ok(looked)
}

impl Looked {
    fn is_whole(&self) -> bool {
        self.has_end && self.faults.is_empty()
    }

    /// The next object, which can be read: what it follows on has to be there too.
    async fn add(&mut self, journal: &Journal, head: &JournalHead, code: Option<[u8; 32]>) -> Result<()> {
        self.has_end |= head.part == JournalPart::DumpEnd;
        self.codes.insert(head.place.sequence, code);
        let key = head.place.key();
        let Some(link) = head.previous else {
            if head.place.sequence > 0 {
                let reason = format!("journal object `{key}` follows on nothing");
                self.faults.insert(head.place, reason);
            }
            return Ok(());
        };
        let before = JournalPlace {
            sequence: link.sequence,
            ..head.place
        };
        match self.codes.get(&link.sequence) {
            Some(Some(code)) if *code != link.code => {
                let reason = format!(
                    "journal object `{key}` follows on another than `{}`",
                    before.key()
                );
                self.faults.insert(head.place, reason);
            }
            Some(_) => {}
            None if self.faults.contains_key(&before) || journal.has(before).await? => {}
            None => {
                let reason = format!(
                    "journal object `{}` is missing; `{key}` follows on it",
                    before.key()
                );
                self.faults.insert(before, reason);
            }
        }
        Ok(())
    }
}

fn told(key: String, bytes: u64, reason: String) -> Damage {
    Damage {
        kind: "store".into(),
        owner: key,
        range: 0..bytes,
        reason,
    }
}
