//! CRC-32C (Castagnoli), as VHDX seals its headers and its log with. Only a few megabytes are ever summed, so a table
//! of one byte is quick enough.

const REVERSED: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "it is below 256")]
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                value >> 1 ^ REVERSED
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

/// The checksum of `bytes`, with the four bytes at `own` (where it stands itself) as zeros.
pub(crate) fn crc32c(bytes: &[u8], own: usize) -> u32 {
    let mut crc = u32::MAX;
    for (index, byte) in bytes.iter().enumerate() {
        let byte = if (own..own + 4).contains(&index) { 0 } else { *byte };
        let at = usize::from(crc.to_le_bytes()[0] ^ byte);
        crc = crc >> 8 ^ TABLE.get(at).copied().unwrap_or(0);
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_algorithm() {
        // The four bytes that are taken as zeros lie behind the end.
        assert_eq!(crc32c(b"123456789", 100), 0xe306_9283);
        assert_eq!(
            crc32c(&[0xff, 1, 2, 3, 4, 0xff], 1),
            crc32c(&[0xff, 0, 0, 0, 0, 0xff], 100)
        );
    }
}
