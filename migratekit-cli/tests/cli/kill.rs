//! `kill -9` at random moments, of each of the three processes of a copy: the copy that then succeeds, by itself or with
//! `--resume`, gives a target equal to its source.
//!
//! `MIGRATEKIT_KILL_ROUNDS` sets the rounds of all three tests together (default 300; `make test-long` takes ten times that).

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use migratekit_core::testing::Rng;
use tempfile::TempDir;

use crate::run::{Served, assert_equal, command, random_image, run, scribble};

/// Not a multiple of anything.
const SIZE: u64 = (64 << 20) + 12_345;

fn rounds() -> u64 {
    std::env::var("MIGRATEKIT_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300) / 3
}

struct Scene {
    _dir: TempDir,
    source: PathBuf,
    target: PathBuf,
    rng: Rng,
    /// How long an undisturbed copy takes.
    whole: Duration,
    context: String,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        let mut rng = Rng::new(seed);
        random_image(&source, SIZE, 60, &mut rng);
        let mut scene = Scene { _dir: dir, source, target, rng, whole: Duration::ZERO, context: String::new() };
        scene.fresh_target();
        let (from, to) = (scene.serve_source(), scene.serve_target());
        let begin = Instant::now();
        assert!(run(&["copy", &from.uri(), &to.uri()]).status.success());
        scene.whole = begin.elapsed();
        scene
    }

    /// The next round's source differs from the last one's, and the target holds something else.
    fn next(&mut self, round: u64, seed: u64) {
        self.context = format!("seed {seed}, round {round}");
        let file = OpenOptions::new().write(true).open(&self.source).unwrap();
        let bytes = self.rng.below(1 << 20);
        scribble(&file, SIZE, bytes, &mut self.rng);
        if self.rng.chance(50) {
            self.fresh_target();
        }
    }

    fn fresh_target(&mut self) {
        let _ = std::fs::remove_file(self.target.with_extension("ledger"));
        let dir = self.target.parent().unwrap();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path != self.source {
                std::fs::remove_file(path).unwrap();
            }
        }
        let percent = self.rng.below(2) * 10;
        random_image(&self.target, SIZE, percent, &mut self.rng);
    }

    fn serve_source(&self) -> Served {
        Served::start(&self.source, &["--read-only"])
    }

    fn serve_target(&self) -> Served {
        Served::start(&self.target, &[])
    }

    fn copier(&self, from: &Served, to: &Served, resume: bool) -> Child {
        let mut args = vec!["copy".to_owned(), from.uri(), to.uri()];
        if resume {
            args.push("--resume".to_owned());
        }
        command(&args.iter().map(String::as_str).collect::<Vec<_>>()).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn pause(&mut self) {
        let most = u64::try_from(self.whole.as_micros()).unwrap() * 11 / 10;
        std::thread::sleep(Duration::from_micros(self.rng.below(most)));
    }

    /// A copy that an earlier run may have left unfinished, to its end.
    fn finish(&self, from: &Served, to: &Served) {
        let out = run(&["copy", &from.uri(), &to.uri(), "--resume"]);
        assert!(out.status.success(), "{}: resume: {}", self.context, String::from_utf8_lossy(&out.stderr));
    }

    fn check(&self) {
        assert_equal(&self.source, &self.target, &self.context);
    }
}

fn seed() -> u64 {
    std::env::var("MIGRATEKIT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_121)
}

#[test]
fn the_copier_is_killed() {
    let mut scene = Scene::new(seed());
    for round in 0..rounds() {
        scene.next(round, seed());
        let (from, to) = (scene.serve_source(), scene.serve_target());
        for attempt in 0..1 + scene.rng.below(3) {
            let mut copier = scene.copier(&from, &to, attempt > 0);
            scene.pause();
            copier.kill().unwrap();
            copier.wait().unwrap();
        }
        scene.finish(&from, &to);
        drop((from, to));
        scene.check();
    }
}

#[test]
fn the_target_is_killed() {
    let mut scene = Scene::new(seed() + 1);
    for round in 0..rounds() {
        scene.next(round, seed() + 1);
        let (from, mut to) = (scene.serve_source(), scene.serve_target());
        let mut copier = scene.copier(&from, &to, false);
        for _ in 0..1 + scene.rng.below(2) {
            scene.pause();
            to = to.kill_and_restart();
        }
        if !copier.wait().unwrap().success() {
            scene.finish(&from, &to);
        }
        drop((from, to));
        scene.check();
    }
}

#[test]
fn the_source_is_killed() {
    let mut scene = Scene::new(seed() + 2);
    for round in 0..rounds() {
        scene.next(round, seed() + 2);
        let (mut from, to) = (scene.serve_source(), scene.serve_target());
        let mut copier = scene.copier(&from, &to, false);
        for _ in 0..1 + scene.rng.below(2) {
            scene.pause();
            from = from.kill_and_restart();
        }
        if !copier.wait().unwrap().success() {
            scene.finish(&from, &to);
        }
        drop((from, to));
        scene.check();
    }
}
