//! A disk that is soon full: a small tmpfs that only the commands of a test see, and the test itself below `/proc`.
//!
//! It lies in a mount namespace of its own, so that nothing is left when the test is killed. Root makes one at once, another user by a user
//! namespace, where the system allows it.

use std::path::{Path, PathBuf};
use std::process::Command;

use migratekit_core::testing::peer::{Peer, program};

/// A folder with a file system of its own. Dropping it ends the namespace, and with it the file system.
pub struct SmallDisk {
    holder: Peer,
    folder: PathBuf,
}

impl SmallDisk {
    /// Puts a file system of `bytes` bytes at `folder`, which must exist.
    pub fn at(folder: &Path, bytes: u64) -> Self {
        let ready = folder.with_extension("mounted");
        let script = "mount -t tmpfs -o size=$1,mode=1777 tmpfs \"$2\" && touch \"$3\" && exec sleep infinity";
        let mut command = Command::new(program("unshare"));
        command.args(user_namespace(&["--user", "--map-root-user"])).args(["--mount", &program("setpriv"), "--pdeathsig", "KILL"]);
        command.args(["sh", "-c", script, "sh", &bytes.to_string()]).arg(folder).arg(&ready);
        let holder = Peer::spawn("unshare", command).wait_path(&ready);
        SmallDisk { holder, folder: folder.to_owned() }
    }

    /// A program run where the disk is seen.
    pub fn enter(&self, program_there: &str) -> Command {
        let mut command = Command::new(program("nsenter"));
        command.args(["--target", &self.pid()]).args(user_namespace(&["--user", "--preserve-credentials"])).args(["--mount", "--"]);
        command.arg(program_there);
        command
    }

    /// Makes room, or takes it: the file system has `bytes` bytes from now on.
    pub fn resize(&self, bytes: u64) {
        self.remount(&format!("remount,size={bytes}"));
    }

    /// Whether nobody can write.
    pub fn read_only(&self, read_only: bool) {
        self.remount(if read_only { "remount,ro" } else { "remount,rw" });
    }

    fn remount(&self, how: &str) {
        let status = self.enter(&program("mount")).args(["-o", how]).arg(&self.folder).status().unwrap();
        assert!(status.success(), "{} was not mounted anew: {how}", self.folder.display());
    }

    /// The folder as the test sees it.
    pub fn outside(&self) -> PathBuf {
        let below = self.folder.strip_prefix("/").unwrap();
        Path::new("/proc").join(self.pid()).join("root").join(below)
    }

    fn pid(&self) -> String {
        self.holder.pid().as_raw_nonzero().to_string()
    }
}

fn user_namespace<'a>(options: &'a [&'a str]) -> &'a [&'a str] {
    if rustix::process::geteuid().is_root() { &[] } else { options }
}
