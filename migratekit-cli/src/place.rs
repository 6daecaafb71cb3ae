//! The catalog and its key, as the options name them, opened for a verb.
//!
//! No service watches over an embedded catalog, so every verb first recovers the jobs of processes that ended without a word, and says so.

use migratekit_core::Result;
use migratekit_core::credentials::KeyPlace;
use migratekit_core::engine::{Engine, Orphans, Recovered, default_store_url, make_default_place};
use migratekit_core::store::{Store, StoreOptions};

use crate::args::{Global, PlaceArgs};
use crate::log;

/// The engine of a verb, after the recovery of what others left; what that found is told on stderr.
pub(crate) async fn open(global: &Global, args: &PlaceArgs) -> Result<Engine> {
    let place = KeyPlace::find(args.key_file.as_deref())?;
    let mut builder = Engine::builder().store(store(args, options(args)).await?).key(place).orphans(Orphans::LayDown);
    if let Some(writer) = log::writer() {
        builder = builder.log(writer);
    }
    let engine = builder.build().await?;
    tell(global, engine.recover().await?.as_ref());
    Ok(engine)
}

/// Says what a recovery found.
pub(crate) fn tell(global: &Global, recovered: Option<&Recovered>) {
    if let Some(found) = recovered.filter(|_| !global.quiet) {
        eprintln!("recovered: {found}");
    }
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
    Store::open(&url, options).await
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
