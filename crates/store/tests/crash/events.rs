//! From calls to what they change: operations on files and folders, in the order in which they had happened.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::trace::Call;

/// A file or folder, whatever its name is at the time. 0 is the folder that everything is in.
pub(crate) type Node = usize;

/// A name in a folder.
pub(crate) type Place = (Node, String);

#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// A name for a file or folder; the new ones are empty.
    Link(Place, Node),
    Unlink(Place),
    Rename(Place, Place, Node),
    Write(Node, usize, Arc<[u8]>),
    Resize(Node, usize),
    Sync(Node),
    /// The traced process has said something.
    Say(String),
}

#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) change: Change,
    /// How many of the events before it had ended when it began: no more are covered by a sync.
    pub(crate) covers: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct NodeInfo {
    /// Its first name, below the folder that everything is in.
    pub(crate) path: PathBuf,
    pub(crate) is_folder: bool,
}

/// What a process did to a folder that was empty.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) events: Vec<Event>,
    pub(crate) nodes: Vec<NodeInfo>,
}

impl History {
    /// `voice` is the file in which the process says what it has done.
    pub(crate) fn of(calls: Vec<Call>, root: &Path, voice: &Path) -> Self {
        let mut reading = Reading::new(root, voice);
        let mut calls = calls;
        // A descriptor can be given to another as soon as it is being closed.
        calls.sort_by_key(|call| {
            if call.name == "close" {
                call.start
            } else {
                call.end
            }
        });
        for call in &calls {
            reading.call(call);
        }
        let mut timed = reading.timed;
        // What is said counts from when it is being said.
        timed.sort_by_key(|(change, start, end)| {
            if matches!(change, Change::Say(_)) {
                *start
            } else {
                *end
            }
        });
        let ends: Vec<_> = timed.iter().map(|(_, _, end)| *end).collect();
        let events = timed
            .into_iter()
            .enumerate()
            .map(|(n, (change, start, _))| Event {
                change,
                covers: ends[..n].iter().filter(|end| **end < start).count(),
            });
        Self {
            events: events.collect(),
            nodes: reading.nodes,
        }
    }

    pub(crate) fn path(&self, node: Node) -> &Path {
        &self.nodes[node].path
    }
}

/// What an open descriptor is of.
#[derive(Debug, Clone, Copy)]
enum Open {
    Node { node: Node, at: usize, appends: bool },
    Voice,
}

struct Reading {
    root: PathBuf,
    voice: PathBuf,
    open: HashMap<i64, Open>,
    names: HashMap<PathBuf, Node>,
    sizes: HashMap<Node, usize>,
    nodes: Vec<NodeInfo>,
    timed: Vec<(Change, usize, usize)>,
}

impl Reading {
    fn new(root: &Path, voice: &Path) -> Self {
        let info = NodeInfo {
            path: PathBuf::new(),
            is_folder: true,
        };
        Self {
            root: root.to_owned(),
            voice: voice.to_owned(),
            open: HashMap::new(),
            names: HashMap::from([(PathBuf::new(), 0)]),
            sizes: HashMap::new(),
            nodes: vec![info],
            timed: Vec::new(),
        }
    }

    fn call(&mut self, call: &Call) {
        match call.name.as_str() {
            "openat" | "openat2" => self.opened(call, &self.path_at(call, 1), &call.args[2]),
            "open" => self.opened(call, &call.path(0), &call.args[1]),
            "close" => drop(self.open.remove(&call.number(0))),
            "mkdir" => self.folder_made(call, &call.path(0)),
            "mkdirat" => self.folder_made(call, &self.path_at(call, 1)),
            "write" | "pwrite64" => self.written(call),
            "ftruncate" => self.resized(call),
            "fsync" | "fdatasync" => self.synced(call),
            "rename" => self.renamed(call, &call.path(0), &call.path(1)),
            "renameat" | "renameat2" => self.renamed(call, &self.path_at(call, 1), &self.path_at(call, 3)),
            "unlink" => self.unlinked(call, &call.path(0)),
            "unlinkat" if call.args[2] == "0" => self.unlinked(call, &self.path_at(call, 1)),
            "mmap" => self.mapped(call),
            // Changes no file's content and no name.
            "fchmod" | "fchown" | "flock" | "pipe2" | "socket" | "connect" | "setsockopt" | "getsockopt" => {}
            "fcntl" => {
                let is_copy = call.args[1].contains("DUP") && self.open.contains_key(&call.number(0));
                assert!(!is_copy, "a descriptor is copied: {call:.300?}");
            }
            "ioctl" | "dup" | "dup2" | "dup3" | "sync_file_range" => {
                let is_ours = self.open.contains_key(&call.number(0));
                assert!(!is_ours, "a call that is not known: {call:.300?}");
            }
            _ => panic!("a call that is not known: {call:.300?}"),
        }
    }

    /// The path in argument `n`, which may begin at the folder whose descriptor is the argument before. No folder is
    /// renamed, so that its first name is its name.
    fn path_at(&self, call: &Call, n: usize) -> PathBuf {
        let path = call.path(n);
        let descriptor = call.args[n - 1].parse().ok();
        match descriptor.and_then(|descriptor: i64| self.open.get(&descriptor)) {
            Some(Open::Node { node, .. }) => self.root.join(&self.nodes[*node].path).join(path),
            _ => path,
        }
    }

    /// The path below the folder that everything is in, if it is there.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        assert!(path.is_absolute(), "{} is not absolute", path.display());
        path.strip_prefix(&self.root).ok().map(Path::to_owned)
    }

    fn place(&self, path: &Path) -> Place {
        let folder = path.parent().expect("not the root itself");
        let name = path.file_name().expect("has a name");
        let node = self.names.get(folder).expect("the folder is known");
        (*node, name.to_str().expect("UTF-8").to_owned())
    }

    fn did(&mut self, call: &Call, change: Change) {
        self.timed.push((change, call.start, call.end));
    }

    fn made(&mut self, call: &Call, path: PathBuf, is_folder: bool) -> Node {
        let node = self.nodes.len();
        let place = self.place(&path);
        self.nodes.push(NodeInfo {
            path: path.clone(),
            is_folder,
        });
        self.names.insert(path, node);
        self.did(call, Change::Link(place, node));
        node
    }

    fn folder_made(&mut self, call: &Call, path: &Path) {
        if let Some(path) = self.inside(path) {
            self.made(call, path, true);
        }
    }

    fn opened(&mut self, call: &Call, path: &Path, flags: &str) {
        if path == self.voice {
            self.open.insert(call.result, Open::Voice);
            return;
        }
        if !path.is_absolute() {
            return;
        }
        let Some(path) = self.inside(path) else { return };
        assert!(!flags.contains("O_TMPFILE"), "files without a name are not known");
        let known = self.names.get(&path).copied();
        let node = match known {
            Some(node) => node,
            None if flags.contains("O_CREAT") => self.made(call, path, false),
            None => panic!("a file that nobody made: {call:.300?}"),
        };
        if flags.contains("O_TRUNC") && known.is_some() {
            self.sizes.insert(node, 0);
            self.did(call, Change::Resize(node, 0));
        }
        let appends = flags.contains("O_APPEND");
        self.open.insert(call.result, Open::Node { node, at: 0, appends });
    }

    fn written(&mut self, call: &Call) {
        let Some(open) = self.open.get(&call.number(0)).copied() else {
            return;
        };
        let mut data = call.bytes(1);
        data.truncate(usize::try_from(call.result).expect("no error"));
        let (node, at) = match open {
            Open::Voice => {
                let words = String::from_utf8(data).expect("UTF-8");
                return self.did(call, Change::Say(words.trim_end().to_owned()));
            }
            Open::Node { node, .. } if call.name == "pwrite64" => (node, index(call.number(3))),
            Open::Node {
                node, appends: true, ..
            } => (node, self.sizes.get(&node).copied().unwrap_or(0)),
            Open::Node { node, at, .. } => (node, at),
        };
        let end = at + data.len();
        if call.name == "write"
            && let Some(Open::Node { at, .. }) = self.open.get_mut(&call.number(0))
        {
            *at = end;
        }
        let size = self.sizes.entry(node).or_default();
        *size = end.max(*size);
        self.did(call, Change::Write(node, at, data.into()));
    }

    fn resized(&mut self, call: &Call) {
        if let Some(Open::Node { node, .. }) = self.open.get(&call.number(0)).copied() {
            let size = index(call.number(1));
            self.sizes.insert(node, size);
            self.did(call, Change::Resize(node, size));
        }
    }

    fn synced(&mut self, call: &Call) {
        if let Some(Open::Node { node, .. }) = self.open.get(&call.number(0)).copied() {
            self.did(call, Change::Sync(node));
        }
    }

    fn renamed(&mut self, call: &Call, from: &Path, to: &Path) {
        let (from, to) = (self.inside(from), self.inside(to));
        let (from, to) = match (from, to) {
            (Some(from), Some(to)) => (from, to),
            (None, None) => return,
            _ => panic!("a rename over the border: {call:.300?}"),
        };
        let places = (self.place(&from), self.place(&to));
        let node = self.names.remove(&from).expect("is there");
        assert!(!self.nodes[node].is_folder, "a folder is renamed");
        self.names.insert(to, node);
        self.did(call, Change::Rename(places.0, places.1, node));
    }

    fn unlinked(&mut self, call: &Call, path: &Path) {
        if let Some(path) = self.inside(path) {
            let place = self.place(&path);
            self.names.remove(&path).expect("is there");
            self.did(call, Change::Unlink(place));
        }
    }

    /// What is written through memory is not seen here: only SQLite's shared memory may be, which a start makes anew.
    fn mapped(&mut self, call: &Call) {
        let Some(Open::Node { node, .. }) = self.open.get(&call.number(4)).copied() else {
            return;
        };
        let writes = call.args[2].contains("PROT_WRITE") && call.args[3].contains("MAP_SHARED");
        assert!(
            !writes || is_memory(&self.nodes[node].path),
            "written through memory: {call:.300?}"
        );
    }
}

fn index(number: i64) -> usize {
    usize::try_from(number).expect("no negative place")
}

/// SQLite's shared memory: no data, and no part of a state.
pub(crate) fn is_memory(path: &Path) -> bool {
    path.to_string_lossy().ends_with("-shm")
}
