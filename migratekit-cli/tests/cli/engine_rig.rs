//! A user with a home of their own: catalog, key and a local site in one folder, and our binary run on them.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use migratekit_core::testing::Rng;
use migratekit_core::testing::peer::program;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::run::{MIGRATEKIT, random_image};
use crate::small_disk::SmallDisk;

/// A user's home.
pub struct Home {
    pub dir: TempDir,
    /// The disk that its commands see, if there is one.
    pub disk: Option<SmallDisk>,
    /// What its commands have in their environment.
    pub environment: Vec<(&'static str, String)>,
}

impl Home {
    pub fn new() -> Self {
        Home { dir: tempfile::tempdir().unwrap(), disk: None, environment: Vec::new() }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// A command of this user; it dies with the test.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match &self.disk {
            Some(disk) => disk.enter(&program("setpriv")),
            None => Command::new(program("setpriv")),
        };
        command.args(["--pdeathsig", "KILL", "--", MIGRATEKIT]).args(args);
        command.env("XDG_DATA_HOME", self.dir.path()).env("HOME", self.dir.path()).stdin(Stdio::null());
        for name in ["MIGRATEKIT_STORE", "MIGRATEKIT_STORE_PASSWORD_FILE", "MIGRATEKIT_KEY_FILE", "MIGRATEKIT_CRED_ENCRYPTION_KEY"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it with `input` on its standard input.
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// It must succeed; what it printed on stdout.
    pub fn succeed(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {:?}\n{}", out.status, shown(&out));
        String::from_utf8(out.stdout).unwrap()
    }

    /// It must succeed with `--output json`; the document.
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.succeed(&[args, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// It must fail with this exit code and say each of these things.
    pub fn refuse(&self, args: &[&str], code: i32, said: &[&str]) -> String {
        let out = self.run(args);
        let text = shown(&out);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
        for needed in said {
            assert!(text.contains(needed), "{args:?}: no {needed:?} in {text}");
        }
        text
    }

    /// The folder of the site that [`Home::site`] makes.
    pub fn machine(&self, name: &str) -> PathBuf {
        self.path("site").join("machines").join(name)
    }

    /// Makes a machine with disks of these sizes in bytes, half full of random data.
    pub fn make_machine(&self, name: &str, disks: &[u64], seed: u64) {
        let folder = self.machine(name);
        fs::create_dir_all(&folder).unwrap();
        let mut rng = Rng::new(seed);
        let uuid = format!("564d0e1c-0000-4000-8000-{seed:012}");
        let mut text = format!("name = \"{name}\"\nuuid = \"{uuid}\"\ncpus = 2\nmemory = \"1G\"\nos = \"linux\"\npower = \"off\"\n");
        for (number, size) in disks.iter().enumerate() {
            random_image(&folder.join(format!("{number}.img")), *size, 50, &mut rng);
            text += &format!("\n[[disk]]\nkey = {}\npath = \"{number}.img\"\n", 2000 + number);
        }
        fs::write(folder.join("machine.toml"), text).unwrap();
    }

    /// Saves the site and takes all its machines under management.
    pub fn manage_all(&self) {
        let site = self.path("site");
        self.succeed(&["credential", "add", "local", "lab", "--path", site.to_str().unwrap()]);
        self.succeed(&["vm", "add", "lab", "--all"]);
    }

    /// The files that hold a VM's replica, by disk.
    pub fn replicas(&self, vm: &str) -> Vec<PathBuf> {
        let disks = self.json(&["vm", "disks", vm]);
        disks.as_array().unwrap().iter().filter_map(|disk| disk["volume"]["path"].as_str()).map(PathBuf::from).collect()
    }

    /// Starts a command in the background, its output in files.
    pub fn start(&self, args: &[&str], name: &str) -> Running {
        let (out, err) = (self.path(&format!("{name}.out")), self.path(&format!("{name}.err")));
        let mut command = self.command(args);
        let child = command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap()).spawn().unwrap();
        Running { child, out, err }
    }
}

/// Runs a statement on a SQLite file, as somebody else's program would.
pub fn sqlite(file: &Path, sql: &str) {
    let script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as c: c.execute(sys.argv[2])";
    let status = Command::new(program("python3")).args(["-c", script]).arg(file).arg(sql).status().unwrap();
    assert!(status.success(), "{sql}");
}

/// All that a command said.
pub fn shown(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// A command in the background.
pub struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// Waits until its stdout holds `text`; false when it ended before.
    pub fn wait_for(&mut self, text: &str) -> bool {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if fs::read_to_string(&self.out).unwrap_or_default().contains(text) {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return fs::read_to_string(&self.out).unwrap_or_default().contains(text);
            }
            assert!(Instant::now() < end, "no {text:?} came: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit code; none when a signal ended it.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    pub fn said(&self) -> String {
        format!("{}{}", read(&self.out), read(&self.err))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
