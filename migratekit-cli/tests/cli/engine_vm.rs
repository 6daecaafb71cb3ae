//! Machines found, taken under management, looked at, let go.

use std::fs;

use crate::engine_rig::Home;

const MIB: u64 = 1 << 20;

#[test]
fn what_a_site_has_is_told_and_what_cannot_be_used_is_told_singly() {
    let home = Home::new();
    home.make_machine("web-01", &[4 * MIB, 2 * MIB], 1);
    home.make_machine("db-01", &[MIB], 2);
    fs::create_dir_all(home.machine("broken")).unwrap();
    fs::write(home.machine("broken").join("machine.toml"), "name = 3\n").unwrap();
    home.succeed(&["credential", "add", "local", "lab", "--path", home.path("site").to_str().unwrap()]);

    let found = home.json(&["vm", "discover", "lab"]);
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), 3);
    assert!(found.iter().any(|f| f["machine"].is_null() && f["problem"].as_str().unwrap().contains("cannot be understood")));
    let web = home.json(&["vm", "discover", "lab", "--name", "web-*"]);
    let web = web.as_array().unwrap();
    let web = web.iter().find(|f| !f["machine"].is_null()).unwrap();
    assert_eq!(web["machine"]["disks"].as_array().unwrap().len(), 2);
    assert!(web["context"].is_null());

    // Looking saved nothing.
    assert_eq!(home.json(&["vm", "list"])["items"].as_array().unwrap().len(), 0);
    assert!(home.succeed(&["vm", "list"]).contains("no VMs under management yet"));

    let added = home.json(&["vm", "add", "lab", "web-01"]);
    assert_eq!(added[0]["outcome"], "added");
    let text = home.succeed(&["vm", "discover", "lab"]);
    assert!(text.contains("web-01  managed") && text.contains("db-01   new") && text.contains("not usable: "), "{text}");
    // Again is no error, and says so.
    let again = home.json(&["vm", "add", "lab", "web-01"]);
    assert_eq!((again[0]["outcome"].as_str(), &again[0]["context"]), (Some("skipped"), &added[0]["context"]));
    home.refuse(&["vm", "add", "lab", "nobody"], 4, &["nobody"]);
    home.refuse(&["vm", "add", "lab"], 2, &["--all"]);
    home.refuse(&["vm", "discover", "nowhere"], 4, &["nowhere"]);
}

#[test]
fn what_a_dead_pass_left_at_its_source_is_swept_and_what_is_not_ours_stays() {
    let home = Home::new();
    home.make_machine("web-01", &[64 * MIB], 3);
    home.manage_all();
    assert!(home.succeed(&["vm", "sweep", "web-01"]).contains("nothing was left"));
    let mut pass = home.start(&["replicate", "web-01", "--watch"], "killed");
    assert!(pass.wait_for("Copying"), "{}", pass.said());
    pass.signal(rustix::process::Signal::KILL);
    pass.wait();
    home.refuse(&["vm", "sweep", "web-01"], 6, &["a job of it is active", " next: "]);
    // A left-over: the snapshot as it was, put back after its job removed it.
    let (snapshots, kept) = (home.machine("web-01").join("snapshots"), home.path("kept"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(done.success(), "{} to {}", from.display(), to.display());
    };
    copy(&snapshots, &kept);
    home.succeed(&["replicate", "cancel", "web-01"]);
    fs::remove_dir_all(&snapshots).unwrap();
    copy(&kept, &snapshots);
    fs::create_dir(snapshots.join("backup-of-somebody")).unwrap();
    let swept = home.json(&["vm", "sweep", "web-01"]);
    assert_eq!((swept["removed"].as_array().map(Vec::len), &swept["foreign"][0]), (Some(1), &"backup-of-somebody".into()), "{swept}");
    let left: Vec<_> = fs::read_dir(&snapshots).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["backup-of-somebody"]);
    assert!(home.succeed(&["vm", "sweep", "web-01"]).contains("it is not ours"));
}

#[test]
fn a_vm_is_shown_by_name_or_id_and_removed_only_when_it_is_one() {
    let home = Home::new();
    home.make_machine("web-01", &[4 * MIB], 1);
    home.manage_all();
    let list = home.json(&["vm", "list"]);
    let id = list["items"][0]["context"].as_str().unwrap().to_owned();
    assert!(id.starts_with("ctx-"));
    for name in ["web-01", &id] {
        let vm = home.json(&["vm", "show", name]);
        assert_eq!((vm["context"]["vm_name"].as_str(), vm["context"]["status"].as_str()), (Some("web-01"), Some("discovered")));
        assert_eq!((vm["ready_for_failover"].as_bool(), vm["disks"][0]["capacity_bytes"].as_u64()), (Some(false), Some(4 * MIB)));
    }
    let text = home.succeed(&["vm", "show", "web-01"]);
    assert!(text.contains("no: there is no complete point yet") && text.contains("disk-2000"), "{text}");
    home.refuse(&["vm", "show", "web-02"], 4, &["web-02", "vm list"]);
    home.refuse(&["credential", "remove", "lab"], 6, &["VMs under management use it"]);

    // Another machine of the same name: the name alone does not say which.
    let copy = home.machine("copy");
    fs::create_dir_all(&copy).unwrap();
    let text = fs::read_to_string(home.machine("web-01").join("machine.toml")).unwrap();
    fs::write(copy.join("machine.toml"), text.replace("000000000001\"", "000000000009\"")).unwrap();
    fs::copy(home.machine("web-01").join("0.img"), copy.join("0.img")).unwrap();
    home.succeed(&["vm", "add", "lab", "--all"]);
    home.refuse(&["vm", "show", "web-01"], 3, &["several VMs have this name", &id]);

    home.succeed(&["vm", "remove", &id]);
    assert_eq!(home.json(&["vm", "list"])["items"].as_array().unwrap().len(), 1);
    home.refuse(&["vm", "show", &id], 4, &[&id]);
}

#[test]
fn lists_are_paged() {
    let home = Home::new();
    for number in 0..5 {
        home.make_machine(&format!("vm-{number}"), &[MIB], 10 + number);
    }
    home.manage_all();
    let (mut seen, mut after) = (Vec::new(), None::<String>);
    loop {
        let mut args = vec!["vm", "list", "--limit", "2"];
        if let Some(cursor) = &after {
            args.extend(["--after", cursor.as_str()]);
        }
        let page = home.json(&args);
        seen.extend(page["items"].as_array().unwrap().iter().map(|vm| vm["vm_name"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(cursor) => after = Some(cursor.to_owned()),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, ["vm-0", "vm-1", "vm-2", "vm-3", "vm-4"]);
    home.refuse(&["vm", "list", "--limit", "501"], 3, &["1 to 500"]);
    home.refuse(&["vm", "list", "--after", "nonsense"], 3, &["cursor"]);
}

/// The volumes of a VM, on disk.
fn volumes(home: &Home) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = fs::read_dir(home.path("site").join("volumes")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.join("volume.json").exists());
    found
}

#[test]
fn a_vm_goes_only_with_its_volumes_and_an_interrupted_removal_goes_on() {
    let home = Home::new();
    home.make_machine("web-01", &[2 * MIB, MIB], 1);
    home.manage_all();
    home.succeed(&["replicate", "web-01", "--full"]);
    let replicas = home.replicas("web-01");
    home.refuse(&["vm", "remove", "web-01"], 6, &["volumes that hold its replica", "--with-volumes", "web-01"]);
    assert_eq!(home.json(&["vm", "show", "web-01"])["ready_for_failover"], true, "a refusal changes nothing");

    // One more volume that carries the VM's tag, and that no row knows: it goes too.
    let (known, stray) = (volumes(&home).remove(0), home.path("site").join("volumes").join("vol-00000000-0000-7000-8000-000000000000"));
    fs::create_dir(&stray).unwrap();
    for entry in fs::read_dir(&known).unwrap().map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_file()) {
        fs::copy(entry.path(), stray.join(entry.file_name())).unwrap();
    }
    let record = fs::read_to_string(known.join("volume.json")).unwrap();
    let id = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    fs::write(stray.join("volume.json"), record.replace(&id(&known), &id(&stray))).unwrap();

    // Somebody has the second disk's volume open: the first is gone by then, and nothing says that there is a replica.
    let open = fs::OpenOptions::new().write(true).open(&replicas[1]).unwrap();
    rustix::fs::flock(&open, rustix::fs::FlockOperation::LockExclusive).unwrap();
    home.refuse(&["vm", "remove", "web-01", "--with-volumes"], 6, &["open for writing"]);
    assert!(!replicas[0].exists() && replicas[1].exists());
    let vm = home.json(&["vm", "show", "web-01"]);
    assert_eq!((vm["context"]["status"].as_str(), vm["ready_for_failover"].as_bool()), (Some("cleanup_required"), Some(false)));
    assert!(vm["point"].is_null() && vm["disks"][0]["volume"].is_null() && vm["disks"][1]["change_id"].is_null(), "{vm}");
    home.refuse(&["replicate", "web-01"], 3, &["volumes are being removed", "vm remove --with-volumes"]);
    home.refuse(&["vm", "remove", "web-01"], 6, &["--with-volumes"]);
    drop(open);

    let removed = home.json(&["vm", "remove", "web-01", "--with-volumes"]);
    assert_eq!(removed["volumes_removed"].as_array().unwrap().len(), 2, "what was left, and the stray: {removed}");
    assert!(volumes(&home).is_empty() && !stray.exists());
    assert_eq!(home.json(&["vm", "list"])["items"].as_array().unwrap().len(), 0);
    let jobs = home.json(&["job", "list"]);
    assert_eq!((jobs["items"][0]["vm_name"].as_str(), jobs["items"][0]["status"].as_str()), (Some("web-01"), Some("completed")));

    home.succeed(&["vm", "add", "lab", "--all"]);
    home.succeed(&["replicate", "web-01"]);
    assert_eq!(home.json(&["vm", "show", "web-01"])["ready_for_failover"], true);
}
