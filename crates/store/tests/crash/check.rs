//! Whether a store is as it should be: what was promised is there, nothing is damaged, nothing is left after a
//! clean-up, and it goes on.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt as _;
use store::{Settings, VerifyProgress, backend_open};

use crate::filesystem::State;
use crate::place::{Clock, OBJECTS, Place, START_US};
use crate::promises::Promises;

/// Writes a state to a folder.
pub(crate) fn lay_out(state: &State, folder: &Path) {
    for path in &state.folders {
        std::fs::create_dir_all(folder.join(path)).expect("is made");
    }
    for (path, content) in &state.files {
        let path = folder.join(path);
        std::fs::write(&path, &content.bytes).expect("is written");
        if path.parent().is_some_and(|parent| parent.ends_with("tmp")) {
            // So old that a start may clear it.
            let file = File::options().write(true).open(&path).expect("is there");
            let old = SystemTime::now() - Duration::from_hours(48);
            file.set_modified(old).expect("may be changed");
        }
    }
}

/// Opens what is in the folder as a start does, and looks at everything.
pub(crate) async fn check(folder: &Path, mut promises: Promises) -> Result<(), String> {
    let clock = Clock::at(START_US + 3_600_000_000);
    let place = Place::open(folder, 2, clock)
        .await
        .map_err(|error| format!("does not open: {error:?}"))?;
    // A server does that before it serves.
    let mended = place.store.headers_mend().await;
    mended.map_err(|error| format!("its header is not mended: {error:?}"))?;
    promises.keep(&place).await?;
    whole(&place).await?;
    clean(&place, folder).await?;
    place
        .disk_import("new", "2,4,0,101,9001,9002", None)
        .await
        .map_err(|error| format!("an import fails: {error:?}"))?;
    place
        .object_put("new", "5000:9003")
        .await
        .map_err(|error| format!("an object is refused: {error:?}"))?;
    promises.line("begin disk new 2,4,0,101,9001,9002");
    promises.line("done disk new 2,4,0,101,9001,9002");
    promises.line("begin object new 5000:9003");
    promises.line("done object new 5000:9003");
    promises.keep(&place).await?;
    let closed = place.close().await;
    closed.map_err(|error| format!("does not close: {error:?}"))
}

async fn whole(place: &Place) -> Result<(), String> {
    let found = place.store.verify(true, &VerifyProgress::default()).await;
    match found {
        Ok(damage) if damage.is_empty() => Ok(()),
        Ok(damage) => Err(format!("damaged: {damage:?}")),
        Err(error) => Err(format!("a verification fails: {error:?}")),
    }
}

/// After the waiting times two runs leave what rows name and nothing else.
async fn clean(place: &Place, folder: &Path) -> Result<(), String> {
    let failed = |error| format!("a clean-up fails: {error:?}");
    for hours in [1, 25] {
        place.clock.advance(Duration::from_hours(hours));
        place.store.sessions_expire().await.map_err(failed)?;
        let report = place.gc().await.map_err(failed)?;
        if report.taken_back > 0 {
            return Err(format!("gc condemned what is needed: {report:?}"));
        }
    }
    let backend = backend_open(&folder.join(OBJECTS).to_string_lossy(), &Settings::new()).map_err(failed)?;
    let listed: Vec<_> = backend.list("").try_collect().await.map_err(failed)?;
    let (stored, others): (Vec<_>, Vec<_>) = listed
        .into_iter()
        .partition(|item| item.key.starts_with("p/") || item.key.starts_with("b/"));
    let stats = place.store.stats().await.map_err(failed)?;
    let bytes: u64 = stored.iter().map(|item| item.bytes).sum();
    let is_known = stored.len() as u64 == stats.packs + stats.objects && bytes == stats.stored_bytes;
    if !is_known || stats.open_sessions > 0 || others.iter().any(|item| !item.key.starts_with("h/")) {
        return Err(format!("something is left: {stored:?} {others:?} {stats:?}"));
    }
    let temporary = std::fs::read_dir(folder.join(OBJECTS).join("tmp")).expect("is there");
    match temporary.count() {
        0 => Ok(()),
        files => Err(format!("{files} temporary files are left")),
    }
}
