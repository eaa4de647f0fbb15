//! What every black-box test stands on: a server of its own, a client, disks, and a file server to fetch them from.

pub(crate) mod api;
pub(crate) mod disks;
pub(crate) mod files;
pub(crate) mod gate;
pub(crate) mod images;
pub(crate) mod netns;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod small;
pub(crate) mod world;

pub(crate) use server::Server;

/// Polls until `done` gives something, or fails after `seconds` naming what was waited for.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    seconds: u64,
    mut done: impl FnMut() -> F,
) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        if let Some(value) = done().await {
            return value;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "waited {seconds} s in vain for {what}"
        );
        pace.tick().await;
    }
}

/// Flips a bit in the middle of the largest file below a folder: of objects, a pack.
pub(crate) fn largest_spoil(dir: &std::path::Path) {
    let files = files_below(dir);
    let largest = files
        .iter()
        .max_by_key(|path| path.metadata().expect("is there").len())
        .expect("a file");
    let mut bytes = std::fs::read(largest).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(largest, bytes).expect("writes");
}

/// Every file below a folder.
pub(crate) fn files_below(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
