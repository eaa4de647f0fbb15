//! What a server does by itself so that the store alone stays enough: a header that is missing or damaged is written anew.

use crate::app::App;
use crate::platform::error::Result;

/// Sees to it that the store's header is there twice. That it cannot be done now holds nobody up: there is another time.
pub async fn headers_mend(app: &App) {
    if app.db.refusal().is_some() {
        return;
    }
    match headers_mend_alone(app).await {
        Ok(true) => tracing::info!("a copy of the store's header was written"),
        Ok(false) => {}
        Err(error) => tracing::error!(
            error = error.chain(),
            "the store's header could not be written a second time"
        ),
    }
}

/// One server at a time: the others find it done. And beside no change of keys.
async fn headers_mend_alone(app: &App) -> Result<bool> {
    let _alone = app.keys_alone().await?;
    Ok(app.store.headers_mend().await?)
}
