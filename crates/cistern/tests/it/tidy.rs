//! The house rules that no compiler keeps: who imports whom, and where SQL, axum, processes, the clock, randomness
//! and the environment may occur. ARCHITECTURE.md says why; each rule is shown to fail on a planted violation.

mod confined;
mod directions;
mod exceptions;
mod names;
mod planted;
mod scanner;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use confined::CONFINED;
use directions::{direction, role, role_of};
use exceptions::EXCEPTIONS;
use scanner::{How, Scan, What, module_of, scan};

const SERVICE: &str = "crates/cistern/src/";

/// Why something that a file holds is against the rules.
fn violation(path: &str, what: &What) -> Option<String> {
    let module = module_of(path);
    let why = confined(path, &module, what);
    why.or_else(|| arrow(path, &module, what).filter(|_| excuse(path, what).is_none()))
}

fn arrow(path: &str, module: &[String], what: &What) -> Option<String> {
    match what {
        What::Path(to, how) if path.starts_with(SERVICE) => direction(module, to, *how),
        _ => None,
    }
}

fn confined(path: &str, module: &[String], what: &What) -> Option<String> {
    let role = if path.starts_with(SERVICE) {
        role(module)
    } else if path.starts_with("crates/store/") {
        // The store has no rooms: its roles stand at the top.
        role_of(&module[1..2.min(module.len())])
    } else {
        "-"
    };
    let broken = CONFINED.iter().find(|rule| {
        let is_here = path.starts_with(rule.within);
        let is_allowed =
            rule.roles.contains(&role) || rule.places.iter().any(|place| path.starts_with(place));
        // Whoever hands it on by `pub use` would take it out of its place.
        let is_handed_on = matches!(what, What::Path(to, How::Reexport) if to[0] != "crate");
        is_here && (is_handed_on || !is_allowed) && (rule.is)(what)
    })?;
    Some(broken.why.to_owned())
}

/// The exception that allows what a file reaches, if there is one, and which of its paths.
fn excuse(path: &str, what: &What) -> Option<(usize, usize)> {
    let What::Path(to, _) = what else {
        return None;
    };
    let (file, to) = (path.strip_prefix(SERVICE)?, to.join("::"));
    let mut all = EXCEPTIONS
        .iter()
        .enumerate()
        .filter(|(_, exception)| exception.file == file);
    all.find_map(|(n, exception)| {
        let at = exception.paths.iter().position(|path| *path == to)?;
        Some((n, at))
    })
}

/// Every `.rs` file of every crate. The fuzz targets, and what stands beside a crate's `src` and is not the crate
/// (tests, examples), may do what they like.
fn sources(root: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut folders: Vec<PathBuf> = read(&root.join("crates"))
        .filter(|member| !member.ends_with("fuzz"))
        .flat_map(|member| [member.join("src"), member])
        .collect();
    folders.retain(|folder| folder.is_dir());
    while let Some(folder) = folders.pop() {
        for entry in read(&folder) {
            let is_member = folder.parent().is_some_and(|parent| parent.ends_with("crates"));
            if entry.is_dir() && !is_member {
                folders.push(entry);
            } else if entry.extension().is_some_and(|ending| ending == "rs") {
                out.push(entry);
            }
        }
    }
    out
}

fn read(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of sources");
    entries.map(|entry| entry.expect("readable").path())
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join("../..").canonicalize().expect("the repository")
}

/// All files but those that are compiled for tests only.
fn house() -> Vec<(String, Scan)> {
    let root = root();
    let mut files = Vec::new();
    for file in sources(&root) {
        let path = file.strip_prefix(&root).expect("inside").display().to_string();
        let text = fs::read_to_string(&file).expect("readable");
        let scan = scan(&path, &text);
        files.push((path, scan));
    }
    assert!(files.len() > 150, "the sources were found");
    without_tests(files)
}

fn without_tests(mut files: Vec<(String, Scan)>) -> Vec<(String, Scan)> {
    let modules: HashSet<String> = files.iter().flat_map(|(_, scan)| scan.modules.clone()).collect();
    let tests: Vec<String> = files
        .iter()
        .flat_map(|(_, scan)| scan.tests.clone())
        .filter(|test| !modules.contains(test))
        .collect();
    files.retain(|(path, _)| !tests.iter().any(|test| path.starts_with(test)));
    files
}

#[test]
fn the_house_is_tidy() {
    let mut found = Vec::new();
    for (path, scan) in house() {
        for seen in scan.seen {
            if let Some(why) = violation(&path, &seen.what) {
                found.push(format!("{path}:{}: {why}: {:?}", seen.line, seen.what));
            }
        }
    }
    found.sort();
    found.dedup();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_exception_is_needed() {
    let mut needed = HashSet::new();
    for (path, scan) in house() {
        let module = module_of(&path);
        let whats = scan.seen.iter().map(|seen| &seen.what);
        needed.extend(
            whats
                .filter(|what| arrow(&path, &module, what).is_some())
                .filter_map(|what| excuse(&path, what)),
        );
    }
    for (n, exception) in EXCEPTIONS.iter().enumerate() {
        for (at, to) in exception.paths.iter().enumerate() {
            let (file, why) = (exception.file, exception.why);
            assert!(
                needed.contains(&(n, at)),
                "{file} does not reach {to} any more ({why}): strike it out"
            );
        }
    }
}

/// Whatever else the disk crate would depend on might read and write by itself.
#[test]
fn the_disk_crate_depends_on_nothing_else() {
    let text = fs::read_to_string(root().join("crates/disk/Cargo.toml")).expect("readable");
    assert_eq!(dependencies(&text), DISK_NEEDS);
    let planted = text.replace("[dependencies]", "[dependencies]\nrustix.workspace = true");
    assert_ne!(dependencies(&planted), DISK_NEEDS);
}

const DISK_NEEDS: [&str; 6] = ["bzip2", "crc32fast", "flate2", "liblzma", "thiserror", "zstd"];

fn dependencies(manifest: &str) -> Vec<String> {
    let manifest: toml::Table = manifest.parse().expect("TOML");
    let mut names: Vec<String> = manifest["dependencies"]
        .as_table()
        .expect("a table")
        .keys()
        .cloned()
        .collect();
    names.sort();
    names
}

#[test]
fn each_rule_catches_a_planted_violation() {
    let mut unlike = Vec::new();
    for (path, source, wanted) in planted::wrong() {
        let found = reasons(path, source);
        if !found.iter().any(|why| why.contains(wanted)) {
            unlike.push(format!(
                "{path}: {source}\n  wanted: {wanted}\n  found: {found:?}"
            ));
        }
    }
    for (path, source) in planted::FINE {
        let found = reasons(path, source);
        if !found.is_empty() {
            unlike.push(format!("{path}: {source}\n  is fine\n  found: {found:?}"));
        }
    }
    assert!(unlike.is_empty(), "\n{}", unlike.join("\n"));
}

fn reasons(path: &str, source: &str) -> Vec<String> {
    let seen = scan(path, source).seen;
    seen.iter()
        .filter_map(|seen| violation(path, &seen.what))
        .collect()
}

/// By what declares it, not by its name.
#[test]
fn only_what_is_compiled_for_tests_alone_is_left_out() {
    let files = [
        (
            "crates/store/src/lib.rs",
            "#[cfg(test)]\nmod a;\n#[cfg(test)]\nmod b;\n#[cfg(not(test))]\nmod b;\nmod c_tests;",
        ),
        ("crates/store/src/a.rs", ""),
        ("crates/store/src/a/deeper.rs", ""),
        (
            "crates/store/src/b.rs",
            "#[cfg(test)]\n#[path = \"b_tests.rs\"]\nmod tests;",
        ),
        ("crates/store/src/b_tests.rs", ""),
        ("crates/store/src/c_tests.rs", ""),
    ];
    let files = files.map(|(path, text)| (path.to_owned(), scan(path, text)));
    let left: Vec<String> = without_tests(files.into())
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    assert_eq!(
        left,
        ["lib.rs", "b.rs", "c_tests.rs"].map(|name| format!("crates/store/src/{name}"))
    );
}
