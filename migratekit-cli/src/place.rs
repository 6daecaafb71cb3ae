//! The catalog and its key, as the options name them, opened for a verb.
//!
//! No service watches over an embedded catalog, so every verb first recovers the jobs of processes that ended without a word, and says so.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use migratekit_core::credentials::KeyPlace;
use migratekit_core::engine::{Engine, Orphans, Recovered, default_store_url, make_default_place};
use migratekit_core::store::{Store, StoreOptions};
use migratekit_core::task::CancellationToken;
use migratekit_core::{Result, clock};

use crate::args::{Global, PlaceArgs};
use crate::log;
use crate::table::plain;

/// How long the end of the program waits for its catalogs to close.
const CLOSING: Duration = Duration::from_secs(5);

/// The catalogs that this program opened.
static OPENED: Mutex<Vec<Store>> = Mutex::new(Vec::new());

/// Closes what was opened, so that a SQLite catalog is whole in its one file. What takes longer is as after a crash: nothing is lost.
pub(crate) async fn close_all() {
    let opened = std::mem::take(&mut *OPENED.lock().unwrap_or_else(PoisonError::into_inner));
    let closing = async {
        for store in opened {
            store.close().await;
        }
    };
    if clock::within(CLOSING, closing).await.is_none() {
        tracing::debug!("a catalog was not closed in time");
    }
}

/// The engine of a verb, after the recovery of what others left; what that found is told on stderr.
///
/// # Errors
/// `Cancelled` when the program is asked to end meanwhile.
pub(crate) async fn open(global: &Global, args: &PlaceArgs, cancel: &CancellationToken) -> Result<Engine> {
    let place = KeyPlace::find(args.key_file.as_deref())?;
    let mut builder = Engine::builder().store(store(args, options(args)).await?).key(place).orphans(Orphans::LayDown);
    if let Some(writer) = log::writer() {
        builder = builder.log(writer);
    }
    let engine = builder.build().await?;
    tell(global, &engine, engine.recover(cancel).await?.as_ref()).await?;
    Ok(engine)
}

/// Says what a recovery found, and what it left.
pub(crate) async fn tell(global: &Global, engine: &Engine, recovered: Option<&Recovered>) -> Result<()> {
    let Some(found) = recovered.filter(|_| !global.quiet) else { return Ok(()) };
    eprintln!("recovered: {found}");
    for vm in engine.unfinished_vms().await? {
        let vm = plain(&vm);
        eprintln!("not finished: the replication of {vm}, which takes longer; `migratekit replicate resume {vm}` goes on with it");
    }
    Ok(())
}

/// The engine of a catalog whose key is lost, with the key at hand in its place.
pub(crate) async fn open_with_lost_key(args: &PlaceArgs) -> Result<Engine> {
    let place = KeyPlace::find(args.key_file.as_deref())?;
    Engine::builder().store(store(args, options(args)).await?).replace_lost_key(place).build().await
}

/// The catalog alone.
pub(crate) async fn store(args: &PlaceArgs, options: StoreOptions) -> Result<Store> {
    let url = match &args.store {
        Some(url) => url.clone(),
        None => make_default_place().await?,
    };
    let store = Store::open(&url, options).await?;
    OPENED.lock().unwrap_or_else(PoisonError::into_inner).push(store.clone());
    Ok(store)
}

/// Where the catalog is, without making anything.
pub(crate) fn url(args: &PlaceArgs) -> Result<String> {
    args.store.clone().map_or_else(default_store_url, Ok)
}

/// How it is opened.
pub(crate) fn options(args: &PlaceArgs) -> StoreOptions {
    match &args.store_password_file {
        Some(path) => StoreOptions::new().password_file(path),
        None => StoreOptions::new(),
    }
}
