//! A local site to play with, and the contract on it.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use migratekit_core::id::DiskKey;
use migratekit_core::platform::local::LocalSite;
use migratekit_core::platform::{ChangeTracking, Inventory, MachineRef, Source};
use migratekit_core::testing::Rng;
use migratekit_core::testing::platform::{SourceRig, check_source, check_target};
use migratekit_core::units::{KIB, MIB};

/// The sizes of the disks of the machine `web`, from key 2000 on.
pub(crate) const SIZES: [u64; 3] = [4 * MIB, MIB + 777, 2 * MIB];

/// A site with a machine `web` of three disks.
pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) site: LocalSite,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = LocalSite::open(folder.path()).await.unwrap();
        let machine = folder.path().join("machines/web");
        std::fs::create_dir(&machine).unwrap();
        let mut rng = Rng::new(42);
        for (number, size) in SIZES.iter().enumerate() {
            let file = std::fs::File::create(machine.join(format!("{number}.img"))).unwrap();
            file.set_len(*size).unwrap();
            for _ in 0..8 {
                let at = rng.below(*size - 5000);
                file.write_all_at(&vec![number as u8 + 1; 5000], at).unwrap();
            }
        }
        std::fs::write(machine.join("machine.toml"), toml("off")).unwrap();
        Site { folder, site }
    }

    pub(crate) fn machine(&self) -> MachineRef {
        "web".parse().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("machines/web").join(name)
    }

    pub(crate) fn disk(&self, key: DiskKey) -> PathBuf {
        self.path(&format!("{}.img", key.device_key() - 2000))
    }
}

pub(crate) fn toml(power: &str) -> String {
    let disks: String = (0..3).map(|n| format!("[[disk]]\nkey = {}\npath = \"{n}.img\"\n", 2000 + n)).collect();
    format!(
        "name = \"Web 01\"\nuuid = \"564d-1\"\ncpus = 2\nmemory = \"2G\"\nos = \"linux\"\npower = \"{power}\"\n{disks}\n[[network]]\nname = \"LAN\"\nmac = \"00:50:56:00:00:0A\"\n"
    )
}

impl SourceRig for Site {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.site.clone())
    }

    fn inventory(&self) -> Arc<dyn Inventory> {
        Arc::new(self.site.clone())
    }

    fn machine(&self) -> MachineRef {
        Site::machine(self)
    }

    fn bytes(&self, disk: DiskKey) -> Vec<u8> {
        std::fs::read(self.disk(disk)).unwrap()
    }

    fn write(&self, disk: DiskKey, offset: u64, bytes: &[u8]) {
        std::fs::OpenOptions::new().write(true).open(self.disk(disk)).unwrap().write_all_at(bytes, offset).unwrap();
    }

    fn grow(&self, disk: DiskKey, size: u64) {
        std::fs::OpenOptions::new().write(true).open(self.disk(disk)).unwrap().set_len(size).unwrap();
    }

    fn foreign_snapshot(&self, name: &str) {
        std::fs::create_dir(self.path("snapshots").join(name)).unwrap();
    }

    fn lose_changes(&self, disk: DiskKey) {
        std::fs::remove_dir_all(self.path(".migratekit/changes").join(disk.to_string())).unwrap();
    }
}

#[tokio::test]
async fn a_site_is_a_source() {
    check_source(&Site::new().await).await.unwrap();
}

#[tokio::test]
async fn a_site_is_a_target() {
    check_target(&Site::new().await.site).await.unwrap();
}

#[tokio::test]
async fn what_a_site_can_do_is_told() {
    let site = Site::new().await.site;
    let told = site.capabilities();
    assert_eq!(told.platform, "local");
    let source = told.source.unwrap();
    assert_eq!((source.change_tracking, source.change_block_bytes), (ChangeTracking::ByDigest, 64 * KIB));
    assert_eq!(source, Source::capabilities(&site));
    assert!(told.target.unwrap().zeroed);
}

#[tokio::test]
async fn a_folder_that_is_no_site_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(LocalSite::open(folder.path().join("missing")).await.unwrap_err().to_string().contains("does not exist"));
    std::fs::write(folder.path().join("letter.txt"), "x").unwrap();
    assert!(LocalSite::open(folder.path()).await.unwrap_err().to_string().contains("no folder `machines`"));
    assert!(!folder.path().join("machines").exists(), "nothing is made in a folder that is not ours");
}
