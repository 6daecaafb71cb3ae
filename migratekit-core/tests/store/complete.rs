//! Nothing is left out: every object of the catalog can be read on both databases and has a repository, and every method of every
//! repository is called by a test that runs on both.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use migratekit_core::testing::catalog::ask;
use migratekit_core::{Store, on_both_catalogs};

on_both_catalogs! { every_object_can_be_read }

/// The 34 objects by name, each with the accessor of the repository that writes it; a view with why it has none.
const OBJECTS: &[(&str, Result<&str, &str>)] = &[
    ("vm_replication_contexts", Ok("contexts")),
    ("replication_jobs", Ok("replications")),
    ("vm_disks", Ok("replicas")),
    ("failover_jobs", Ok("failovers")),
    ("network_mappings", Ok("networks")),
    ("ossea_volumes", Ok("volumes")),
    ("device_mappings", Ok("devices")),
    ("volume_operations", Ok("volume_operations")),
    ("volume_operation_history", Ok("volume_operations")),
    ("volume_mounts", Ok("mounts")),
    ("volume_daemon_metrics", Ok("metrics")),
    ("nbd_exports", Ok("exports")),
    ("vm_export_mappings", Ok("export_names")),
    ("job_tracking", Ok("jobs")),
    ("job_steps", Ok("steps")),
    ("job_execution_log", Ok("logs")),
    ("log_events", Ok("logs")),
    ("job_tracking_hierarchy", Err("a view for reports")),
    ("active_jobs", Err("a view for reports; `feed` has the list of active jobs by pages")),
    ("replication_schedules", Ok("schedules")),
    ("schedule_executions", Ok("schedules")),
    ("vm_machine_groups", Ok("groups")),
    ("vm_group_memberships", Ok("groups")),
    ("active_schedules", Err("a view for reports")),
    ("schedule_execution_summary", Err("a view for reports")),
    ("vm_schedule_status", Err("a view for reports")),
    ("vmware_credentials", Ok("credentials")),
    ("cbt_history", Ok("replicas")),
    ("vma_enrollments", Ok("enrollments")),
    ("vma_pairing_codes", Ok("enrollments")),
    ("vma_active_connections", Ok("enrollments")),
    ("vma_connection_audit", Ok("enrollments")),
    ("ossea_configs", Ok("cloud_configs")),
    // Kept for old rows: only the rotation of the key touches it.
    ("linstor_configs", Ok("sealed")),
];

/// Methods that no test on both databases calls, and why.
const EXCEPTIONS: &[(&str, &str)] = &[];

async fn every_object_can_be_read(store: Store) {
    for (name, _) in OBJECTS {
        let rows = ask(&store, &format!("SELECT CAST(COUNT(*) AS CHAR) AS value FROM {name}")).await;
        assert_eq!(rows.unwrap_or_else(|e| panic!("{name}: {e}")), [Some("0".to_owned())], "{name}");
    }
    assert_eq!(OBJECTS.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), 34);
}

#[test]
fn every_object_has_a_repository_that_names_it() {
    let repositories = repositories();
    for (object, accessor) in OBJECTS {
        match accessor {
            Ok(accessor) => {
                let named = repositories.iter().any(|r| r.accessor == *accessor && r.file.contains(object));
                assert!(named, "no repository `{accessor}` whose file names {object}");
            }
            Err(why) => assert!(why.starts_with("a view"), "{object}: a table needs a repository"),
        }
    }
}

#[test]
fn every_method_of_every_repository_is_tested_on_both_databases() {
    let tests = tests_on_both();
    let (mut missing, mut methods) = (Vec::new(), 0);
    for repository in repositories() {
        for method in &repository.methods {
            methods += 1;
            let call = format!("{}().{method}(", repository.accessor);
            if !tests.contains(&call) {
                missing.push(format!("{}().{method}", repository.accessor));
            }
        }
    }
    let excepted: Vec<_> = EXCEPTIONS.iter().map(|(method, _)| (*method).to_owned()).collect();
    assert_eq!(missing, excepted, "each needs a test under `on_both_catalogs!`, or an exception that says why not");
    assert!(methods > 180, "only {methods} methods were found: the scan is blind");
}

/// A repository: what a transaction gives by `accessor`.
struct Repository {
    accessor: String,
    methods: Vec<String>,
    file: String,
}

fn repositories() -> Vec<Repository> {
    let mut found = Vec::new();
    for path in files(&crate_root().join("src/store")) {
        let file = fs::read_to_string(path).unwrap();
        for (at, _) in file.match_indices("<'_> {\n        ") {
            // `pub fn NAME(&self) -> TYPE<'_> {`
            let Some((head, kind)) = file[..at].rsplit_once("(&self) -> ") else { continue };
            if kind.contains(|c: char| !c.is_alphanumeric()) {
                continue;
            }
            let accessor = head.rsplit(' ').next().unwrap().to_owned();
            let body =
                file.split(&format!("\nimpl {kind}<'_> {{\n")).nth(1).and_then(|rest| rest.split("\n}\n").next()).unwrap_or_default();
            let methods = body.split("\n    pub async fn ").skip(1).map(|rest| rest.split(['(', '<']).next().unwrap().to_owned());
            let methods: Vec<_> = body
                .strip_prefix("    pub async fn ")
                .map(|rest| rest.split(['(', '<']).next().unwrap().to_owned())
                .into_iter()
                .chain(methods)
                .collect();
            assert!(!methods.is_empty(), "{accessor}: no methods were found");
            found.push(Repository { accessor, methods, file: file.clone() });
        }
    }
    assert!(found.len() >= 30, "only {} repositories were found: the scan is blind", found.len());
    found
}

/// The texts of all tests that run on both databases, without white space.
fn tests_on_both() -> String {
    let root = crate_root();
    let beside =
        files(&root.join("src/store")).into_iter().map(|path| path.with_extension("").join("tests.rs")).filter(|path| path.exists());
    let texts = files(&root.join("tests/store"))
        .into_iter()
        .chain(beside)
        .map(|path| (path.ends_with("rows.rs"), fs::read_to_string(path).unwrap()));
    // What all of them begin with is in rows.rs.
    let both = texts.filter(|(rows, text)| *rows || text.contains("\non_both_catalogs! {"));
    both.map(|(_, text)| text.split_whitespace().collect::<String>()).collect()
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    all.sort();
    all
}

fn crate_root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
