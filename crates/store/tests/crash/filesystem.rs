//! What of a file system survives a power loss, as little as POSIX lets one hope for.
//!
//! - What was written to a file, and its size, are certain after `fsync` of that file. Until then each write may be
//!   there or not, whatever came later, or be there in part, in sectors of 512 bytes; the size may have grown without
//!   the data.
//! - That a name is, or is not any more, in a folder is certain after `fsync` of that folder. A rename is two such
//!   changes. Until then different names come and go in any order; one name is as any of its changes left it.
//! - `fsync` covers what had ended when it began, and nothing else: not the name of a new file, not what is below a
//!   folder.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::content::{Content, draw};
use crate::events::{Change, Event, Node, is_memory};

const SECTOR: usize = 512;

#[derive(Debug)]
enum Data {
    Write(usize, Arc<[u8]>),
    Size(usize),
}

/// A file: what is certain, and what is not, each with the number of its event.
#[derive(Debug)]
struct File {
    certain: Arc<Content>,
    pending: Vec<(usize, Data)>,
    /// As its owner sees it.
    size: usize,
}

/// A name in a folder: what is certain, and what is not.
#[derive(Debug, Default)]
struct Name {
    certain: Option<Node>,
    pending: Vec<(usize, Option<Node>)>,
}

/// The file system at some moment.
#[derive(Debug, Default)]
pub(crate) struct FileSystem {
    files: HashMap<Node, File>,
    folders: BTreeMap<Node, BTreeMap<String, Name>>,
    done: usize,
}

/// A change that is not certain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doubt {
    /// Its number among those of the moment.
    pub(crate) number: u64,
    /// The event that it comes from.
    pub(crate) event: usize,
    /// Whether it may be there in part.
    pub(crate) tears: bool,
}

/// What becomes of one change that is not certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Kept,
    Lost,
    /// Some sectors of it are there: which, says the number.
    Torn(u64),
}

/// What is found after a power loss: folders, and files with their contents.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) files: Vec<(PathBuf, Arc<Content>)>,
}

impl State {
    pub(crate) fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for folder in &self.folders {
            hasher.update(folder.to_string_lossy().as_bytes()).update(b"/\n");
        }
        for (path, content) in &self.files {
            hasher.update(path.to_string_lossy().as_bytes()).update(b"\n");
            hasher.update(content.hash.as_bytes());
        }
        hasher.finalize()
    }
}

impl FileSystem {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        Self {
            folders: BTreeMap::from([(0, BTreeMap::new())]),
            ..Self::default()
        }
    }

    pub(crate) fn apply(&mut self, event: &Event, is_folder: impl Fn(Node) -> bool) {
        let at = self.done;
        self.done += 1;
        match &event.change {
            Change::Link((folder, name), node) => {
                if is_folder(*node) {
                    self.folders.entry(*node).or_default();
                } else {
                    self.files.entry(*node).or_insert_with(File::empty);
                }
                self.name(*folder, name).pending.push((at, Some(*node)));
            }
            Change::Unlink((folder, name)) => self.name(*folder, name).pending.push((at, None)),
            Change::Rename(from, to, node) => {
                self.name(from.0, &from.1).pending.push((at, None));
                self.name(to.0, &to.1).pending.push((at, Some(*node)));
            }
            Change::Write(node, place, data) => self.file(*node).write(at, *place, data),
            Change::Resize(node, size) => {
                let file = self.file(*node);
                file.size = *size;
                file.pending.push((at, Data::Size(*size)));
            }
            Change::Sync(node) if is_folder(*node) => {
                for name in self.folders.get_mut(node).expect("a folder").values_mut() {
                    let covered = name.pending.partition_point(|(at, _)| *at < event.covers);
                    if let Some((_, last)) = name.pending.drain(..covered).next_back() {
                        name.certain = last;
                    }
                }
            }
            Change::Sync(node) => self.file(*node).sync(event.covers),
            Change::Say(_) => {}
        }
    }

    fn file(&mut self, node: Node) -> &mut File {
        self.files.get_mut(&node).expect("a file")
    }

    fn name(&mut self, folder: Node, name: &str) -> &mut Name {
        let names = self.folders.get_mut(&folder).expect("a folder");
        names.entry(name.to_owned()).or_default()
    }

    /// How many events there were.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// The state in which each change that is not certain has the fate that it is given.
    pub(crate) fn state(&self, mut fate: impl FnMut(Doubt) -> Fate) -> State {
        let mut number = 0;
        let mut next = |event: usize, tears: bool| {
            number += 1;
            fate(Doubt {
                number: number - 1,
                event,
                tears,
            })
        };
        let mut found: HashMap<Node, Vec<(&str, Node)>> = HashMap::new();
        for (folder, names) in &self.folders {
            let of_it = found.entry(*folder).or_default();
            for (name, of) in names {
                let mut node = of.certain;
                for (event, changed) in &of.pending {
                    if next(*event, false) != Fate::Lost {
                        node = *changed;
                    }
                }
                of_it.extend(node.map(|node| (name.as_str(), node)));
            }
        }
        let (mut state, mut walk) = (State::default(), vec![(PathBuf::new(), 0)]);
        while let Some((path, folder)) = walk.pop() {
            for (name, node) in &found[&folder] {
                let path = path.join(name);
                if self.folders.contains_key(node) {
                    walk.push((path, *node));
                } else if !is_memory(&path) {
                    let content = self.files[node].content(&mut next);
                    state.files.push((path, content));
                }
            }
            if path != Path::new("") {
                state.folders.push(path);
            }
        }
        state.folders.sort();
        state.files.sort_by(|one, two| one.0.cmp(&two.0));
        state
    }
}

impl File {
    fn empty() -> Self {
        Self {
            certain: Content::new(Vec::new()),
            pending: Vec::new(),
            size: 0,
        }
    }

    fn write(&mut self, at: usize, place: usize, data: &Arc<[u8]>) {
        self.pending.push((at, Data::Write(place, Arc::clone(data))));
        let end = place + data.len();
        if end > self.size {
            self.size = end;
            self.pending.push((at, Data::Size(end)));
        }
    }

    fn sync(&mut self, covers: usize) {
        let covered = self.pending.partition_point(|(at, _)| *at < covers);
        if covered > 0 {
            let changes: Vec<_> = self.pending.drain(..covered).collect();
            self.certain = applied(&self.certain, &changes, &mut |_, _| Fate::Kept);
        }
    }

    fn content(&self, fate: &mut impl FnMut(usize, bool) -> Fate) -> Arc<Content> {
        if self.pending.is_empty() {
            return Arc::clone(&self.certain);
        }
        applied(&self.certain, &self.pending, fate)
    }
}

fn applied(
    certain: &Content,
    changes: &[(usize, Data)],
    fate: &mut impl FnMut(usize, bool) -> Fate,
) -> Arc<Content> {
    let (mut bytes, mut size) = (certain.bytes.clone(), certain.bytes.len());
    for (event, change) in changes {
        match change {
            Data::Write(place, data) => {
                if bytes.len() < place + data.len() {
                    bytes.resize(place + data.len(), 0);
                }
                match fate(*event, true) {
                    Fate::Lost => {}
                    Fate::Kept => bytes[*place..][..data.len()].copy_from_slice(data),
                    Fate::Torn(seed) => tear(&mut bytes, *place, data, seed),
                }
            }
            Data::Size(new) => {
                if fate(*event, false) != Fate::Lost {
                    size = *new;
                    if bytes.len() > size {
                        bytes.truncate(size);
                    }
                }
            }
        }
    }
    bytes.resize(size, 0);
    Content::new(bytes)
}

/// Writes some sectors only: the first ones, or any.
fn tear(bytes: &mut [u8], place: usize, data: &[u8], seed: u64) {
    let sectors = (place + data.len()).div_ceil(SECTOR) - place / SECTOR;
    let cut = usize::try_from(draw(&[seed]) % sectors.max(1) as u64).expect("fits");
    for (n, at) in data.iter().enumerate() {
        let sector = (place + n) / SECTOR - place / SECTOR;
        let is_there = if seed.is_multiple_of(2) {
            sector < cut
        } else {
            (seed >> (sector % 61 + 1)) & 1 == 1
        };
        if is_there {
            bytes[place + n] = *at;
        }
    }
}
