//! A block device: a loop device over a file. Needs `losetup`, and root or a sudo that asks for no password.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use migratekit_core::ErrorKind;
use migratekit_core::block::{BlockRead, FileDisk, OpenOptions};
use migratekit_core::testing::check_contract;
use tempfile::TempDir;

const SIZE: u64 = 4 << 20;

/// A loop device that is gone when dropped.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Loop {
        let found = as_root("losetup").args(["--find", "--show"]).arg(file).output().expect("losetup and sudo can be run");
        let says = String::from_utf8_lossy(&found.stderr);
        assert!(found.status.success(), "losetup failed (it needs root or `sudo -n`; package mount or util-linux): {says}");
        let device = Loop(String::from_utf8(found.stdout).unwrap().trim().into());
        let user = rustix::process::geteuid();
        if !user.is_root() {
            assert!(as_root("chown").arg(user.as_raw().to_string()).arg(&device.0).status().unwrap().success());
        }
        device
    }
}

/// A program run by root: by ourselves if we are, else through sudo.
fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

impl Drop for Loop {
    fn drop(&mut self) {
        as_root("losetup").arg("--detach").arg(&self.0).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_device_keeps_the_contract_and_has_one_writer() {
    if !Path::new("/dev/loop-control").exists() {
        println!("this system has no loop devices (no /dev/loop-control): only files were tested");
        return;
    }
    let folder = TempDir::new_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let file = folder.path().join("disk");
    std::fs::File::create(&file).unwrap().set_len(SIZE).unwrap();
    let device = Loop::over(&file);

    let disk = FileDisk::open(&device.0, OpenOptions::default()).await.unwrap();
    assert_eq!(disk.info().size, SIZE);
    let error = FileDisk::open(&device.0, OpenOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(error.context_value("pid"), Some(std::process::id().to_string().as_str()), "{error}");

    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&device.0, &link).unwrap();
    let direct = FileDisk::open(&link, OpenOptions { past_cache: true, ..OpenOptions::read_only() }).await.unwrap();
    assert!(direct.same_file(&disk));
    let below = FileDisk::open(&file, OpenOptions::read_only()).await.unwrap();
    assert!(!below.same_file(&disk));

    check_contract(Arc::new(disk.clone()), 21).await.unwrap();
    check_contract(Arc::new(direct), 22).await.unwrap();
}
