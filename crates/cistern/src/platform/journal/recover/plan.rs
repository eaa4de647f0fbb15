//! What there is to bring back: the generations of the journal, as far as they can be read.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use store::{Journal, JournalListed, JournalObject, JournalPart, JournalPlace, Kind};

use crate::platform::error::{Error, Result};
use crate::platform::journal::model::{Chain, Document, Gap, Overlay, Recovered};

/// Objects of the journal that are read at once.
const AT_ONCE: usize = 8;

/// One generation, as far as it can be read.
pub(super) struct Generation {
    pub(super) number: u32,
    pub(super) chain: Chain,
    /// What follows its dump.
    pub(super) overlay: Overlay,
    /// The parts of its dump that are whole.
    pub(super) parts: Vec<JournalListed>,
    pub(super) schema: Vec<String>,
    pub(super) damaged: Vec<String>,
}

/// What is brought back.
pub(super) struct Plan {
    pub(super) base: Generation,
    /// Newer generations that are not whole: what can be read of their dumps, and their changes.
    pub(super) newer: Vec<Generation>,
    pub(super) newest_us: i64,
    /// The newest object in the store.
    pub(super) last: JournalPlace,
}

impl Generation {
    /// Which migrations its rows had seen; those of `other` where none of its own is known.
    pub(super) fn schema_or(&self, other: &Self) -> Vec<String> {
        let own = Some(&self.schema).filter(|schema| !schema.is_empty());
        own.unwrap_or(&other.schema).clone()
    }
}

/// Reads the journal, newest generation first, until one is whole.
pub(super) async fn plan_make(journal: &Journal) -> Result<Plan> {
    let mut generations: BTreeMap<u32, Vec<JournalListed>> = BTreeMap::new();
    let listed = journal.list().await?;
    let last = listed.last().map(|item| item.place).unwrap_or_default();
    for item in listed {
        generations.entry(item.place.generation).or_default().push(item);
    }
    let (mut base, mut newer) = (None, Vec::new());
    for (number, items) in generations.into_iter().rev() {
        let generation = generation_read(journal, number, items).await?;
        if generation.chain.is_whole() {
            base = Some(generation);
            break;
        }
        // What was begun and cut off holds nothing that the one before does not lead to.
        if !generation.chain.is_unfinished() {
            newer.push(generation);
        }
    }
    // Better a part of the oldest dump than nothing.
    let base = base.or_else(|| newer.pop().filter(|oldest| !oldest.parts.is_empty()));
    let base = base.ok_or_else(|| {
        Error::Precondition(
            "the store has no journal that can be read, so there is nothing to make a database from; put the newest copy \
             of the database back"
                .into(),
        )
    })?;
    newer.reverse();
    let newest_us = newer.iter().chain([&base]).filter_map(|g| g.chain.last_us).max();
    Ok(Plan {
        base,
        newer,
        newest_us: newest_us.unwrap_or_default(),
        last,
    })
}

/// Reads a whole generation; keeps what follows the dump.
async fn generation_read(journal: &Journal, number: u32, items: Vec<JournalListed>) -> Result<Generation> {
    let mut generation = Generation {
        number,
        chain: Chain::default(),
        overlay: Overlay::default(),
        parts: Vec::new(),
        schema: Vec::new(),
        damaged: Vec::new(),
    };
    let mut objects = objects(journal, items);
    while let Some((item, read)) = objects.next().await {
        let read = read.and_then(|object| Ok((document(&object)?, object)));
        let (mut document, object) = match read {
            Ok(read) => read,
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound | Kind::Io) => {
                generation.chain.damaged();
                generation.damaged.push(error.to_string());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        generation.chain.read(&object.head, object.code);
        if object.head.part != JournalPart::Changes {
            generation.schema.clone_from(&document.schema);
            generation.parts.push(item);
            document.rows.clear();
        }
        generation.overlay.lay(document);
    }
    generation.chain.end();
    Ok(generation)
}

/// Reads objects ahead, and gives them in their order.
pub(super) fn objects(
    journal: &Journal,
    items: Vec<JournalListed>,
) -> futures::stream::BoxStream<'_, (JournalListed, store::Result<JournalObject>)> {
    futures::stream::iter(items)
        .map(move |item| async move { (item, journal.get(item.place).await) })
        .buffered(AT_ONCE)
        .boxed()
}

pub(super) fn document(object: &JournalObject) -> store::Result<Document> {
    serde_json::from_slice(&object.document).map_err(|error| {
        let text = "a journal object holds no document that this version knows";
        store::Error::new(Kind::Damaged, text).with_source(error)
    })
}

pub(super) fn report_new(plan: &Plan) -> Recovered {
    let mut report = Recovered {
        generation: plan.base.number,
        newest_us: plan.newest_us,
        ..Recovered::default()
    };
    if !plan.base.chain.is_whole() {
        report.gaps.push(Gap {
            after_us: None,
            before_us: plan.base.chain.first_us,
        });
    }
    let mut after_us = plan.base.chain.last_us;
    report.gaps.extend(&plan.base.chain.gaps);
    report.damaged.extend_from_slice(&plan.base.damaged);
    for generation in &plan.newer {
        report.gaps.push(Gap {
            after_us,
            before_us: generation.chain.first_us,
        });
        report.gaps.extend(&generation.chain.gaps);
        report.damaged.extend_from_slice(&generation.damaged);
        after_us = generation.chain.last_us.or(after_us);
    }
    report
}
