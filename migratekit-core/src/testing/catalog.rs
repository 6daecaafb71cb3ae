//! Catalogs for tests: the same body on SQLite and on MariaDB.

use std::future::Future;

use super::mariadb::MariaDb;
use crate::error::Result;
use crate::store::{Store, StoreOptions};

/// Runs `body` on a fresh catalog in a SQLite file.
///
/// # Panics
/// When the catalog cannot be opened, or the body panics.
#[allow(clippy::expect_used)]
pub fn on_sqlite<Fut: Future<Output = ()>>(body: impl FnOnce(Store) -> Fut) {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("catalog.db").display());
    runtime().block_on(async {
        let store = Store::open(&url, StoreOptions::new()).await.expect("open a SQLite catalog");
        body(store.clone()).await;
        store.close().await;
    });
}

/// Runs `body` on a fresh catalog in a MariaDB of its own.
///
/// # Panics
/// When the server or the catalog cannot be opened, or the body panics.
pub fn on_mariadb<Fut: Future<Output = ()>>(body: impl FnOnce(Store) -> Fut) {
    on_server(&MariaDb::start(), "catalog", body);
}

/// Runs `body` on a fresh catalog of this name in a running server.
///
/// # Panics
/// When the catalog cannot be opened, or the body panics.
#[allow(clippy::expect_used)]
pub fn on_server<Fut: Future<Output = ()>>(server: &MariaDb, database: &str, body: impl FnOnce(Store) -> Fut) {
    server.create_database(database);
    runtime().block_on(async {
        let store = Store::open(&server.url(database), StoreOptions::new()).await.expect("open a MariaDB catalog");
        body(store.clone()).await;
        store.close().await;
    });
}

/// A runtime with two threads, so that what must be `Send` is moved between them.
#[allow(clippy::expect_used)]
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Runs SQL of a test on a catalog, with one text column `value` as its answer: for what no repository tells.
pub async fn ask(store: &Store, sql: &str) -> Result<Vec<Option<String>>> {
    let sql = &sql.to_owned();
    store.read("ask for a test", |tx| async move { tx.sql("ask for a test", sql.clone()).all(|row| row.text_or_none("value")).await }).await
}

/// Runs SQL of a test that changes the catalog; tells how many rows it matched.
pub async fn change(store: &Store, sql: &str) -> Result<u64> {
    let sql = &sql.to_owned();
    store.write("change for a test", |tx| async move { tx.sql("change for a test", sql.clone()).run().await }).await
}

/// Lets the file of a SQLite catalog grow by at most `pages` pages more on its writing connection: a disk that is full.
///
/// # Panics
/// When it is no SQLite catalog.
#[allow(clippy::expect_used)]
pub async fn limit_pages(store: &Store, pages: u32) {
    let count = ask(store, "SELECT CAST(page_count AS TEXT) AS value FROM pragma_page_count").await.expect("a SQLite catalog");
    let count: u32 = count.into_iter().flatten().next().and_then(|count| count.parse().ok()).expect("a number of pages");
    let limit = &format!("PRAGMA max_page_count = {}", count + pages);
    let limited = store.write("limit a test's file", |tx| async move { tx.sql("limit a test's file", limit.clone()).run().await }).await;
    limited.expect("limit the file");
}

/// Makes tests of async functions that take a [`Store`]: each runs on SQLite as a test of its own, and all of them on MariaDB in one
/// test, with one server and a database for each.
///
/// `on_both_catalogs! { a_thing_is_kept, another_thing }`
#[macro_export]
macro_rules! on_both_catalogs {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[test]
                fn $name() {
                    $crate::testing::catalog::on_sqlite(super::$name);
                }
            )*
        }

        #[test]
        fn mariadb() {
            let server = $crate::testing::mariadb::MariaDb::start();
            $(
                println!("on MariaDB: {}", stringify!($name));
                $crate::testing::catalog::on_server(&server, stringify!($name), $name);
            )*
        }
    };
}
