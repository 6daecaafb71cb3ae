//! MigrateKit: moves virtual machines from VMware vSphere to Apache CloudStack while they run, and proves that nothing was lost.
//!
//! Everything the product does is behind one handle, the [`Engine`]: the command line, a server, a program of yours parse, make one call,
//! print. Here a machine comes under management and its replica is brought up to date; the platform is `local`, folders of machines and
//! volumes on this host, the catalog a file.
//!
//! ```
//! use migratekit_core::model::ReplicationMode;
//! use migratekit_core::{Engine, KeyFile, KeyPlace, NewCredential, Result, Store, StoreOptions, Which};
//!
//! # fn site(folder: &std::path::Path) -> std::path::PathBuf {
//! #     let site = folder.join("site");
//! #     let machine = site.join("machines/web-01");
//! #     std::fs::create_dir_all(&machine).expect("a machine");
//! #     let disk = vec![7; 1 << 20];
//! #     std::fs::write(machine.join("system.img"), disk).expect("a disk");
//! #     let text = "name = \"web-01\"\nuuid = \"564d0e1c-0000-4000-8000-000000000001\"\ncpus = 2\nmemory = \"1G\"\nos = \"linux\"\npower = \"off\"\n\
//! #                 [[disk]]\nkey = 2000\npath = \"system.img\"\n";
//! #     std::fs::write(machine.join("machine.toml"), text).expect("a machine");
//! #     site
//! # }
//! #[tokio::main]
//! async fn main() -> Result<()> {
//!     let folder = tempfile::tempdir().expect("a temporary folder");
//!     let path = site(folder.path());    // a site with one machine: machines/web-01/machine.toml and its disk's image
//!
//!     // The catalog, and the key that seals its secrets; both are made on first use. What belongs together is checked here.
//!     let store = Store::open(&format!("sqlite://{}/migratekit.db", folder.path().display()), StoreOptions::new()).await?;
//!     let key = KeyPlace::File(KeyFile::at(folder.path().join("key")));
//!     let engine = Engine::builder().store(store).key(key).build().await?;
//!
//!     // What is needed to reach the platform. A vCenter or a cloud has secrets; they are sealed before they are stored.
//!     let credential = engine.credentials().add(NewCredential::Local { name: "lab".into(), path, volumes: None }).await?;
//!     let machines = engine.inventory().discover(credential.name(), "web-*").await?;
//!     assert_eq!(machines.len(), 1);
//!     engine.contexts().add(credential.name(), Which::Named(vec!["web-01".into()])).await?;
//!
//!     // Whoever is started on a catalog runs its jobs, after it has recovered what others left in the middle.
//!     let running = engine.start().await?;
//!     let job = engine.replications().start("web-01", ReplicationMode::Auto).await?;
//!     let mut events = job.events().await?;
//!     while let Some(event) = events.next().await? {
//!         println!("{event}");
//!     }
//!     // The outcome says what was done and names the point that all disks now hold; a job that failed is an error with the reason.
//!     let done = job.wait().await?;
//!     let point = done.point.expect("a complete point");
//!     assert_eq!((done.capacity_bytes, point.disk_count, done.disks.len()), (1 << 20, 1, 1));
//!     assert!(engine.contexts().detail("web-01").await?.ready_for_failover);
//!     running.stop().await               // lays down what runs, for the next one to go on with
//! }
//! ```
//!
//! # The lower floors
//!
//! They are public too, for who wants only them. Here a disk is served as an NBD export that keeps a ledger, another
//! is copied into it, and both are proven equal:
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
//! | save credentials, find machines, manage and replicate them | [`engine`], one page for each part |
//! | show people what runs and what went wrong | [`engine::JobRows::feed`], [`summary`](engine::JobRows::summary), [`model::messages`] |
//! | follow what changes, across processes and restarts | [`ReplicationJob::events`], [`jobs::Jobs::follow`] |
//! | write an operation of your own that no crash leaves stuck | [`jobs`]: sagas, their runner, recovery |
//! | write a platform of your own | [`platform`]: the roles as traits, with a contract suite |
//! | know what the catalog keeps, and for how long | [`store`], [`store::Retention`] |
//! | copy, resume, verify, follow the progress | [`copy::DiskCopy`], [`copy::DiskCompare`]; `examples/copy_disk.rs` |
//! | copy between disks of your own kind | [`block::BlockRead`] and [`block::BlockWrite`], then [`copy::Copy`]; `examples/own_disk.rs` |
//! | serve disks, add and remove them while clients work | [`nbd::Server`], [`copy::ServedDisk`] |
//! | read and write an export of any NBD server | [`nbd::Client`]: it is a disk |
//! | trust a VMA, end the trust, be one that asks | [`vmas`] |
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
pub mod vmas;

// The front door: catalog, key and platforms joined.
pub use engine::{
    AddOutcome, Added, ContextDetail, Credential, CredentialChange, Discovered, Engine, EngineBuilder, JobDetail, JobEvents, JobFilter,
    NewCredential, Page, ReplicationJob, ReplicationLine, ReplicationReport, Running, Tested, Which,
};

// The nouns of the domain, and their ids.
pub use id::{ContextId, DiskKey, JobId, PointId, VolumeId};
pub use model::{Context, Event, EventKind, FeedItem, FeedPage, Job, JobKind, JobStatus, OperationSummary, Point, ReplicationMode};

// The catalog, and what it keeps.
pub use store::{Retention, Store, StoreOptions, Tx};

// Secrets, sealed and opened.
pub use credentials::{KeyFile, KeyPlace, RowIdentity, Sealed, Secret, SecretString, Vault, WhenMissing};

// Operations and platforms of one's own.
pub use jobs::{Jobs, Runner, RunnerConfig, Saga, SagaDefinition, SagaFactory, StepSpec};
pub use platform::{Inventory, Source, Target};

// Whole disks, named as people name them.
pub use copy::{DiskCompare, DiskCopy, Endpoint, LedgerPlace, ServedDisk, Verify};

// Disks, and what can be asked of them.
pub use block::{BlockInfo, BlockRead, BlockWrite, Extent, ExtentKind, ExtentMap, FileDisk, MemoryDisk, OpenOptions, Persist, ZeroMode};

// NBD, on either side.
pub use nbd::{Client, ConnectOptions, Listener, Server, ServerConfig, Uri};

// The ground.
pub use error::{Error, ErrorKind, Result, Retry};
pub use task::CancellationToken;
pub use units::{ByteRange, ByteSize};
