//! The partition table of the master boot record.

use crate::bytes::{has, le_u32};
use crate::error::{Error, Result};
use crate::gpt;

pub(crate) const SECTORS_OF_4096: &str = "The disk's GPT is laid out for 4096-byte sectors, but droplets have \
     512-byte sectors and could not read it. Build the image with 512-byte sectors and try again.";

const TABLE: usize = 446;
const PROTECTIVE: u8 = 0xEE;

#[derive(Clone, Copy)]
struct Entry {
    number: u32,
    boot: u8,
    kind: u8,
    start: u64,
    count: u64,
}

pub(crate) struct Mbr {
    entries: Vec<Entry>,
    gpt_of_4096: bool,
}

impl Mbr {
    /// The used entries of the table in the disk's first sector; nothing where the signature is missing.
    pub(crate) fn parse(head: &[u8]) -> Option<Self> {
        if !has(head, 510, &[0x55, 0xAA]) {
            return None;
        }
        let entries = [0_u8, 1, 2, 3].map(|number| {
            let at = TABLE + 16 * usize::from(number);
            Entry {
                number: u32::from(number) + 1,
                boot: head.get(at).copied().unwrap_or(0),
                kind: head.get(at + 4).copied().unwrap_or(0),
                start: u64::from(le_u32(head, at + 8)),
                count: u64::from(le_u32(head, at + 12)),
            }
        });
        let gpt_of_4096 = has(head, 4096, gpt::SIGNATURE) && !has(head, 512, gpt::SIGNATURE);
        Some(Self {
            entries: entries.into_iter().filter(|entry| entry.kind != 0).collect(),
            gpt_of_4096,
        })
    }

    /// Whether the table says that a GPT follows.
    pub(crate) fn is_protective(&self) -> bool {
        self.entries.iter().any(|entry| entry.kind == PROTECTIVE)
    }

    /// The rules that need no length.
    pub(crate) fn check(&self) -> Result<()> {
        if self.entries.is_empty() {
            return Err(Error::refused(
                "The disk has an empty partition table. Import a disk that an operating system is installed on.",
            ));
        }
        for Entry {
            number,
            boot,
            kind,
            start,
            ..
        } in self.entries.iter().copied()
        {
            if boot != 0 && boot != 0x80 {
                return Err(Error::damaged(format!(
                    "The MBR partition table is damaged: partition {number} has the boot flag {boot:#04x}, only 0x00 \
                     and 0x80 exist. Check that the image is complete and begins with the disk's first sector."
                )));
            }
            if start == 0 {
                return Err(Error::damaged(format!(
                    "The MBR partition table is damaged: partition {number} begins on the table itself. \
                     Check that the image is complete."
                )));
            }
            if kind == PROTECTIVE && start != 1 {
                return Err(Error::damaged(format!(
                    "The protective MBR is damaged: its entry begins at sector {start} in place of 1. \
                     Repair the table with `sgdisk -e IMAGE` and try again."
                )));
            }
        }
        Ok(())
    }

    /// The rules that need the disk's length, and what is odd.
    pub(crate) fn check_within(&self, sectors: u64) -> Result<Vec<String>> {
        if self.is_protective() && self.gpt_of_4096 {
            return Err(Error::refused(SECTORS_OF_4096));
        }
        let mut warnings = Vec::new();
        let partitions: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|entry| entry.kind != PROTECTIVE)
            .collect();
        for entry in &partitions {
            let (number, end) = (entry.number, entry.start + entry.count);
            if end > sectors {
                return Err(Error::damaged(format!(
                    "The disk is cut off: partition {number} ends at sector {end}, but the file has only {sectors} \
                     sectors. Download or copy it again and compare its checksum."
                )));
            }
            if entry.count == 0 {
                warnings.push(format!("Partition {number} of the MBR has no sectors."));
            }
        }
        if partitions_overlap(&partitions) {
            warnings.push("Partitions of the MBR overlap.".to_owned());
        }
        if self.is_protective() && !partitions.is_empty() {
            warnings.push(
                "The disk has a hybrid MBR beside its GPT; programs may disagree about its partitions."
                    .to_owned(),
            );
        } else if self
            .entries
            .first()
            .is_some_and(|entry| entry.kind == PROTECTIVE && entry.number != 1)
        {
            warnings.push("The protective MBR does not use its first entry.".to_owned());
        }
        Ok(warnings)
    }
}

fn partitions_overlap(partitions: &[&Entry]) -> bool {
    let mut spans: Vec<(u64, u64)> = partitions
        .iter()
        .map(|entry| (entry.start, entry.start + entry.count))
        .collect();
    spans.sort_unstable();
    spans
        .windows(2)
        .any(|pair| matches!(pair, [(_, end), (start, _)] if end > start))
}
