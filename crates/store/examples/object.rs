//! Puts a file into an installation's store as a whole object of the root `blob` / OWNER, as the registry does:
//! `cargo run -p cistern-store --example object -- DATABASE-URL OBJECTS FILE OWNER [KEY-FILE]`.
//! `scripts/fixture.sh` makes stores with both kinds of content by it.

mod common;

use common::{Failure, begin};
use sea_orm::{ConnectOptions, Database};
use sha2::Digest as _;
use store::{Algorithm, KeyKind, Options, Settings, Store, WrappingKey, backend_open};

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [database, objects, file, owner, ..] = args.as_slice() else {
        return Err("usage: object DATABASE-URL OBJECTS FILE OWNER [KEY-FILE]".into());
    };
    let mut options = ConnectOptions::new(database);
    options.sqlx_logging(false);
    let db = Database::connect(options).await?;
    let store = Store::open(
        backend_open(objects, &Settings::new())?,
        &db,
        options_of(args.get(4))?,
    )
    .await?;

    let data = std::fs::read(file)?;
    let name = format!("sha256:{}", hex::encode(sha2::Sha256::digest(&data)));
    let session = store.session_open("example").await?;
    let mut ingest = session.object_begin(Algorithm::Sha256);
    ingest.write(data.into()).await?;
    let object = ingest.finish(&name.parse()?).await?;
    let tx = begin(&db).await?;
    session
        .commit_objects_in_tx(&tx, &[("blob", owner, object)])
        .await?;
    tx.commit().await?;
    println!("{name}");
    Ok(())
}

fn options_of(key_file: Option<&String>) -> Result<Options, Failure> {
    let Some(path) = key_file else {
        return Ok(Options::default());
    };
    let key = WrappingKey::new(
        KeyKind::KeyFile,
        std::fs::read_to_string(path)?.trim_end().as_bytes(),
    )?;
    Ok(Options {
        key: Some(key),
        ..Options::default()
    })
}
