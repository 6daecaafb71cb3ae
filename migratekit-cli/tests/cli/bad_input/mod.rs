//! What can be given to us that cannot work: each case has its kind, names the thing, and says what to do next.
//!
//! Rules for every case: the exit code of its kind; an `error:` line that names the thing; a ` next:` line; nothing on stdout and
//! no report (nothing is called done); no panic; an end within the deadline. Two different causes never share a text.

mod changing;
mod files;
mod peers;
mod tls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use migratekit_core::testing::Rng;
use tempfile::TempDir;

use crate::run::{random_image, run_within};

/// The size of the images, in bytes.
const SIZE: u64 = 8 << 20;

/// How long a case may take, in seconds, unless it says otherwise. Longest are those with five attempts at a broken device.
const DEADLINE: u64 = 30;

/// One case, and what it must come to.
struct Case<'a> {
    /// What is wrong; cases of the same cause may share a text.
    cause: &'static str,
    args: &'a [&'a str],
    /// The exit code.
    code: i32,
    /// What the error must name.
    says: &'a [&'a str],
    deadline: u64,
}

impl<'a> Case<'a> {
    fn new(cause: &'static str, code: i32, args: &'a [&'a str], says: &'a [&'a str]) -> Self {
        Case { cause, args, code, says, deadline: DEADLINE }
    }
}

/// A folder with a source, and the answers so far.
struct Table {
    dir: TempDir,
    answers: Vec<(&'static str, String)>,
    wrong: Vec<String>,
}

impl Table {
    fn new() -> Self {
        let table = Table { dir: tempfile::tempdir().unwrap(), answers: Vec::new(), wrong: Vec::new() };
        random_image(&table.path("source"), SIZE, 90, &mut Rng::new(3));
        table
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// `copy source target ARGS` with a target that does not exist, which must not exist afterwards either.
    fn options(&mut self, cause: &'static str, code: i32, more: &[&str], says: &[&str]) {
        let (source, target) = (self.text("source"), self.text("never-made"));
        let mut args = vec!["copy", source.as_str(), target.as_str()];
        args.extend(more);
        self.case(&Case::new(cause, code, &args, says));
        if self.path("never-made").exists() {
            self.wrong.push(format!("{cause}: a target was made before the command was found wrong"));
            std::fs::remove_file(self.path("never-made")).unwrap();
        }
    }

    fn copy(&mut self, cause: &'static str, code: i32, from: &str, to: &str, says: &[&str]) {
        self.case(&Case::new(cause, code, &["copy", from, to], says));
    }

    fn case(&mut self, case: &Case<'_>) {
        let report = self.path("report");
        let report_text = report.display().to_string();
        let mut args = case.args.to_vec();
        if args[0] == "copy" && !args.contains(&"--report") {
            args.extend(["--report", report_text.as_str()]);
        }
        let out = run_within(case.deadline, &args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let mut faults = Vec::new();
        match out.status.code() {
            None => faults.push(format!("it did not end within {} s, or was killed", case.deadline)),
            Some(code) if code != case.code => faults.push(format!("exit code {code}, not {}", case.code)),
            Some(_) => {}
        }
        faults.extend(case.says.iter().filter(|s| !said.contains(**s)).map(|s| format!("it does not say {s:?}")));
        let error = said.lines().find(|l| l.starts_with("error: ")).map(str::to_owned);
        if error.is_none() {
            faults.push("it has no error line".to_owned());
        }
        if case.code != 2 && !said.lines().any(|l| l.starts_with(" next: ") && l.len() > 20) {
            faults.push("it does not say what to do next".to_owned());
        }
        if said.contains("panicked") {
            faults.push("it panicked".to_owned());
        }
        if !out.stdout.is_empty() || report.exists() {
            faults.push("it reports a result".to_owned());
            let _ = std::fs::remove_file(&report);
        }
        for fault in faults {
            self.wrong.push(format!("{}: {fault}\n    {:?}\n    {}", case.cause, case.args, said.trim()));
        }
        self.answers.push((case.cause, normal(error.unwrap_or_default().as_str())));
    }
}

/// An error without what differs from run to run: paths, addresses and numbers.
fn normal(error: &str) -> String {
    let words: Vec<String> = error
        .split_whitespace()
        .map(|word| {
            let tail: String = word.chars().rev().take_while(|c| ",:)".contains(*c)).collect::<String>().chars().rev().collect();
            let bare = word.strip_suffix(&tail).unwrap_or(word);
            let is_scheme_list = bare.ends_with("://");
            let bare = if bare.contains('/') && !is_scheme_list { "PATH".to_owned() } else { bare.to_owned() };
            bare.split(|c: char| c.is_ascii_digit()).filter(|p| !p.is_empty()).collect::<Vec<_>>().join("#") + &tail
        })
        .collect();
    words.join(" ")
}

#[test]
fn every_bad_input_has_its_own_answer() {
    // Each group on a thread of its own, with its own folder and peers: they mostly wait.
    let groups: [fn(&mut Table); 8] = [
        files::places,
        files::options,
        files::addresses,
        files::images,
        peers::refusing,
        peers::strange,
        tls::certificates,
        changing::sources,
    ];
    let tables: Vec<Table> = std::thread::scope(|scope| {
        let running: Vec<_> = groups
            .iter()
            .map(|group| {
                scope.spawn(|| {
                    let mut table = Table::new();
                    group(&mut table);
                    table
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut wrong: Vec<String> = tables.iter().flat_map(|t| t.wrong.iter().cloned()).collect();
    let mut causes: BTreeMap<&str, &str> = BTreeMap::new();
    let answers: Vec<_> = tables.iter().flat_map(|t| t.answers.iter()).collect();
    for (cause, answer) in &answers {
        let first = *causes.entry(answer.as_str()).or_insert(cause);
        if first != *cause {
            wrong.push(format!("two causes, one text: {first} / {cause}: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), answers.len(), wrong.join("\n"));
    assert!(answers.len() >= 60, "only {} cases ran", answers.len());
}

#[test]
fn paths_and_numbers_do_not_tell_causes_apart() {
    assert_eq!(normal("error: cannot open (path /a/b1): it is 7"), normal("error: cannot open (path /c): it is 8"));
    assert_ne!(normal("error: cannot open (path /a): gone"), normal("error: cannot open (path /a): held"));
}

/// A path as an argument.
fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}
