use super::*;
use crate::error::ErrorKind;
use crate::fixture::{Vdi, put_le_u32, put_le_u64};
use crate::format::Format;
use crate::whole::{fails, whole, whole_within};

fn with(at: usize, value: u32) -> Vec<u8> {
    let mut image = Vdi::dynamic().build();
    put_le_u32(&mut image, at, value);
    image
}

#[track_caller]
fn refused(image: &[u8], kind: ErrorKind, words: &str) {
    fails(Format::Vdi, image, kind, words);
}

#[test]
fn a_map_is_followed_and_what_it_leaves_out_is_zero() {
    let (info, disk) = whole(Format::Vdi, &Vdi::dynamic().build()).unwrap();
    assert_eq!((info.variant.as_str(), info.warnings.len()), ("vdi, dynamic", 0));
    let expected = [[2_u8; 4096], [0; 4096], [1; 4096], [0; 4096]].concat();
    assert!(disk == expected);
    let fixed = Vdi {
        is_fixed: true,
        virtual_bytes: 4096 + 100,
        map: vec![0, 1],
        blocks: 2,
    };
    let (info, disk) = whole(Format::Vdi, &fixed.build()).unwrap();
    assert_eq!(info.variant, "vdi, fixed");
    assert!(disk == [vec![1; 4096], vec![2; 512]].concat(), "whole sectors");
}

#[test]
fn every_rule_of_the_header_counts() {
    refused(&with(64, 0), ErrorKind::Refused, "not a VDI");
    refused(&with(68, 0x0002_0000), ErrorKind::Refused, "version 2.0");
    refused(&with(72, 100), ErrorKind::Damaged, "100 bytes long");
    refused(&with(76, 0), ErrorKind::Damaged, "unknown type 0");
    for kind in [3, 4] {
        refused(&with(76, kind), ErrorKind::Refused, "needs its parent");
    }
    for id in [424, 440] {
        refused(&with(id, 1), ErrorKind::Refused, "needs its parent");
    }
    refused(&with(360, 4096), ErrorKind::Refused, "sectors of 4096");
    refused(&with(368, 0), ErrorKind::Refused, "empty disk");
    let mut large = Vdi::dynamic().build();
    put_le_u64(&mut large, 368, u64::MAX);
    refused(&large, ErrorKind::Limit, "the limit is");
    for size in [0, 1000, 2048, 12288, 512 << 20] {
        refused(&with(376, size), ErrorKind::Damaged, "power of two");
    }
    refused(&with(380, 512), ErrorKind::Refused, "bytes of its own");
    refused(&with(384, 3), ErrorKind::Damaged, "its size needs 4");
    refused(&with(388, 5), ErrorKind::Damaged, "5 blocks in use of 4");
    for (at, value) in [(340, 400), (340, 1024), (340, 513), (344, 512), (344, 1025)] {
        refused(&with(at, value), ErrorKind::Damaged, "overlap, or begin inside");
    }
    let image = Vdi::dynamic().build();
    refused(&image[..400], ErrorKind::Damaged, "inside its header");
    refused(&image[..512], ErrorKind::Damaged, "inside its map");
    let small = Limits {
        max_table_bytes: 8,
        ..Limits::default()
    };
    let error = whole_within(Format::Vdi, &image, &small).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[test]
fn a_block_of_the_file_belongs_to_one_block_of_the_disk() {
    for block in [1, 2, 7, u32::MAX - 2] {
        refused(
            &with(Vdi::MAP_AT + 12, block),
            ErrorKind::Damaged,
            "is named twice",
        );
    }
    let image = Vdi::dynamic().build();
    refused(&image[..image.len() - 512], ErrorKind::Damaged, "cut off");
}
