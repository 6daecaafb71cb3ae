//! A world of machines on a local site, replicated by the saga, and looked at from outside: by files, not by what we report.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Rng;
use crate::block::{BlockRead, BoxFuture};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{ContextId, DiskKey};
use crate::jobs::{SagaFactory, Sagas};
use crate::model::Context;
use crate::platform::local::LocalSite;
use crate::platform::{Source, Target};
use crate::replication::{Reach, Replications, SourceMachine, open_point};
use crate::store::Store;
use crate::units::{ByteRange, MIB};

/// The bytes of each disk, by key.
pub type Disks = BTreeMap<DiskKey, Vec<u8>>;

/// A folder with a site, and the catalog that knows its machines. A machine is called like its folder.
#[derive(Clone)]
pub struct ReplicationWorld {
    /// The site.
    pub site: LocalSite,
    /// The catalog.
    pub store: Store,
    source: Arc<dyn Source>,
    target: Arc<dyn Target>,
    way: Way,
}

/// Asked before a side (`source`, `target`) is reached: the error with which that shall fail.
type Way = Arc<dyn Fn(&'static str) -> Option<Error> + Send + Sync>;

/// Reaches every VM on the one site.
struct OneSite {
    source: Arc<dyn Source>,
    target: Arc<dyn Target>,
    way: Way,
}

impl Reach for OneSite {
    fn source<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<SourceMachine>> {
        Box::pin(async move {
            match (self.way)("source") {
                Some(error) => Err(error),
                None => Ok(SourceMachine { source: Arc::clone(&self.source), machine: context.source_vm_id.parse()? }),
            }
        })
    }

    fn target<'a>(&'a self, _context: &'a Context) -> BoxFuture<'a, Result<Arc<dyn Target>>> {
        Box::pin(async move { (self.way)("target").map_or_else(|| Ok(Arc::clone(&self.target)), Err) })
    }
}

#[allow(clippy::expect_used, clippy::missing_panics_doc, reason = "a test may fail")]
impl ReplicationWorld {
    /// The site in `folder`, with this catalog.
    pub async fn new(folder: &Path, store: Store) -> Self {
        let site = LocalSite::open(folder).await.expect("open the site");
        ReplicationWorld { source: Arc::new(site.clone()), target: Arc::new(site.clone()), way: Arc::new(|_| None), site, store }
    }

    /// The same world, its machines reached through `source`.
    #[must_use]
    pub fn through(mut self, source: Arc<dyn Source>) -> Self {
        self.source = source;
        self
    }

    /// The same world, its volumes reached through `target`.
    #[must_use]
    pub fn onto(mut self, target: Arc<dyn Target>) -> Self {
        self.target = target;
        self
    }

    /// The same world, where `way` is asked before a side (`source`, `target`) is reached: it gives the error with which that shall fail.
    #[must_use]
    pub fn by_way_of(mut self, way: impl Fn(&'static str) -> Option<Error> + Send + Sync + 'static) -> Self {
        self.way = Arc::new(way);
        self
    }

    /// The saga, as a program knows it.
    #[must_use]
    pub fn sagas(&self) -> Sagas {
        Sagas::new([Arc::new(self.replications()) as Arc<dyn SagaFactory>]).expect("the saga's definition")
    }

    /// What makes the saga's code.
    #[must_use]
    pub fn replications(&self) -> Replications {
        let (source, target, way) = (Arc::clone(&self.source), Arc::clone(&self.target), Arc::clone(&self.way));
        Replications::new(Arc::new(OneSite { source, target, way }))
    }

    /// A machine that is off, with disks of these sizes from key 2000 on, and something in them; under management.
    pub async fn add(&self, name: &str, sizes: &[u64], seed: u64) -> ContextId {
        let folder = self.folder(name);
        fs::create_dir_all(&folder).expect("make a machine");
        let mut rng = Rng::new(seed);
        for (key, size) in keys(sizes.len()).zip(sizes) {
            let file = fs::File::create(self.image(name, key)).expect("make a disk");
            file.set_len(*size).expect("make a disk");
            for _ in 0..6 {
                scribble(&file, *size, &mut rng);
            }
        }
        self.describe(name, &keys(sizes.len()).collect::<Vec<_>>());
        let at = Timestamp::now();
        let vm = &Context { vm_path: folder.display().to_string(), ..Context::discovered(name, "test", name, at) };
        self.store.write("add a VM", |tx| async move { tx.contexts().add(vm).await }).await.expect("add a VM");
        vm.id.clone()
    }

    /// Writes the machine's description, with these disks.
    pub fn describe(&self, name: &str, keys: &[DiskKey]) {
        let disks: String = keys.iter().map(|key| format!("[[disk]]\nkey = {}\npath = \"{key}.img\"\n", key.device_key())).collect();
        let text =
            format!("name = \"{name}\"\nuuid = \"uuid-of-{name}\"\ncpus = 2\nmemory = \"2G\"\nos = \"linux\"\npower = \"off\"\n{disks}");
        fs::write(self.folder(name).join("machine.toml"), text).expect("describe a machine");
    }

    /// The folder of a machine.
    #[must_use]
    pub fn folder(&self, name: &str) -> PathBuf {
        self.site.machines_folder().join(name)
    }

    /// The file of a disk.
    #[must_use]
    pub fn image(&self, name: &str, key: DiskKey) -> PathBuf {
        self.folder(name).join(format!("{key}.img"))
    }

    /// The guest writes here and there on every disk, zeros among it.
    pub fn change(&self, name: &str, seed: u64) {
        let mut rng = Rng::new(seed);
        for key in self.source_disks(name).into_keys() {
            let file = fs::OpenOptions::new().write(true).open(self.image(name, key)).expect("open a disk");
            let size = file.metadata().expect("look at a disk").len();
            for _ in 0..4 {
                scribble(&file, size, &mut rng);
            }
        }
    }

    /// The bytes of the machine's disks now.
    #[must_use]
    pub fn source_disks(&self, name: &str) -> Disks {
        let files = fs::read_dir(self.folder(name)).expect("look at a machine").map(|entry| entry.expect("look at a machine").path());
        let images = files.filter(|path| path.extension().is_some_and(|e| e == "img"));
        images
            .map(|path| {
                let key = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("").parse().expect("a disk's file");
                (key, fs::read(path).expect("read a disk"))
            })
            .collect()
    }

    /// What a reader of the replica sees; empty when there is no point.
    ///
    /// # Errors
    /// As [`open_point`].
    pub async fn replica_disks(&self, context: &ContextId) -> Result<Disks> {
        let mut disks = Disks::new();
        if let Some(open) = open_point(&self.store, &self.site, context).await? {
            for (key, reader) in &open.disks {
                let mut bytes = Vec::new();
                for piece in ByteRange::whole(reader.info().size)?.pieces(MIB) {
                    bytes.extend_from_slice(&reader.read(piece).await?);
                }
                disks.insert(*key, bytes);
            }
        }
        Ok(disks)
    }

    /// The files of the volumes of a VM, by disk: found by reading their records as text.
    #[must_use]
    pub fn volume_files(&self, context: &ContextId) -> BTreeMap<DiskKey, PathBuf> {
        let folders = fs::read_dir(self.site.volumes_folder()).expect("look at the volumes").map(|e| e.expect("look at a volume").path());
        let mut found = BTreeMap::new();
        for folder in folders.filter(|folder| folder.is_dir()) {
            let text = fs::read_to_string(folder.join("volume.json")).unwrap_or_default();
            let record: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let tag = record.pointer("/volume/tag").cloned().unwrap_or_default();
            if tag.get("context").and_then(|c| c.as_str()) == Some(context.as_str()) {
                let key = tag.get("disk").and_then(|d| d.as_str()).unwrap_or("").parse().expect("a volume's tag");
                found.insert(key, folder.join("disk.img"));
            }
        }
        found
    }

    /// What should not be there when no job of the VM is under way: snapshots at the source, spools beside the volumes, folders that are
    /// no volume.
    #[must_use]
    pub fn left_over(&self, name: &str, context: &ContextId) -> Vec<String> {
        let list = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
        let mut left = list(&self.folder(name).join("snapshots"));
        for volume in self.volume_files(context).values() {
            left.extend(list(volume.parent().unwrap_or(volume)).into_iter().filter(|path| path.to_string_lossy().contains(".spool")));
        }
        left.iter().map(|path| path.display().to_string()).collect()
    }
}

/// The keys of so many disks.
pub fn keys(count: usize) -> impl Iterator<Item = DiskKey> {
    (2000..).take(count).map(DiskKey::new)
}

#[allow(clippy::expect_used, reason = "a test may fail")]
fn scribble(file: &fs::File, size: u64, rng: &mut Rng) {
    let length = rng.below(9000) + 1;
    let at = rng.below(size.saturating_sub(length).max(1));
    let fill = if rng.chance(25) { 0 } else { u8::try_from(rng.below(255)).unwrap_or(0) + 1 };
    let bytes = vec![fill; usize::try_from(length.min(size - at)).unwrap_or(1)];
    file.write_all_at(&bytes, at).expect("write a disk");
}
