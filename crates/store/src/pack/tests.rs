//! Packs: what is built is read back, and what is damaged is noticed.

use std::sync::Arc;

use super::*;
use crate::memory::Memory;
use crate::seal::StoreKey;

fn sample() -> (Keys, Sealed) {
    sample_of(Keys::new(&[3; 32]))
}

fn encrypted(key: u8) -> Keys {
    Keys::new(&[3; 32]).sealing(StoreKey::new([key; 32]))
}

fn sample_of(keys: Keys) -> (Keys, Sealed) {
    let bytes = Arc::new(Memory::new(0)).pack().unwrap();
    let mut builder = Builder::new(&keys, Uuid::from_u128(9), Uuid::from_u128(1), 0, bytes).unwrap();
    for seed in 0..5_u8 {
        let mut plain: Vec<u8> = (0..CHUNK_BYTES)
            .map(|i| if seed < 3 { seed } else { hash(i, seed) })
            .collect();
        let digest = keys.digest(FrameKind::Data, &plain);
        let frame = frame_encode(digest, FrameKind::Data, 0, &mut plain).unwrap();
        builder.push(&frame, &plain).unwrap();
    }
    let sealed = builder.seal(&keys).unwrap();
    (keys, sealed)
}

fn hash(i: u32, seed: u8) -> u8 {
    blake3::hash(&[&i.to_le_bytes()[..], &[seed]].concat()).as_bytes()[0]
}

#[test]
fn a_sealed_pack_verifies_and_incompressible_frames_stay_raw() {
    let (keys, sealed) = sample();
    assert_eq!(verify(&keys, sealed.id, &sealed.bytes).unwrap(), sealed.entries);
    assert!(sealed.entries[0].length < 100);
    assert_eq!(sealed.entries[4].length, CHUNK_BYTES + 16);
}

#[test]
fn tiny_frames_fill_a_pack_by_their_number() {
    let keys = Keys::new(&[3; 32]);
    let bytes = Arc::new(Memory::new(0)).pack().unwrap();
    let mut builder = Builder::new(&keys, Uuid::from_u128(9), Uuid::from_u128(1), 0, bytes).unwrap();
    let mut plain = vec![0; CHUNK_BYTES as usize];
    let digest = keys.digest(FrameKind::Data, &plain);
    let frame = frame_encode(digest, FrameKind::Data, 0, &mut plain).unwrap();
    for _ in 0..TARGET_FRAMES {
        assert!(!builder.is_full());
        builder.push(&frame, &plain).unwrap();
    }
    assert!(builder.is_full() && builder.sealed_bytes() < TARGET_BYTES / 4);
}

#[test]
fn frames_are_found_without_a_footer() {
    for keys in [Keys::new(&[3; 32]), encrypted(5)] {
        let (keys, sealed) = sample_of(keys);
        let found = |pack: &[u8]| salvage(&keys, sealed.id, pack).unwrap();
        let footer = sealed.bytes.len() - TRAILER_BYTES - sealed.entries.len() * ENTRY_BYTES;
        assert_eq!(found(&sealed.bytes[..footer]), sealed.entries);
        let last = sealed.entries[4];
        let cut = &sealed.bytes[..last.offset as usize + 100];
        assert_eq!(found(cut), sealed.entries[..4]);
        // A damaged raw frame has another digest; a damaged compressed or encrypted one none.
        let mut bad = sealed.bytes.to_vec();
        bad[sealed.entries[1].offset as usize + 20] ^= 1;
        let found = found(&bad);
        assert!(!found.contains(&sealed.entries[1]) && found.contains(&sealed.entries[2]));
    }
}

#[test]
fn copied_frames_are_sealed_for_their_new_pack() {
    let (keys, from) = sample_of(encrypted(5));
    let bytes = Arc::new(Memory::new(0)).pack().unwrap();
    let id = Uuid::from_u128(11);
    let mut builder = Builder::new(&keys, id, Uuid::from_u128(1), 0, bytes).unwrap();
    let key = keys.pack_key(from.id).unwrap();
    for entry in &from.entries[2..] {
        builder.copy(key.as_ref(), *entry, &from.bytes).unwrap();
    }
    let other = keys.pack_key(id).unwrap();
    let refused = builder.copy(other.as_ref(), from.entries[0], &from.bytes);
    assert_eq!(refused.unwrap_err().kind(), Kind::Damaged);
    let sealed = builder.seal(&keys).unwrap();
    let found = verify(&keys, id, &sealed.bytes).unwrap();
    let digests = |entries: &[Entry]| entries.iter().map(|entry| entry.digest).collect::<Vec<_>>();
    assert_eq!(digests(&found), digests(&from.entries[2..]));
    let payload = |sealed: &Sealed, n: usize| {
        let entry = sealed.entries[n];
        sealed.bytes[entry.offset as usize + FRAME_HEADER_BYTES..][..64].to_vec()
    };
    assert_ne!(payload(&sealed, 2), payload(&from, 4), "another key, other bytes");
}

#[test]
fn any_flipped_bit_and_any_cut_is_noticed() {
    for keys in [Keys::new(&[3; 32]), encrypted(5)] {
        damage_is_noticed(&sample_of(keys));
    }
}

/// Another kind would end a verification of the whole store.
#[test]
fn every_bit_of_a_frame_header_is_damage_of_that_frame() {
    for keys in [Keys::new(&[3; 32]), encrypted(5)] {
        let (keys, sealed) = sample_of(keys);
        for entry in [sealed.entries[0], sealed.entries[4]] {
            for bit in 0..FRAME_HEADER_BYTES * 8 {
                let mut bad = sealed.bytes.to_vec();
                bad[entry.offset as usize + bit / 8] ^= 1 << (bit % 8);
                let error = verify(&keys, sealed.id, &bad).unwrap_err();
                assert_eq!(error.kind(), Kind::Damaged, "bit {bit}: {error}");
                // What a reader does not look at it may leave alone; it is never told another format.
                let key = keys.pack_key(sealed.id).unwrap();
                let frame = &bad[entry.offset as usize..][..entry.length as usize];
                let read = frame_open_with(&keys, key.as_ref(), entry.kind, entry.digest, frame);
                assert!(read.map_or_else(|error| error.kind() == Kind::Damaged, |_| (16..64).contains(&bit)));
                let mut to = vec![0; CHUNK_BYTES as usize];
                let read = chunk_open_to(&keys, key.as_ref(), entry.digest, frame, &mut to);
                assert!(read.map_or_else(
                    |error| error.kind() == Kind::Damaged,
                    |()| (16..64).contains(&bit)
                ));
            }
        }
    }
}

fn damage_is_noticed((keys, sealed): &(Keys, Sealed)) {
    for at in (0..sealed.bytes.len())
        .step_by(131)
        .chain(0..64)
        .chain(sealed.bytes.len() - 400..sealed.bytes.len())
    {
        let mut bad = sealed.bytes.to_vec();
        bad[at] ^= 4;
        assert!(verify(keys, sealed.id, &bad).is_err(), "byte {at}");
    }
    for cut in [0, 1, 63, 64, 128, 1000, sealed.bytes.len() - 1] {
        assert!(
            verify(keys, sealed.id, &sealed.bytes[..cut]).is_err(),
            "cut at {cut}"
        );
    }
    assert!(verify(&Keys::new(&[4; 32]), sealed.id, &sealed.bytes).is_err());
    assert!(verify(keys, Uuid::from_u128(10), &sealed.bytes).is_err());
}

/// The frames of a pack.
fn frames(sealed: &Sealed) -> impl Iterator<Item = &[u8]> {
    let bytes = &sealed.bytes;
    sealed
        .entries
        .iter()
        .map(|entry| &bytes[entry.offset as usize..(entry.offset + entry.length) as usize])
}

#[test]
fn encrypted_frames_show_nothing_and_open_with_their_key_in_their_place_only() {
    let (keys, sealed) = sample_of(encrypted(5));
    assert_eq!(verify(&keys, sealed.id, &sealed.bytes).unwrap(), sealed.entries);
    let (_, clear) = sample();
    for (frame, clear) in frames(&sealed).zip(frames(&clear)) {
        assert_eq!(frame.len(), clear.len() + TAG_BYTES);
        let payload = &clear[FRAME_HEADER_BYTES..];
        assert!(!sealed.bytes.windows(payload.len()).any(|bytes| bytes == payload));
    }
    let key = keys.pack_key(sealed.id).unwrap();
    let fails = |key: Option<&ObjectKey>, frame: &[u8]| frame_decode(key, frame).unwrap_err().kind();
    for frame in frames(&sealed) {
        assert_eq!(
            frame_decode(key.as_ref(), frame).unwrap().len(),
            CHUNK_BYTES as usize
        );
        // Another pack, another store, no key, another place.
        let other = keys.pack_key(Uuid::from_u128(10)).unwrap();
        assert_eq!(fails(other.as_ref(), frame), Kind::Damaged);
        let other = encrypted(6).pack_key(sealed.id).unwrap();
        assert_eq!(fails(other.as_ref(), frame), Kind::Damaged);
        assert_eq!(fails(None, frame), Kind::Damaged);
        let mut moved = frame.to_vec();
        moved[4] ^= 1;
        assert_eq!(fails(key.as_ref(), &moved), Kind::Damaged);
    }
    let clear = frames(&clear).next().unwrap();
    assert_eq!(
        fails(key.as_ref(), clear),
        Kind::Damaged,
        "what is in clear was put there"
    );
}

#[test]
fn frames_that_changed_places_are_noticed_though_the_index_knows() {
    let (keys, sealed) = sample_of(encrypted(5));
    let (from, length) = (
        sealed.entries[0].offset as usize,
        sealed.entries[0].length as usize,
    );
    assert_eq!(sealed.entries[1].length as usize, length);
    let mut bad = sealed.bytes.to_vec();
    let (one, two) = bad[from..from + 2 * length].split_at_mut(length);
    // The headers stay, so that both say what the index says.
    one[FRAME_HEADER_BYTES..].swap_with_slice(&mut two[FRAME_HEADER_BYTES..]);
    assert!(verify(&keys, sealed.id, &bad).is_err());
}
