//! What a server does by itself so that the store alone stays enough: a header that is missing or damaged is written
//! anew, and where the catalogue journal is, a new generation of it begins.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use store::{Damage, VerifyProgress};

use super::service::verify_enqueue;
use crate::app::App;
use crate::platform::error::Result;
use crate::platform::events::Who;
use crate::platform::journal;

/// How often headers and journal are read.
const EVERY: Duration = Duration::from_hours(24);

/// When this server has last read headers and journal, in microseconds since 1970.
#[derive(Debug, Default)]
pub struct Looked(AtomicI64);

/// Looks for damage, in the store and in what the database knows of its journal. Nothing is mended.
pub async fn store_verify(app: &App, read_data: bool, progress: &VerifyProgress) -> Result<Vec<Damage>> {
    let found = app.store.verify(read_data, progress).await?;
    with_newest(app, found).await
}

/// Adds what is wrong with the newest object of the journal, which only the database knows.
async fn with_newest(app: &App, mut found: Vec<Damage>) -> Result<Vec<Damage>> {
    let newest = journal::newest_fault(&app.db, &app.store.journal()).await?;
    found.extend(newest.filter(|newest| found.iter().all(|known| known.owner != newest.owner)));
    Ok(found)
}

/// Reads headers and journal where that was not done for a day, and mends them. They are small beside what the scrub
/// reads, and the job of that comes only when something else is due. Where the journal lacks something, so may
/// everything else: the store may be an older copy, put back under its newest database. What is not there is then
/// looked for in all of it.
pub async fn look_due(app: &App) -> Result<()> {
    let now_us = app.clock.now().timestamp_micros();
    let every_us = i64::try_from(EVERY.as_micros()).unwrap_or(i64::MAX);
    if app.config.scrub.every_days == 0 || now_us - app.looked.0.load(Relaxed) < every_us {
        return Ok(());
    }
    // Under a disk that went away everything is missing, and nothing is to be mended.
    app.store.there_check().await?;
    let found = app.store.alone_verify(true).await?;
    let found = with_newest(app, found).await?;
    // First, or what cannot be mended now is looked for in everything each time.
    mend(app, &found).await?;
    if found.iter().any(|damage| is_of_journal(&damage.owner)) {
        verify_enqueue(app, &Who::default(), false).await?;
    }
    app.looked.0.store(now_us, Relaxed);
    Ok(())
}

/// Writes anew what of headers and journal was found damaged or missing.
pub async fn mend(app: &App, found: &[Damage]) -> Result<()> {
    for damage in found.iter().filter(|damage| is_mended(&damage.owner)) {
        tracing::error!(reason = damage.reason, "the store is damaged: it is mended");
    }
    if found.iter().any(|damage| is_of_headers(&damage.owner)) {
        headers_mend(app).await;
    }
    if found.iter().any(|damage| is_of_journal(&damage.owner)) {
        journal::dump(app).await?;
    }
    Ok(())
}

fn is_of_headers(key: &str) -> bool {
    key.starts_with("h/")
}

fn is_of_journal(key: &str) -> bool {
    key.starts_with("j/")
}

/// Whether a server writes this object anew by itself.
pub fn is_mended(key: &str) -> bool {
    is_of_headers(key) || is_of_journal(key)
}

/// Writes the headers anew where all of them are lost or damaged: this process may be the last to know what they said.
pub async fn headers_lost_mend(app: &App) {
    use store::Kind::{HeadersDamaged, StoreAway};
    let found = app.store.header_check().await;
    let is_lost = matches!(&found, Err(error) if matches!(error.kind(), StoreAway | HeadersDamaged));
    if is_lost && app.store.there_check().await.is_ok() {
        headers_mend(app).await;
    }
}

/// Writes headers anew where they are lost or damaged, or one is there alone, and deletes older ones beside it: also
/// what a change of keys leaves that found no room, or was cut off.
pub async fn headers_left_mend(app: &App) {
    match app.store.headers_verify().await {
        Ok(found) if !found.is_empty() && app.store.there_check().await.is_ok() => headers_mend(app).await,
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "it is not known whether the store's header is there twice"),
    }
}

/// Sees to it that the store's header is there twice. That it cannot be done now holds nobody up: there is another
/// time.
pub async fn headers_mend(app: &App) {
    if app.db.refusal().is_some() {
        return;
    }
    match headers_mend_alone(app).await {
        Ok(true) => tracing::info!("a copy of the store's header was written"),
        Ok(false) => {}
        Err(error) => tracing::error!(
            error = error.chain(),
            "the store's header could not be written anew"
        ),
    }
}

/// One server at a time: the others find it done. And beside no change of keys, which may take its time.
async fn headers_mend_alone(app: &App) -> Result<bool> {
    let Some(_alone) = app.keys_alone_now().await? else {
        tracing::info!("the store's keys are being changed: its headers are looked after another time");
        return Ok(false);
    };
    Ok(app.store.headers_mend().await?)
}
