//! A user with a home of their own: catalog, key and a local site in one folder, and our binary run on them.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use migratekit_core::testing::peer::program;
use serde_json::Value;
use tempfile::TempDir;

use crate::run::MIGRATEKIT;

/// A user's home.
pub struct Home {
    pub dir: TempDir,
}

impl Home {
    pub fn new() -> Self {
        Home { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// A command of this user; it dies with the test.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("setpriv"));
        command.args(["--pdeathsig", "KILL", "--", MIGRATEKIT]).args(args);
        command.env("XDG_DATA_HOME", self.dir.path()).env("HOME", self.dir.path()).stdin(Stdio::null());
        for name in ["MIGRATEKIT_STORE", "MIGRATEKIT_STORE_PASSWORD_FILE", "MIGRATEKIT_KEY_FILE", "MIGRATEKIT_CRED_ENCRYPTION_KEY"] {
            command.env_remove(name);
        }
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
}

/// All that a command said.
pub fn shown(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}
