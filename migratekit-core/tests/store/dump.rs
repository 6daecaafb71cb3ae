//! Export and import: between both databases, all or nothing, and never over a catalog that has rows.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use migratekit_core::model::JobStatus;
use migratekit_core::store::Content;
use migratekit_core::testing::catalog::{ask, change, on_server, on_sqlite};
use migratekit_core::testing::mariadb::MariaDb;
use migratekit_core::{ErrorKind, Store};

use crate::rows::{add_job, add_vm, vm};

/// A catalog with a row in many tables, odd texts, and references in both directions.
async fn fill(store: &Store) {
    let vm = vm("web \"ß\" \\ 𝄞\n", "vm-1");
    add_vm(store, &vm).await.unwrap();
    let parent = add_job(store, Some(&vm.id), None, JobStatus::Running, 1).await.unwrap();
    let job = add_job(store, Some(&vm.id), Some(&parent), JobStatus::Running, 2).await.unwrap();
    let id = &vm.id;
    for sql in [
        format!("INSERT INTO replication_jobs (id, vm_context_id, source_vm_name, replication_type, vma_throughput_mbps, created_at, updated_at) VALUES ('{job}', '{id}', 'web', 'full', 1.5, 1, 1)"),
        format!("UPDATE vm_replication_contexts SET last_successful_job_id = '{job}'"),
        "INSERT INTO vma_pairing_codes (id, code_digest, generated_by, expires_at, created_at) VALUES ('pair-1', 'd', 'me', 1, 1)".into(),
        "INSERT INTO vma_enrollments (id, pairing_id, vma_public_key, vma_name, vma_fingerprint, expires_at, created_at, updated_at) VALUES ('enr-1', 'pair-1', 'k', 'agent', 'f', 1, 1, 1)".into(),
        "UPDATE vma_pairing_codes SET used_by_enrollment_id = 'enr-1'".into(),
        "INSERT INTO replication_schedules (id, name, created_at, updated_at) VALUES ('sch-b', 'b', 1, 1)".into(),
        "INSERT INTO replication_schedules (id, name, schedule_type, chain_parent_schedule_id, created_at, updated_at) VALUES ('sch-a', 'a', 'chain', 'sch-b', 1, 1)".into(),
        "INSERT INTO vmware_credentials (credential_name, vcenter_host, username, password_encrypted, created_at, updated_at) VALUES ('c', 'h', 'u', 'sealed:abc', 1, 1)".into(),
        "INSERT INTO volume_operations (id, type, request, created_at, updated_at) VALUES ('op-1', 'create', '{\"a\":1}', 1, 1)".into(),
        "INSERT INTO volume_daemon_metrics (timestamp, error_rate_percent) VALUES (9007199254740993, 0.1)".into(),
    ] {
        change(store, &sql).await.unwrap();
    }
    for i in 0..1203 {
        change(
            store,
            &format!(
                "INSERT INTO audit_log (created_at, actor, action, subject_kind, subject_id, success) VALUES ({i}, 'me', 'x', 'y', 'z', 1)"
            ),
        )
        .await
        .unwrap();
    }
    store.write("test", |tx| async move { tx.facts().set("store_id", "store-1").await }).await.unwrap();
}

#[test]
fn a_catalog_goes_from_one_database_to_the_other_and_back_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let server = MariaDb::start();
    on_sqlite(|store| async move {
        fill(&store).await;
        let report = store.export(&file("a"), Content::Data).await.unwrap();
        assert!(report.rows() > 1210);
        assert_eq!(fs::metadata(file("a")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(store.export(&file("a"), Content::Data).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(store.import(&file("a")).await.unwrap_err().kind(), ErrorKind::AlreadyExists, "it has rows");
    });
    on_server(&server, "there", |store| async move {
        let report = store.import(&file("a")).await.unwrap();
        assert_eq!(report.rows(), store.export(&file("b"), Content::Data).await.unwrap().rows());
        assert!(ask(&store, "SELECT value FROM store_facts WHERE name = 'home_host'").await.unwrap().is_empty());
        // Numbers go on behind those that came.
        change(
            &store,
            "INSERT INTO audit_log (created_at, actor, action, subject_kind, subject_id, success) VALUES (1, 'me', 'x', 'y', 'z', 1)",
        )
        .await
        .unwrap();
        assert_eq!(ask(&store, "SELECT CAST(MAX(id) AS CHAR) AS value FROM audit_log").await.unwrap(), [Some("1204".to_owned())]);
    });
    on_sqlite(|store| async move {
        store.import(&file("b")).await.unwrap();
        store.export(&file("c"), Content::Data).await.unwrap();
        assert!(!ask(&store, "SELECT value FROM store_facts WHERE name = 'home_host'").await.unwrap().is_empty(), "this catalog's own");
    });
    let rows = |name: &str| rows(&file(name));
    assert_eq!(rows("a"), rows("b"));
    assert_eq!(rows("a"), rows("c"));
    let text = fs::read_to_string(file("a")).unwrap();
    assert!(text.contains("sealed:abc"));
    assert!(!file("a.partial").exists() && fs::read_dir(folder.path()).unwrap().count() == 3);
}

/// Each row with its table's columns by name: the order of the columns is not what counts.
fn rows(path: &Path) -> Vec<String> {
    let mut table: serde_json::Value = serde_json::Value::Null;
    let mut rows = Vec::new();
    for line in fs::read_to_string(path).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        match line.as_array() {
            Some(values) => {
                let names = table["columns"].as_array().unwrap();
                let mut pairs: Vec<_> = names.iter().zip(values).map(|(name, value)| format!("{name}={value}")).collect();
                pairs.sort();
                rows.push(format!("{} {}", table["table"], pairs.join(" ")));
            }
            None => table = line,
        }
    }
    rows
}

#[test]
fn configuration_alone_and_the_schema_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    on_sqlite(|store| async move {
        fill(&store).await;
        store.export(&file("configuration"), Content::Configuration).await.unwrap();
        let schema = store.export(&file("schema"), Content::Schema).await.unwrap();
        assert_eq!(schema.rows(), 0);
        let all = ask(&store, "SELECT name AS value FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
            .await
            .unwrap();
        let mut named: Vec<_> = schema.counts.iter().map(|(table, _)| Some(table.clone())).collect();
        named.extend([Some("schema_migrations".to_owned()), Some("transaction_marks".to_owned())]);
        named.sort();
        assert_eq!(named, all, "every table is in a dump");
    });
    on_sqlite(|store| async move {
        let report = store.import(&file("configuration")).await.unwrap();
        let of = |table: &str| report.counts.iter().find(|(name, _)| name == table).map(|(_, rows)| *rows);
        assert_eq!((of("vmware_credentials"), of("replication_schedules"), of("vm_replication_contexts")), (Some(1), Some(2), None));
        assert_eq!(
            ask(&store, "SELECT chain_parent_schedule_id AS value FROM replication_schedules WHERE id = 'sch-a'").await.unwrap(),
            [Some("sch-b".to_owned())]
        );
    });
    on_sqlite(|store| async move {
        assert_eq!(store.import(&file("schema")).await.unwrap().rows(), 0);
    });
}

#[test]
fn each_damage_of_a_dump_has_its_own_text_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    on_sqlite(|store| async move {
        fill(&store).await;
        store.export(&file("good"), Content::Data).await.unwrap();
    });
    let good = fs::read_to_string(file("good")).unwrap();
    let last = good.trim_end().rfind('\n').unwrap();
    let wrong = [
        ("absent", None, ErrorKind::NotFound),
        ("empty", Some(String::new()), ErrorKind::InvalidInput),
        ("foreign", Some("{\"a\":1}\n".to_owned()), ErrorKind::InvalidInput),
        ("newer format", Some(good.replacen("\"format_version\":1", "\"format_version\":2", 1)), ErrorKind::Unsupported),
        ("cut", Some(good[..last / 2].to_owned()), ErrorKind::Mismatch),
        ("no end", Some(good[..=last].to_owned()), ErrorKind::Mismatch),
        ("changed", Some(good.replacen("sealed:abc", "sealed:abd", 1)), ErrorKind::Mismatch),
        ("other schema", Some(signed(&good.replacen("\"schema\":\"2026", "\"schema\":\"2025", 1))), ErrorKind::Unsupported),
        (
            "lost reference",
            Some(signed(
                &good.lines().filter(|line| !line.starts_with("[\"enr-1\"")).map(|line| line.to_owned() + "\n").collect::<String>(),
            )),
            ErrorKind::Mismatch,
        ),
        ("unknown column", Some(signed(&good.replacen("\"vma_name\"", "\"vma_nome\"", 1))), ErrorKind::Unsupported),
        ("short row", Some(signed(&good.replacen("[\"sch-b\",", "[", 1))), ErrorKind::Mismatch),
    ];
    on_sqlite(|store| async move {
        let mut texts = std::collections::BTreeSet::new();
        for (name, text, kind) in wrong {
            if let Some(text) = text {
                fs::write(file("wrong"), text).unwrap();
            }
            let error = store.import(&file("wrong")).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error}");
            assert!(texts.insert(error.message().to_owned()) || name == "no end" || name == "cut", "{name}: {error}");
        }
        assert!(ask(&store, "SELECT id AS value FROM replication_schedules").await.unwrap().is_empty());
        store.import(&file("good")).await.unwrap();
    });
}

/// A changed dump with a digest that fits: what is left are the checks of its contents.
fn signed(text: &str) -> String {
    let last = text.trim_end().rfind('\n').unwrap();
    let (body, end) = text.split_at(last + 1);
    let mut end: serde_json::Value = serde_json::from_str(end).unwrap();
    end["blake3"] = blake3_of(body).into();
    format!("{body}{end}\n")
}

fn blake3_of(text: &str) -> String {
    migratekit_core::testing::digest_of(text.as_bytes())
}
