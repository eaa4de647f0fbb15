//! Fixed-width numbers out of byte slices. A field outside the slice reads as 0, so that no header, however short,
//! can make a reader panic; callers check lengths where the difference matters.

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let slice = at.checked_add(N).and_then(|end| bytes.get(at..end));
    slice.and_then(|slice| slice.try_into().ok()).unwrap_or([0; N])
}

pub(crate) fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(field(bytes, at))
}

pub(crate) fn be_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(field(bytes, at))
}

pub(crate) fn le_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

pub(crate) fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

pub(crate) fn le_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

/// Writes `field` at `at`, where there is room for it.
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    let end = at.saturating_add(field.len());
    if let Some(place) = bytes.get_mut(at..end) {
        place.copy_from_slice(field);
    }
}

/// Whether `magic` stands at `at`.
pub(crate) fn has(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// A size for people: `512 bytes`, `1.5 GiB`.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let power = (bytes.ilog2() / 10).clamp(1, 6);
    let unit = UNITS[power as usize - 1];
    let whole = bytes >> (10 * power);
    let tenth = ((u128::from(bytes) * 10) >> (10 * power)) % 10;
    if tenth == 0 {
        format!("{whole} {unit}")
    } else {
        format!("{whole}.{tenth} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_outside_the_slice_is_zero() {
        assert_eq!(be_u32(&[1, 2, 3], 0), 0);
        assert_eq!(be_u64(&[0xff; 8], usize::MAX), 0);
        assert_eq!(le_u32(&[1, 0, 0, 0], 0), 1);
        assert!(!has(&[], 3, b"x"));
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(human(513), "513 bytes");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(100 << 30), "100 GiB");
        assert_eq!(human(u64::MAX), "15.9 EiB");
    }
}
