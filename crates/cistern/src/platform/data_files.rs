//! Whose the files of an installation are: what root makes in a data folder belongs to that folder's owner, as the
//! server that runs as that user has to read and write it ([`store::owner`]).

use std::fs::File;
use std::io;
use std::path::Path;

use store::owner;

/// Makes a file with a key, open to its owner alone. In the data folder that is the folder's owner; elsewhere it is the
/// caller, whosever folder that is. Fails where the name is taken.
pub fn key_file_new(data: &Path, path: &Path) -> io::Result<File> {
    if is_inside(data, path) {
        return owner::file_new(path);
    }
    owner::file_new_own(path)
}

fn is_inside(data: &Path, path: &Path) -> bool {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    let data = data.canonicalize().ok();
    folder
        .zip(data)
        .is_some_and(|(folder, data)| folder.starts_with(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_inside_where_its_folder_is() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let [data, beside] = ["data", "data2"].map(|name| dir.path().join(name));
        for folder in [&data.join("keys"), &beside] {
            std::fs::create_dir_all(folder).expect("makes it");
        }
        std::os::unix::fs::symlink(&beside, data.join("link")).expect("links");
        for (path, is_in) in [
            (data.join("one.key"), true),
            (data.join("keys/one.key"), true),
            (beside.join("../data/one.key"), true),
            (beside.join("one.key"), false),
            (data.join("link/one.key"), false),
            (data.join("none/one.key"), false),
        ] {
            assert_eq!(is_inside(&data, &path), is_in, "{}", path.display());
        }
    }
}
