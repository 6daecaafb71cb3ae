//! MigrateKit: moves virtual machines from VMware vSphere to Apache CloudStack while they run, and proves that nothing was lost.
//!
//! Today it moves disks. All the command line does is a call into this library. Here a disk is served as an NBD export that keeps
//! a ledger, another is copied into it, and both are proven equal:
//!
//! ```
//! use migratekit_core::task::Scope;
//! use migratekit_core::units::MIB;
//! use migratekit_core::{BlockWrite, DiskCompare, DiskCopy, Endpoint, FileDisk, LedgerPlace, OpenOptions, Persist};
//! use migratekit_core::{Listener, Result, ServedDisk, Server, ServerConfig};
//!
//! #[tokio::main]
//! async fn main() -> Result<()> {
//!     let folder = tempfile::tempdir().expect("a temporary folder");
//!     let (disk, volume) = (folder.path().join("disk.img"), folder.path().join("volume.img"));
//!
//!     // Two disks of 8 MiB: one with a little in it, one empty. Both are files; a block device is opened by its path too.
//!     let empty = OpenOptions { create_size: Some(8 * MIB), ..OpenOptions::default() };
//!     let source = FileDisk::open(&disk, empty.clone()).await?;
//!     source.write(3 * MIB, vec![7; 4096].into(), Persist::Cached).await?;
//!     source.flush().await?;
//!     drop(FileDisk::open(&volume, empty).await?);
//!
//!     // The second becomes an export, with the record of what is proven in it beside it.
//!     let served = ServedDisk::writable(&volume, &LedgerPlace::Beside).await?;
//!     let server = Server::new(ServerConfig::default());
//!     server.add("volume", served.export())?;
//!     let listener = Listener::tcp("127.0.0.1:0").await?;
//!     let address = format!("nbd://127.0.0.1:{}/volume", listener.port().expect("a TCP port"));
//!     let mut scope = Scope::new();
//!     let (running, stop) = (server.clone(), scope.token().clone());
//!     scope.spawn(async move {
//!         let _ = running.serve(listener, stop).await;
//!     });
//!
//!     // The copy returns when every byte is written and flushed; until then it is an error or it is not done.
//!     let (from, to) = (Endpoint::Path(disk), address.parse::<Endpoint>()?);
//!     let report = DiskCopy::new(from.clone(), to.clone()).open().await?.run().await?;
//!     println!("{} bytes read, {} seconds", report.copy.counts.bytes_read, report.copy.seconds);
//!
//!     // The proof: digests of both, each made where its bytes are.
//!     let found = DiskCompare::new(from, to).run().await?;
//!     assert!(found.equal && found.bytes_compared == 8 * MIB);
//!
//!     scope.close().await?;      // no new connections, the present ones end, the task with them
//!     served.close().await       // flushes, and saves the ledger
//! }
//! ```
//!
//! # Where to read on
//!
//! | you want to | read |
//! |---|---|
//! | copy, resume, verify, follow the progress | [`copy::DiskCopy`], [`copy::DiskCompare`]; `examples/copy_disk.rs` |
//! | copy between disks of your own kind | [`block::BlockRead`] and [`block::BlockWrite`], then [`copy::Copy`]; `examples/own_disk.rs` |
//! | serve disks, add and remove them while clients work | [`nbd::Server`], [`copy::ServedDisk`] |
//! | read and write an export of any NBD server | [`nbd::Client`]: it is a disk |
//! | keep secrets sealed, in your own tables too | [`credentials::Vault`] |
//! | know which blocks of a replica are current | [`copy::ledger`] |
//! | keep a replica that always holds one complete point | [`copy::replica`] |
//!
//! # What holds everywhere
//!
//! - Offsets, lengths and sizes are in bytes; times are [`Duration`](std::time::Duration)s.
//! - There is one [`Error`]: its kind is for programs, its text for people, its [`Retry`] says whether again can help.
//! - What is durable when, and what a dropped request leaves behind, is the [ordering contract](block#the-ordering-contract).
//! - Long work takes a [`CancellationToken`], and ends with [`ErrorKind::Cancelled`] when it is cancelled. Everything runs on a
//!   Tokio runtime with time and I/O enabled.

#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap))]

pub mod block;
pub mod clock;
pub mod copy;
pub mod credentials;
pub mod engine;
pub mod error;
pub mod id;
pub mod inventory;
pub mod jobs;
pub mod model;
pub mod nbd;
mod planted;
pub mod platform;
pub mod replication;
pub mod store;
pub mod task;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tunnels;
pub mod units;

// Whole disks, named as people name them.
pub use copy::{DiskCompare, DiskCopy, Endpoint, LedgerPlace, ServedDisk, Verify};

// Disks, and what can be asked of them.
pub use block::{BlockInfo, BlockRead, BlockWrite, Extent, ExtentKind, ExtentMap, FileDisk, MemoryDisk, OpenOptions, Persist, ZeroMode};

// NBD, on either side.
pub use nbd::{Client, ConnectOptions, Listener, Server, ServerConfig, Uri};

// Secrets, sealed and opened.
pub use credentials::{KeyFile, KeyPlace, RowIdentity, Sealed, Secret, SecretString, Vault, WhenMissing};

// The catalog.
pub use store::{Store, StoreOptions, Tx};

// The front door.
pub use engine::{Engine, EngineBuilder};

// The ground.
pub use error::{Error, ErrorKind, Result, Retry};
pub use task::CancellationToken;
pub use units::{ByteRange, ByteSize};
