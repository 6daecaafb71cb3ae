//! Replications by the command line: full, incremental, followed, cancelled, killed, continued.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use rustix::process::Signal;

use crate::engine_rig::{Home, Running, shown};
use crate::run::assert_equal;

const MIB: u64 = 1 << 20;

fn home_with(disks: &[u64]) -> Home {
    let home = Home::new();
    home.make_machine("web-01", disks, 7);
    home.manage_all();
    home
}

fn assert_replica(home: &Home, context: &str) {
    let replicas = home.replicas("web-01");
    assert!(!replicas.is_empty(), "{context}: there is no replica");
    for (number, replica) in replicas.iter().enumerate() {
        assert_equal(&home.machine("web-01").join(format!("{number}.img")), replica, context);
    }
}

fn change_source(home: &Home, disk: u32, at: u64, bytes: &[u8]) {
    let path = home.machine("web-01").join(format!("{disk}.img"));
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// Whatever happened: no snapshot of ours, no spool, no job that holds the VM.
fn assert_nothing_left(home: &Home) {
    let snapshots = home.machine("web-01").join("snapshots");
    let left: Vec<_> = std::fs::read_dir(snapshots).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "snapshots are left: {left:?}");
    assert_eq!(home.json(&["job", "list", "--active"])["items"].as_array().unwrap().len(), 0, "a job holds the VM");
    for replica in home.replicas("web-01") {
        let beside = replica.parent().unwrap();
        let spools: Vec<_> =
            std::fs::read_dir(beside).unwrap().map(|e| e.unwrap().path()).filter(|p| p.to_string_lossy().contains("spool")).collect();
        assert!(spools.is_empty(), "spools are left: {spools:?}");
    }
}

#[test]
fn full_then_incremental_and_everything_is_told() {
    let home = home_with(&[8 * MIB, 4 * MIB, 2 * MIB + 512]);
    home.refuse(&["replicate", "web-01", "--incremental"], 3, &["replicate in full first"]);
    assert_eq!(home.json(&["job", "list"])["items"].as_array().unwrap().len(), 0, "what is refused is no job");
    let full = home.json(&["replicate", "web-01", "--full"]);
    assert_eq!((full["status"].as_str(), full["disks"].as_array().unwrap().len()), (Some("completed"), 3), "{full}");
    assert_replica(&home, "full");
    let vm = home.json(&["vm", "show", "web-01"]);
    assert_eq!((vm["ready_for_failover"].as_bool(), vm["context"]["status"].as_str()), (Some(true), Some("ready_for_failover")));

    change_source(&home, 1, MIB + 5, &[7; 3000]);
    let lines = home.succeed(&["replicate", "web-01", "--watch"]);
    for needed in ["begun", "a new complete point is safe", "completed"] {
        assert!(lines.contains(needed), "no {needed:?} in {lines}");
    }
    assert_replica(&home, "incremental");
    let show = home.json(&["replicate", "show", "web-01"]);
    let moved = show["bytes_transferred"].as_u64().unwrap();
    assert!((3000..=256 * 1024).contains(&moved), "{moved} bytes moved for 3000 changed");
    let list = home.json(&["replicate", "list", "--vm", "web-01"]);
    let modes: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|r| (r["mode"].as_str().unwrap(), r["status"].as_str().unwrap())).collect();
    assert_eq!(modes, [("auto", "completed"), ("full", "completed")]);
    assert_nothing_left(&home);
}

#[test]
fn a_failure_is_told_in_clean_words_with_what_to_do_everywhere() {
    let home = home_with(&[2 * MIB]);
    home.succeed(&["replicate", "web-01"]);
    let (disk, aside) = (home.machine("web-01").join("0.img"), home.path("aside.img"));
    std::fs::rename(&disk, &aside).unwrap();
    let said = home.refuse(&["replicate", "web-01"], 4, &["about: ", " next: ", "something it needs no longer exists"]);
    assert!(!said.contains("0.img"), "a path shows: {said}");
    let page = home.json(&["job", "list", "--vm", "web-01", "--status", "failed"]);
    assert_eq!((page["version"].as_u64(), page["items"].as_array().unwrap().len()), (Some(1), 1), "{page}");
    let item = &page["items"][0];
    assert_eq!((item["error_category"].as_str(), item["error_severity"].as_str()), (Some("platform"), Some("error")), "{item}");
    assert_eq!(item["actionable_steps"][0]["target"]["name"], "migratekit vm discover SITE", "{item}");
    let job = item["job_id"].as_str().unwrap();
    for args in
        [&["job", "show", job][..], &["job", "list"], &["replicate", "show", "web-01"], &["vm", "show", "web-01"], &["job", "watch", job]]
    {
        let text = shown(&home.run(args));
        assert!(text.contains("something it needs no longer exists"), "{args:?}: {text}");
        assert!(args[0] == "vm" || !text.contains("0.img"), "{args:?}: {text}");
    }
    let detail = home.json(&["job", "show", job]);
    assert!(detail["technical"]["job"]["error_message"].as_str().unwrap().contains("0.img"), "{detail}");
    assert!(home.succeed(&["job", "show", job, "-v"]).contains("0.img"), "who asks for it gets it");
    let log = home.succeed(&["job", "log", job]);
    assert!(log.contains("WARN") && log.contains("the step failed"), "{log}");
    let last = &home.json(&["vm", "show", "web-01"])["last_operation"];
    assert_eq!(
        (last["job_id"].as_str(), last["status"].as_str(), last["version"].as_u64()),
        (Some(job), Some("failed"), Some(1)),
        "{last}"
    );
    // The point is as it was, and the VM is free: the same again, mended.
    assert_eq!(home.json(&["vm", "show", "web-01"])["ready_for_failover"], true);
    std::fs::rename(&aside, &disk).unwrap();
    home.succeed(&["replicate", "web-01"]);
    assert_eq!(home.json(&["vm", "show", "web-01"])["last_operation"]["status"], "completed");
    assert_replica(&home, "after the failure");
    assert_nothing_left(&home);
}

#[test]
fn the_feed_goes_page_by_page() {
    let home = home_with(&[MIB]);
    for _ in 0..3 {
        home.succeed(&["replicate", "web-01"]);
    }
    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut args = vec!["job", "list", "--limit", "2"];
        args.extend(cursor.as_deref().into_iter().flat_map(|cursor| ["--after", cursor]));
        let page = home.json(&args);
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["job_id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(seen.len(), 3);
    assert!(seen.is_sorted_by(|a, b| a > b), "newest first, each once: {seen:?}");
    home.refuse(&["job", "list", "--after", "nonsense"], 3, &["the cursor is none that a page of this list gave"]);
    home.refuse(&["job", "list", "--limit", "0"], 3, &["a page has 1 to 500 rows"]);
}

#[test]
fn events_are_one_json_object_a_line_and_the_report_comes_last() {
    let home = home_with(&[4 * MIB]);
    let text = home.succeed(&["replicate", "web-01", "--watch", "--output", "json"]);
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds.last(), Some(&"report"), "{kinds:?}");
    for needed in ["job_created", "job_status", "step_status", "point_committed"] {
        assert!(kinds.contains(&needed), "{kinds:?}");
    }
    let ids: Vec<_> = lines.iter().filter_map(|line| line["id"].as_i64()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    let job = lines.last().unwrap()["report"]["job"].as_str().unwrap().to_owned();
    // The same again from another process, after the end.
    assert!(home.succeed(&["job", "watch", &job]).contains("completed"));
    let detail = home.json(&["job", "show", &job]);
    assert!(
        detail["steps"].as_array().unwrap().iter().all(|step| ["completed", "skipped"].contains(&step["status"].as_str().unwrap())),
        "{detail}"
    );
    home.succeed(&["job", "log", &job]);
}

#[test]
fn of_two_starts_one_runs_and_one_is_a_conflict() {
    let home = home_with(&[64 * MIB]);
    let mut both = [home.start(&["replicate", "web-01"], "a"), home.start(&["replicate", "web-01"], "b")];
    let mut codes: Vec<_> = both.iter_mut().map(Running::wait).collect();
    let said: Vec<_> = both.iter().map(Running::said).collect();
    codes.sort();
    assert_eq!(codes, [Some(0), Some(6)], "{said:?}");
    assert!(said.iter().any(|text| text.contains("another job of this VM is active")), "{said:?}");
    assert_replica(&home, "after the conflict");
    assert_nothing_left(&home);
}

/// Starts a pass that has moved bytes and has far to go.
fn begun(home: &Home, name: &str) -> Running {
    let mut pass = home.start(&["replicate", "web-01", "--full", "--watch"], name);
    assert!(pass.wait_for("Copying"), "it did not come to copy: {}", pass.said());
    pass
}

#[test]
fn after_kill_9_the_next_verb_recovers_and_says_so_and_resume_continues() {
    let home = home_with(&[256 * MIB, MIB]);
    let mut pass = begun(&home, "killed");
    pass.signal(Signal::KILL);
    assert_eq!(pass.wait(), None);
    let out = home.run(&["vm", "list"]);
    assert!(out.status.success() && shown(&out).contains("recovered: "), "{}", shown(&out));
    let out = home.run(&["vm", "list"]);
    assert!(!shown(&out).contains("recovered: "), "once is enough: {}", shown(&out));
    // It still holds its VM, until it is continued or cancelled.
    home.refuse(&["replicate", "web-01"], 6, &["another job of this VM is active"]);
    let report = home.json(&["replicate", "resume", "web-01"]);
    assert_eq!(report["status"], "completed", "{report}");
    assert_replica(&home, "resumed");
    assert_nothing_left(&home);
    home.refuse(&["replicate", "resume", "web-01"], 4, &["nothing to continue"]);
}

#[test]
fn sigterm_and_sighup_lay_the_job_down_and_ctrl_c_undoes_it() {
    let home = home_with(&[256 * MIB]);
    for signal in [Signal::TERM, Signal::HUP] {
        let mut pass = begun(&home, "stopped");
        pass.signal(signal);
        assert_eq!(pass.wait(), Some(13), "{}", pass.said());
        assert!(pass.said().contains("replicate resume"), "{}", pass.said());
        let jobs = home.json(&["job", "list", "--active"]);
        assert_eq!(jobs["items"][0]["status"], "paused", "{jobs}");
        let cancelled = home.json(&["replicate", "cancel", "web-01"]);
        assert!(["cancelled", "cancelling", "rolling_back"].contains(&cancelled["status"].as_str().unwrap()), "{cancelled}");
        // Any verb finishes what goes back.
        home.succeed(&["vm", "list"]);
        assert_nothing_left(&home);
    }
    let mut pass = begun(&home, "interrupted");
    pass.signal(Signal::INT);
    assert_eq!(pass.wait(), Some(13), "{}", pass.said());
    assert_nothing_left(&home);
    assert_eq!(home.json(&["replicate", "show", "web-01"])["status"], "cancelled");
    // The VM is free at once.
    home.succeed(&["replicate", "web-01"]);
    assert_replica(&home, "after all");
}

/// A pass whose point is committed, and whose volumes have far to go to it.
fn behind_the_point_of_return(home: &Home, name: &str, fill: u8) -> Running {
    std::fs::write(home.machine("web-01").join("0.img"), vec![fill; 128 << 20]).unwrap();
    let mut pass = home.start(&["replicate", "web-01", "--watch"], name);
    assert!(pass.wait_for("a new complete point is safe"), "it did not commit: {}", pass.said());
    pass
}

#[test]
fn behind_the_point_of_return_ctrl_c_waits_and_sigterm_leaves_it_to_resume() {
    let home = home_with(&[128 * MIB]);
    home.succeed(&["replicate", "web-01"]);
    let mut pass = behind_the_point_of_return(&home, "interrupted", 1);
    pass.signal(Signal::INT);
    assert_eq!(pass.wait(), Some(0), "{}", pass.said());
    assert!(pass.said().contains("will be finished"), "{}", pass.said());
    assert_replica(&home, "interrupted, and finished");
    assert_nothing_left(&home);

    let mut pass = behind_the_point_of_return(&home, "stopped", 2);
    pass.signal(Signal::TERM);
    assert_eq!(pass.wait(), Some(13), "{}", pass.said());
    // It was laid down in good order: a verb that was called for something else does not spend its time on it.
    for _ in 0..2 {
        home.succeed(&["vm", "list"]);
        assert_eq!(home.json(&["job", "list", "--active"])["items"].as_array().unwrap().len(), 1);
    }
    home.refuse(&["replicate", "cancel", "web-01"], 3, &["will be finished"]);
    assert_eq!(home.json(&["replicate", "resume", "web-01"])["status"], "completed");
    assert_replica(&home, "stopped, and resumed");
    assert_nothing_left(&home);
}

#[test]
fn who_watches_a_job_that_is_laid_down_is_told() {
    let home = home_with(&[256 * MIB]);
    let mut pass = begun(&home, "stopped");
    let job = home.json(&["job", "list", "--active"])["items"][0]["job_id"].as_str().unwrap().to_owned();
    let mut watch = home.start(&["job", "watch", &job], "watching");
    assert!(watch.wait_for("Copying"), "{}", watch.said());
    pass.signal(Signal::TERM);
    assert_eq!((pass.wait(), watch.wait()), (Some(13), Some(13)), "{}", watch.said());
    assert!(watch.said().contains("replicate resume"), "{}", watch.said());
    // One that begins to watch now is told at once.
    home.refuse(&["job", "watch", &job], 13, &["replicate resume"]);
    assert_eq!(home.json(&["replicate", "resume", "web-01"])["status"], "completed");
    assert_replica(&home, "resumed");
}
