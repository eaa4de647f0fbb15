//! The descriptor: the text inside a VMDK that says what kind it is. Everything in it that could name a file is
//! refused or ignored, and nothing in it is believed about sizes.

use super::CONVERT;
use crate::error::{CHECK, Error, Result};

/// Which kind of VMDK it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    MonolithicSparse,
    StreamOptimized,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::StreamOptimized => "streamOptimized",
        }
    }
}

/// What a descriptor says that counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) kind: Kind,
    /// The sectors of its one extent.
    pub(super) sectors: u64,
}

/// Reads a descriptor: lines of `key=value`, comments, and one line for each extent.
pub(super) fn parse(bytes: &[u8]) -> Result<Descriptor> {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = str::from_utf8(text).map_err(|_| damaged("is not text"))?;
    if !text.trim_start().starts_with("# Disk DescriptorFile") {
        return Err(damaged("does not begin as one"));
    }
    let (mut kind, mut extents, mut has_parent_line) = (None, Vec::new(), false);
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if is_extent(line) {
            extents.push(extent(line)?);
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(damaged("has a line that is neither `key=value` nor an extent"));
        };
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "createtype" => kind = Some(known_kind(value)?),
            "parentcid" => {
                has_parent_line = true;
                refuse_parent(!value.eq_ignore_ascii_case("ffffffff"))?;
            }
            "parentfilenamehint" => refuse_parent(true)?,
            key if key.starts_with("encryption") => return Err(encrypted()),
            _ => {}
        }
    }
    let (Some(kind), true) = (kind, has_parent_line) else {
        return Err(damaged(
            "does not say what kind of disk it is, and whether it has a parent",
        ));
    };
    match extents.as_slice() {
        [sectors] => Ok(Descriptor {
            kind,
            sectors: *sectors,
        }),
        _ => Err(Error::refused(format!(
            "The VMDK image consists of {} extents; one file that is the whole disk is taken. {CONVERT}",
            extents.len()
        ))),
    }
}

fn damaged(what: &str) -> Error {
    Error::damaged(format!(
        "The VMDK image is damaged: its descriptor {what}. {CHECK}"
    ))
}

fn encrypted() -> Error {
    Error::refused(
        "The VMDK image is encrypted. Decrypt the virtual machine where its password is, export it again and import the \
         result.",
    )
}

fn refuse_parent(has_parent: bool) -> Result<()> {
    if !has_parent {
        return Ok(());
    }
    Err(Error::refused(format!(
        "The VMDK image is a snapshot or a linked clone: it needs its parent, so it is not complete by itself. {CONVERT}"
    )))
}

fn known_kind(name: &str) -> Result<Kind> {
    match name {
        "monolithicSparse" => Ok(Kind::MonolithicSparse),
        "streamOptimized" => Ok(Kind::StreamOptimized),
        _ => {
            let name: String = name
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .take(32)
                .collect();
            Err(Error::refused(format!(
                "The VMDK image is of the kind {name}; monolithicSparse and streamOptimized are taken. {CONVERT}"
            )))
        }
    }
}

fn is_extent(line: &str) -> bool {
    ["RW ", "RDONLY ", "NOACCESS "]
        .iter()
        .any(|access| line.starts_with(access))
}

/// The sectors of `RW 20480 SPARSE "disk.vmdk"`. The name is the file's own and is not used; one with a path in it is
/// nobody's honest work.
fn extent(line: &str) -> Result<u64> {
    let mut words = line.splitn(4, ' ');
    let (access, sectors, kind) = (words.next(), words.next(), words.next());
    let name = words.next().unwrap_or_default().trim();
    let is_name = name.len() > 2 && name.starts_with('"') && name.ends_with('"');
    if kind != Some("SPARSE") || access == Some("NOACCESS") {
        return Err(Error::refused(format!(
            "The VMDK image has an extent that is not SPARSE: its disk is in another file. {CONVERT}"
        )));
    }
    if !is_name || name.contains(['/', '\\']) {
        return Err(Error::refused(format!(
            "The VMDK image names an extent in another folder. {CONVERT}"
        )));
    }
    let sectors = sectors.and_then(|sectors| sectors.parse().ok());
    sectors.ok_or_else(|| damaged("has an extent without a size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
        createType=\"streamOptimized\"\n\n# Extent description\nRW 8192 SPARSE \"disk name.vmdk\"\n\n\
        # The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n";

    fn refusal(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_a_descriptor_says_that_counts() {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes.extend_from_slice(b"\0\0not read any more");
        let expected = Descriptor {
            kind: Kind::StreamOptimized,
            sectors: 8192,
        };
        assert_eq!(parse(&bytes).unwrap(), expected);
        let windows = GOOD.replace('\n', "\r\n").replace("createType", "createtype");
        assert_eq!(parse(windows.as_bytes()).unwrap().sectors, 8192);
    }

    #[test]
    fn whatever_leads_to_another_file_is_refused() {
        let other = |from: &str, to: &str| refusal(&GOOD.replace(from, to));
        assert!(other("SPARSE", "FLAT").contains("another file"));
        assert!(other("RW 8192", "NOACCESS 8192").contains("another file"));
        assert!(other("disk name", "/etc/passwd").contains("another folder"));
        assert!(other("disk name", "..\\secret").contains("another folder"));
        assert!(other("\"disk name.vmdk\"", "").contains("another folder"));
        assert!(other("=ffffffff", "=12345678").contains("parent"));
        assert!(other("version=1", "parentFileNameHint=\"base.vmdk\"").contains("parent"));
        assert!(other("version=1", "encryption.keySafe = \"x\"").contains("encrypted"));
        assert!(other("streamOptimized", "monolithicFlat").contains("kind monolithicFlat"));
        assert!(other("RW", "RW 1 SPARSE \"a\"\nRW").contains("2 extents"));
        assert!(other("RW 8192 SPARSE \"disk name.vmdk\"", "").contains("0 extents"));
    }

    #[test]
    fn what_is_no_descriptor_is_damage() {
        assert!(refusal("").contains("does not begin"));
        assert!(refusal(&GOOD.replace("version=1", "open sesame")).contains("neither"));
        assert!(refusal(&GOOD.replace("parentCID=ffffffff\n", "")).contains("whether it has a parent"));
        assert!(refusal(&GOOD.replace("createType", "kind")).contains("what kind"));
        assert!(refusal(&GOOD.replace("8192", "many")).contains("without a size"));
        assert!(parse(b"# Disk DescriptorFile\n\xff").is_err());
    }
}
