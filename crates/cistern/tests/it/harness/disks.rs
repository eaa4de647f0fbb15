//! Disk images made on the spot: partitioned raw disks with content that is reproducible from a seed.

/// A raw disk of `mib` MiB with an MBR and one Linux partition. About half is data, a quarter of that compressible,
/// and the rest holes; another seed changes all of it.
pub(crate) fn raw(mib: usize, seed: u64) -> Vec<u8> {
    let mut disk = vec![0; mib << 20];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for (n, block) in disk.chunks_mut(1 << 16).enumerate() {
        match n % 4 {
            0 => fill_random(block, &mut state),
            1 if n % 8 == 1 => fill_text(block, seed, n),
            _ => {}
        }
    }
    partition(&mut disk);
    disk
}

/// The same disk with `blocks` of its 64 KiB blocks changed.
pub(crate) fn changed(disk: &[u8], blocks: usize, seed: u64) -> Vec<u8> {
    let mut out = disk.to_vec();
    let count = out.len() >> 16;
    let mut state = seed | 1;
    for n in 0..blocks {
        let at = (1 + n * (count - 1) / blocks.max(1)) << 16;
        fill_random(&mut out[at..at + (1 << 16)], &mut state);
    }
    out
}

/// Fills a block with what does not compress; another seed gives another block.
pub(crate) fn noise(block: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    fill_random(block, &mut state);
}

/// The first sector of a disk of so many bytes: one primary partition from 1 MiB to the end.
pub(crate) fn partition_table(bytes: usize) -> Vec<u8> {
    let mut sector = vec![0; 512];
    partition_write(&mut sector, bytes);
    sector
}

fn fill_random(block: &mut [u8], state: &mut u64) {
    for word in block.chunks_exact_mut(8) {
        // xorshift64*: content that does not compress, the same for the same seed.
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        word.copy_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
}

fn fill_text(block: &mut [u8], seed: u64, n: usize) {
    let line = format!("line of block {n} of disk {seed}: the quick brown fox\n");
    for (byte, letter) in block.iter_mut().zip(line.bytes().cycle()) {
        *byte = letter;
    }
}

/// One primary partition from 1 MiB to the end, and the boot signature.
fn partition(disk: &mut [u8]) {
    let bytes = disk.len();
    partition_write(&mut disk[..512], bytes);
}

fn partition_write(sector: &mut [u8], disk_bytes: usize) {
    let sectors = u32::try_from(disk_bytes / 512 - 2048).expect("a small disk");
    sector.fill(0);
    let entry = &mut sector[446..462];
    entry[0] = 0x80;
    entry[4] = 0x83;
    entry[8..12].copy_from_slice(&2048_u32.to_le_bytes());
    entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
}
