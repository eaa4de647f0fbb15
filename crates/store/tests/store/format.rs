//! Reads a store with nothing but docs/store-format.md: no function of the crate is used to decode.
//!
//! When this test has to change, the document and the format have changed with it.

use std::collections::HashMap;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use store::{
    Algorithm, JournalHead, JournalLink, JournalPart, JournalPlace, KeyKind, Options, Store, WrappingKey,
};

use crate::support::{import, local, noise};

fn u32_at(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap()
}

/// What §3 tells of a store.
struct Header {
    store: [u8; 16],
    digest_key: [u8; 32],
    /// §10: where the store is encrypted.
    store_key: Option<[u8; 32]>,
}

/// §10: 32 bytes by HKDF-SHA-256.
fn hkdf(secret: &[u8], salt: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    let prk = Salt::new(HKDF_SHA256, salt).extract(secret);
    prk.expand(info, HKDF_SHA256).unwrap().fill(&mut out).unwrap();
    out
}

/// §10: AES-256-GCM; the tag is behind the text.
fn aes_open(key: &[u8; 32], nonce: [u8; 12], data: &[u8], sealed: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let mut text = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.open_in_place(nonce, Aad::from(data), &mut text)
        .unwrap()
        .to_vec()
}

/// §10: a small text.
fn text_open(key: &[u8; 32], data: &[u8], sealed: &serde_json::Value) -> [u8; 32] {
    let sealed = hex::decode(sealed.as_str().unwrap()).unwrap();
    let key = hkdf(key, &sealed[..16], &[b"cistern sealed text"]);
    aes_open(&key, [0; 12], data, &sealed[16..]).try_into().unwrap()
}

/// §3, §10: the header of an encrypted store, opened with the content of a key file.
fn header_sealed(root: &Path, wrapping: &[u8]) -> Header {
    let bytes = std::fs::read(root.join("h/00000001")).unwrap();
    let length = u32_at(&bytes, 12);
    assert_eq!(bytes.len(), 16 + length + 32 + 32);
    let json: serde_json::Value = serde_json::from_slice(&bytes[16..16 + length]).unwrap();
    assert_eq!(
        (json["number"].as_u64(), json["features_read"].as_u64()),
        (Some(1), Some(1))
    );
    assert!(json["digest_key"].is_null());
    let store = *uuid::Uuid::parse_str(json["store_id"].as_str().unwrap())
        .unwrap()
        .as_bytes();
    let wrapped = &json["wrapped_keys"][0];
    assert_eq!(wrapped["kind"], "key-file");
    let key = hkdf(wrapping, &store, &[b"cistern store wrapping key"]);
    let named = [&store[..], wrapped["id"].as_str().unwrap().as_bytes()].concat();
    let store_key = text_open(&key, &named, &wrapped["wrapped"]);
    let derived = |id: &[u8]| hkdf(&store_key, &[], &[b"cistern store seal header", id]);
    let (covered, code) = bytes.split_at(bytes.len() - 32);
    assert_eq!(blake3::keyed_hash(&derived(b"code"), covered).as_bytes(), code);
    let digest_key = text_open(&derived(b"digest key"), &store, &json["sealed_digest_key"]);
    let name = blake3::derive_key("cistern store key id", &digest_key);
    assert_eq!(json["digest_key_id"], hex::encode(&name[..8]));
    // The other copy is the same but for its number.
    let other = std::fs::read(root.join("h/00000000")).unwrap();
    let mut other: serde_json::Value = serde_json::from_slice(&other[16..16 + length]).unwrap();
    other["number"] = 1.into();
    assert_eq!(other, json);
    Header {
        store,
        digest_key,
        store_key: Some(store_key),
    }
}

/// §3: the header gives the store id and the digest key.
fn header(root: &Path) -> Header {
    let bytes = std::fs::read(root.join("h/00000000")).unwrap();
    assert_eq!(&bytes[..8], b"CISTSTOR");
    assert_eq!(u32_at(&bytes, 8), 1);
    let length = u32_at(&bytes, 12);
    assert_eq!(bytes.len(), 16 + length + 32);
    assert_eq!(
        blake3::hash(&bytes[..16 + length]).as_bytes(),
        &bytes[16 + length..]
    );
    let json: serde_json::Value = serde_json::from_slice(&bytes[16..16 + length]).unwrap();
    assert_eq!(
        (json["format"].as_u64(), json["chunk_bytes"].as_u64()),
        (Some(1), Some(65536))
    );
    assert_eq!(json["digest"], "blake3-keyed");
    assert_eq!(json["dedup_domain"], "installation");
    // Where the test's clock stands.
    assert_eq!(json["created_us"].as_u64(), Some(1_800_000_000_000_000));
    assert_eq!(
        (json["features_read"].as_u64(), json["features_write"].as_u64()),
        (Some(0), Some(0))
    );
    let id = uuid::Uuid::parse_str(json["store_id"].as_str().unwrap()).unwrap();
    let key: [u8; 32] = hex::decode(json["digest_key"].as_str().unwrap())
        .unwrap()
        .try_into()
        .unwrap();
    let name = blake3::derive_key("cistern store key id", &key);
    assert_eq!(json["digest_key_id"], hex::encode(&name[..8]));
    Header {
        store: *id.as_bytes(),
        digest_key: key,
        store_key: None,
    }
}

/// §4-5: every frame of a pack, by kind and digest.
fn pack(path: &Path, header: &Header, out: &mut HashMap<(u8, [u8; 32]), Vec<u8>>) {
    let (store, key) = (header.store, &header.digest_key);
    let bytes = std::fs::read(path).unwrap();
    let id = uuid::Uuid::parse_str(path.file_name().unwrap().to_str().unwrap()).unwrap();
    assert!(path.parent().unwrap().ends_with(&id.to_string()[..2]));
    assert_eq!(&bytes[..8], b"CISTPACK");
    assert_eq!((u32_at(&bytes, 8), u32_at(&bytes, 12)), (1, 64));
    assert_eq!((&bytes[16..32], &bytes[32..48]), (&id.as_bytes()[..], &store[..]));
    assert_eq!(bytes[48..64], [0; 16]);
    assert!(bytes.len() <= 16 << 20);
    let trailer = &bytes[bytes.len() - 64..];
    assert_eq!(&trailer[56..], b"CISTPEND");
    let (footer, count) = (u32_at(trailer, 0), u32_at(trailer, 4));
    assert_eq!(u32_at(trailer, 8), 1);
    assert_eq!(trailer[12..24], [0; 12]);
    assert_eq!(footer + count * 48 + 64, bytes.len());
    let mac_key = blake3::derive_key("cistern store pack footer", key);
    let mut mac = blake3::Hasher::new_keyed(&mac_key);
    mac.update(&bytes[..64])
        .update(&bytes[footer..footer + count * 48])
        .update(&trailer[..24]);
    assert_eq!(mac.finalize().as_bytes(), &trailer[24..56]);
    let mut at = 64;
    for index in 0..count {
        let entry = &bytes[footer + index * 48..][..48];
        let (offset, length, plain_bytes) = (u32_at(entry, 32), u32_at(entry, 36), u32_at(entry, 40));
        let (kind, level, codec, cipher) = (entry[44], entry[45], entry[46], entry[47]);
        assert_eq!(offset, at, "frames follow each other without a gap");
        at += length;
        let frame = &bytes[offset..offset + length];
        assert_eq!(frame[..4], [codec, cipher, kind, level]);
        assert_eq!(
            (u32_at(frame, 4), u32_at(frame, 8), u32_at(frame, 12)),
            (index, length - 16, plain_bytes)
        );
        assert_eq!(cipher, u8::from(header.store_key.is_some()));
        let payload = match &header.store_key {
            None => frame[16..].to_vec(),
            Some(store_key) => {
                let key = hkdf(store_key, &[], &[b"cistern store seal pack", id.as_bytes()]);
                let mut nonce = [0; 12];
                nonce[..8].copy_from_slice(&(index as u64).to_le_bytes());
                aes_open(&key, nonce, &[id.as_bytes(), &frame[..16]].concat(), &frame[16..])
            }
        };
        let plain = match codec {
            0 => payload.clone(),
            1 => zstd::stream::decode_all(&payload[..]).unwrap(),
            other => panic!("codec {other}"),
        };
        assert_eq!(plain.len(), plain_bytes);
        let context = match kind {
            1 => "cistern store data chunk",
            2 => "cistern store tree node",
            other => panic!("kind {other}"),
        };
        assert!(kind == 2 || level == 0);
        assert!(
            kind == 2 || plain.iter().any(|byte| *byte != 0),
            "zeros are not stored"
        );
        assert!(codec == 1 || payload.len() == plain_bytes, "as it is");
        let digest = blake3::keyed_hash(&blake3::derive_key(context, key), &plain);
        assert_eq!(digest.as_bytes(), &entry[..32]);
        out.insert((kind, *digest.as_bytes()), plain);
    }
    assert_eq!(at, footer);
}

/// §6: the bytes under a node, written to their place in `disk`.
fn node(
    frames: &HashMap<(u8, [u8; 32]), Vec<u8>>,
    digest: [u8; 32],
    level: u8,
    first_chunk: usize,
    disk: &mut [u8],
) {
    let bytes = &frames[&(2, digest)];
    assert_eq!(&bytes[..4], b"CTND");
    assert_eq!(bytes[4..6], [1, level]);
    let count = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    assert_eq!(bytes.len(), 8 + 128 + count * 32);
    let named: u32 = bytes[8..136].iter().map(|byte| byte.count_ones()).sum();
    assert_eq!(usize::try_from(named).unwrap(), count);
    let span = 1024_usize.pow(u32::from(level));
    let mut digests = bytes[136..].chunks_exact(32);
    for child in 0..1024 {
        if bytes[8 + child / 8] >> (child % 8) & 1 == 0 {
            continue;
        }
        let digest: [u8; 32] = digests.next().unwrap().try_into().unwrap();
        let chunk = first_chunk + child * span;
        if level > 0 {
            node(frames, digest, level - 1, chunk, disk);
            continue;
        }
        let plain = &frames[&(1, digest)];
        assert_eq!(plain.len(), 65536);
        let end = ((chunk + 1) * 65536).min(disk.len());
        assert!(
            plain[end - chunk * 65536..].iter().all(|byte| *byte == 0),
            "behind the end"
        );
        disk[chunk * 65536..end].copy_from_slice(&plain[..end - chunk * 65536]);
    }
}

/// §1: every file below the folder, as a key.
fn keys(root: &Path, folder: &Path, out: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            keys(root, &path, out);
        } else {
            out.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}

/// §1: `h/` and eight digits, or `p/`, the first two characters of a UUID in lower case, and the UUID.
fn key_is_known(key: &str) -> bool {
    match key.split('/').collect::<Vec<_>>().as_slice() {
        ["h", number] => number.len() == 8 && number.bytes().all(|b| b.is_ascii_digit()),
        ["p", start, id] => {
            let id_text = uuid::Uuid::parse_str(id).map(|id| id.to_string());
            id_text.is_ok_and(|text| text == **id) && id.starts_with(start) && start.len() == 2
        }
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_enough_to_read_a_disk() {
    let place = local().await;
    let store = place.store().await;
    store.probe_backend().await.unwrap();
    let mut data = noise(1, 17 << 20);
    data.extend(b"words that compress well ".repeat(100_000));
    // A whole node of the lowest level in between is zeros: it is not there.
    data.resize(130 << 20, 0);
    data.extend(noise(2, 99_999));
    let root = import(&store, &place.db, "1", &data).await;
    let objects = place.dir.path().join("objects");
    let mut all = Vec::new();
    keys(&objects, &objects, &mut all);
    assert!(all.iter().all(|key| key_is_known(key)), "{all:?}");
    let header = header(&objects);
    let mut frames = HashMap::new();
    for key_of in all.iter().filter(|key| key.starts_with("p/")) {
        pack(&objects.join(key_of), &header, &mut frames);
    }
    assert!(all.len() > 2, "several packs");
    assert_eq!(root.level, 1, "the lowest that covers more than 64 MiB");
    let top = &frames[&(2, root.digest.0)];
    assert_eq!((top[6], top[8]), (2, 0b101));
    let mut disk = vec![0; data.len()];
    node(&frames, root.digest.0, root.level, 0, &mut disk);
    assert!(disk == data);

    // §6: the level follows the size alone, and zeros have no node.
    for (bytes, level) in [
        (512, 0),
        (64 << 20, 0),
        ((64 << 20) + 512, 1),
        (64 << 30, 1),
        ((64 << 30) + 512, 2),
    ] {
        let session = store.session_open("zeros").await.unwrap();
        let mut ingest = session.ingest(bytes, None).await.unwrap();
        ingest.extent_zero(bytes).await.unwrap();
        let root = ingest.finish().await.unwrap().root;
        assert_eq!(
            (root.level, root.digest.0, root.virtual_bytes),
            (level, [0; 32], bytes)
        );
        session.abort().await.unwrap();
    }
}

/// What the tests write into the journal.
fn journal_put() -> (JournalHead, Vec<u8>) {
    let head = JournalHead {
        lineage: uuid::Uuid::from_u128(77),
        place: JournalPlace {
            generation: 0x1a,
            sequence: 0x2b,
        },
        part: JournalPart::Changes,
        previous: Some(JournalLink {
            sequence: 0x2a,
            code: [9; 32],
        }),
        at_us: 1_800_000_000_000_007,
    };
    (head, br#"{"rows":[]}"#.repeat(20))
}

/// §9: the document of a journal object, whose envelope is as `journal_put` asks for.
fn journal_read(root: &Path, header: &Header) -> Vec<u8> {
    let bytes = std::fs::read(root.join("j/0000001a/000000000000002b")).unwrap();
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(&bytes[..8], b"CISTJRNL");
    assert_eq!((u32_at(&bytes, 8), u32_at(&bytes, 12)), (1, 128));
    assert_eq!(bytes[16..32], header.store);
    assert_eq!(bytes[32..48], *uuid::Uuid::from_u128(77).as_bytes());
    assert_eq!(u32_at(&bytes, 48), 0x1a);
    let cipher = u8::from(header.store_key.is_some());
    assert_eq!(
        bytes[52..56],
        [3, 1, cipher, 1],
        "changes, zstd, the cipher, one before"
    );
    assert_eq!((u64_at(56), u64_at(64)), (0x2b, 0x2a));
    assert_eq!(bytes[72..104], [9; 32]);
    assert_eq!(u64_at(104), 1_800_000_000_000_007);
    assert_eq!(bytes[116..128], [0; 12]);
    let end = bytes.len() - 32;
    let key = blake3::derive_key("cistern store journal", &header.digest_key);
    assert_eq!(blake3::keyed_hash(&key, &bytes[..end]).as_bytes(), &bytes[end..]);
    let payload = match &header.store_key {
        None => bytes[128..end].to_vec(),
        Some(store_key) => {
            let key = hkdf(store_key, &[], &[b"cistern store seal journal"]);
            let key = hkdf(&key, &bytes[128..144], &[b"cistern sealed text"]);
            aes_open(&key, [0; 12], &bytes[..128], &bytes[144..end])
        }
    };
    let document = zstd::stream::decode_all(&payload[..]).unwrap();
    assert_eq!(u32_at(&bytes, 112), document.len());
    document
}

#[tokio::test]
async fn a_journal_object_reads_by_its_description() {
    let place = local().await;
    let store = place.store().await;
    let (head, document) = journal_put();
    let sealed = store.journal().seal(&head, &document).unwrap();
    store.journal().put(&sealed).await.unwrap();
    let root = place.dir.path().join("objects");
    assert_eq!(journal_read(&root, &header(&root)), document);
    assert!(sealed.bytes().ends_with(&sealed.code));
}

/// §10: a whole object in segments.
fn segments_read(path: &Path, store_key: &[u8; 32]) -> Vec<u8> {
    let id = uuid::Uuid::parse_str(path.file_name().unwrap().to_str().unwrap()).unwrap();
    let key = hkdf(store_key, &[], &[b"cistern store seal object", id.as_bytes()]);
    let bytes = std::fs::read(path).unwrap();
    let segments: Vec<_> = bytes.chunks(65536 + 16).collect();
    let open = |(number, segment): (usize, &&[u8])| {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
        nonce[8] = if number + 1 == segments.len() { 2 } else { 1 };
        aes_open(&key, nonce, id.as_bytes(), segment)
    };
    segments.iter().enumerate().flat_map(open).collect()
}

async fn object_put(store: &Store, db: &sea_orm::DatabaseConnection, data: &[u8]) {
    use sha2::Digest as _;
    let session = store.session_open("blob").await.unwrap();
    let mut ingest = session.object_begin(Algorithm::Sha256);
    ingest.write(data.to_vec().into()).await.unwrap();
    let name = format!("sha256:{}", hex::encode(sha2::Sha256::digest(data)));
    let stored = ingest.finish(&name.parse().unwrap()).await.unwrap();
    let tx = crate::support::begin(db).await;
    session
        .commit_objects_in_tx(&tx, &[("blob", "1", stored)])
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_and_a_key_are_enough_to_read_an_encrypted_disk() {
    let place = local().await;
    let wrapping = b"what is in the key file, with a line end behind it";
    let printed = [&wrapping[..], b"\n"].concat();
    let options = Options {
        encrypt: true,
        key: Some(WrappingKey::new(KeyKind::KeyFile, &printed).unwrap()),
        ..place.options()
    };
    let store = Store::init(place.backend.clone(), &place.db, options)
        .await
        .unwrap();
    let mut data = noise(1, 1 << 20);
    data.extend(b"words that compress well ".repeat(10_000));
    let root = import(&store, &place.db, "1", &data).await;
    let objects = place.dir.path().join("objects");
    let mut all = Vec::new();
    keys(&objects, &objects, &mut all);
    assert!(all.iter().all(|key| key_is_known(key)), "{all:?}");
    let header = header_sealed(&objects, wrapping);
    let mut frames = HashMap::new();
    for key_of in all.iter().filter(|key| key.starts_with("p/")) {
        pack(&objects.join(key_of), &header, &mut frames);
    }
    let mut disk = vec![0; data.len()];
    node(&frames, root.digest.0, root.level, 0, &mut disk);
    assert!(disk == data);

    let (head, document) = journal_put();
    let sealed = store.journal().seal(&head, &document).unwrap();
    store.journal().put(&sealed).await.unwrap();
    assert_eq!(journal_read(&objects, &header), document);

    let blob = noise(3, 200_000);
    object_put(&store, &place.db, &blob).await;
    let mut all = Vec::new();
    keys(&objects, &objects, &mut all);
    let path = all.iter().find(|key| key.starts_with("b/")).unwrap();
    assert!(segments_read(&objects.join(path), &header.store_key.unwrap()) == blob);
}
