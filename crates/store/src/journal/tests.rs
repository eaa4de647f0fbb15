//! Objects of the journal: what comes back, and what is noticed.

use super::*;
use crate::backend::Folder;
use crate::seal::StoreKey;

fn journal() -> (Journal, tempfile::TempDir) {
    journal_of(Keys::new(&[7; 32]))
}

fn encrypted(key: u8) -> Keys {
    Keys::new(&[7; 32]).sealing(StoreKey::new([key; 32]))
}

fn journal_of(keys: Keys) -> (Journal, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal {
        backend: Arc::new(Folder::open(dir.path()).unwrap()),
        store_id: Uuid::from_u128(5),
        keys,
        world: World::system(),
    };
    (journal, dir)
}

fn head(generation: u32, sequence: u64) -> JournalHead {
    JournalHead {
        lineage: Uuid::from_u128(9),
        place: JournalPlace { generation, sequence },
        part: JournalPart::Changes,
        previous: Some(JournalLink {
            sequence: 3,
            code: [4; 32],
        }),
        at_us: 77,
    }
}

#[tokio::test]
async fn what_was_written_comes_back_in_order_and_no_key_twice() {
    let (journal, _dir) = journal();
    for (generation, sequence) in [(0x10, 2), (2, 0x1f), (2, 3)] {
        let head = head(generation, sequence);
        let sealed = journal.seal(&head, b"some document").unwrap();
        journal.put(&sealed).await.unwrap();
        let back = journal.get(head.place).await.unwrap();
        assert_eq!(
            (back.head, &back.document[..], back.code),
            (head, &b"some document"[..], sealed.code)
        );
        assert_eq!(journal.put(&sealed).await.unwrap_err().kind(), Kind::Exists);
    }
    let listed = journal.list().await.unwrap();
    let places: Vec<_> = listed
        .iter()
        .map(|item| (item.place.generation, item.place.sequence))
        .collect();
    assert_eq!(places, [(2, 3), (2, 0x1f), (0x10, 2)]);
    for (generation, later) in [(1, true), (2, true), (0xf, true), (0x10, false), (0x11, false)] {
        assert_eq!(
            journal.has_later(generation).await.unwrap(),
            later,
            "{generation}"
        );
    }
}

#[test]
fn every_flipped_bit_every_cut_and_a_wrong_place_is_noticed() {
    for keys in [Keys::new(&[7; 32]), encrypted(3)] {
        damage_is_noticed(journal_of(keys).0);
    }
}

fn damage_is_noticed(journal: Journal) {
    let head = head(1, 2);
    let whole = journal.seal(&head, &[7; 300]).unwrap().bytes;
    assert!(journal.open_bytes(head.place, &whole).is_ok());
    for at in 0..whole.len() {
        let mut bad = whole.to_vec();
        bad[at] ^= 0x10;
        let error = journal.open_bytes(head.place, &bad).unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged, "byte {at}");
        assert!(
            journal.open_bytes(head.place, &whole[..at]).is_err(),
            "cut at {at}"
        );
    }
    let other = JournalPlace {
        sequence: 3,
        ..head.place
    };
    assert!(journal.open_bytes(other, &whole).is_err());
    let of_another = Journal {
        keys: Keys::new(&[8; 32]),
        ..journal
    };
    assert!(of_another.open_bytes(head.place, &whole).is_err());
}

#[test]
fn a_sealed_document_shows_nothing_and_opens_with_its_key_and_header_only() {
    let (journal, _dir) = journal_of(encrypted(3));
    let (head, document) = (head(1, 2), noise());
    let sealed = journal.seal(&head, &document).unwrap().bytes;
    let (clear, _dir) = super::tests::journal();
    let in_clear = clear.seal(&head, &document).unwrap().bytes;
    assert_eq!((in_clear[54], sealed[54]), (CIPHER_NONE, CIPHER_AES));
    let payload = &in_clear[HEAD_BYTES..in_clear.len() - CODE_BYTES];
    assert!(!sealed.windows(64).any(|bytes| bytes == &payload[..64]));
    let again = journal.seal(&head, &document).unwrap().bytes;
    assert_ne!(again[HEAD_BYTES + 16..], sealed[HEAD_BYTES + 16..]);
    assert_eq!(
        journal.open_bytes(head.place, &sealed).unwrap().document,
        document
    );
    let kind = |journal: &Journal, bytes: &[u8]| journal.open_bytes(head.place, bytes).unwrap_err().kind();
    // The same digest key, but not the store's.
    let (other, _dir) = journal_of(encrypted(4));
    assert_eq!(kind(&other, &sealed), Kind::Damaged);
    assert_eq!(kind(&clear, &sealed), Kind::Incompatible);
    assert_eq!(
        kind(&journal, &in_clear),
        Kind::Damaged,
        "what is in clear was put there"
    );
    // Its code made anew, and yet not what was sealed.
    let mut moved = sealed[..sealed.len() - CODE_BYTES].to_vec();
    moved[104] ^= 1;
    let code = journal.keys.journal_mac(&moved);
    moved.extend_from_slice(&code);
    assert_eq!(kind(&journal, &moved), Kind::Damaged);
}

fn noise() -> Vec<u8> {
    (0..100_u32)
        .flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes())
        .collect()
}

#[test]
fn only_what_the_journal_could_have_written_is_its_own() {
    let place = JournalPlace {
        generation: 0xab,
        sequence: 0xcd,
    };
    assert_eq!(place_of(&place.key()), Some(place));
    for other in [
        "j/000000AB/00000000000000cd",
        "j/ab/cd",
        "j/note",
        "p/000000ab/00000000000000cd",
    ] {
        assert_eq!(place_of(other), None, "{other}");
    }
}
