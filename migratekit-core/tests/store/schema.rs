//! The two schemas against each other, against the model's codes, and as a page for people.
//!
//! `MIGRATEKIT_BLESS=1` writes docs/reference/database.md anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use migratekit_core::Store;
use migratekit_core::model;
use migratekit_core::testing::catalog::{ask, on_server, on_sqlite};
use migratekit_core::testing::mariadb::MariaDb;

/// What the two databases may differ in, and why. At most fifteen.
const EXPLAINED: &[(&str, &str)] = &[];

/// One thing of the schema: a table, a column, a key, a view; and what is said of it, in words that both databases share.
type Facts = BTreeMap<String, String>;

#[test]
fn both_databases_have_the_same_schema() {
    let (mut sqlite, mut mariadb) = (Facts::new(), Facts::new());
    on_sqlite(|store| async {
        let store = store;
        sqlite = sqlite_facts(&store).await;
    });
    let server = MariaDb::start();
    on_server(&server, "catalog", |store| async {
        let store = store;
        mariadb = mariadb_facts(&store).await;
    });
    assert!(sqlite.keys().filter(|key| key.starts_with("table ")).count() >= 42, "{}", sqlite.len());
    let mut different = BTreeMap::new();
    for key in sqlite.keys().chain(mariadb.keys()) {
        if sqlite.get(key) != mariadb.get(key) {
            different.insert(key.clone(), format!("sqlite: {:?}, mariadb: {:?}", sqlite.get(key), mariadb.get(key)));
        }
    }
    let explained: Vec<_> = EXPLAINED.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert!(explained.len() <= 15);
    assert_eq!(different.keys().cloned().collect::<Vec<_>>(), explained, "{different:#?}");
    let foreign = sqlite.keys().filter(|key| key.starts_with("foreign ")).count();
    let unique = sqlite.keys().filter(|key| key.starts_with("unique ")).count();
    assert!(foreign >= 25 && unique >= 20, "{foreign} foreign keys, {unique} unique keys");
}

#[test]
fn the_dictionary_is_up_to_date() {
    let server = MariaDb::start();
    let mut page = String::new();
    on_server(&server, "catalog", |store| async {
        let store = store;
        page = dictionary(&store).await;
    });
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/database.md");
    if std::env::var_os("MIGRATEKIT_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/reference/database.md is not what the schema says; run this test with MIGRATEKIT_BLESS=1");
}

#[test]
fn every_checked_code_is_the_models() {
    let codes: BTreeMap<&str, Vec<&str>> = [
        ("vm_replication_contexts.current_status", model::ContextStatus::ALL.iter().map(|s| s.code()).collect::<Vec<_>>()),
        ("vm_replication_contexts.os_type", model::OsFamily::ALL.iter().map(|s| s.code()).collect()),
        ("vm_replication_contexts.power_state", model::PowerState::ALL.iter().map(|s| s.code()).collect()),
        ("replication_jobs.status", model::ReplicationStatus::ALL.iter().map(|s| s.code()).collect()),
        ("replication_jobs.replication_type", model::ReplicationMode::ALL.iter().map(|s| s.code()).collect()),
        ("vm_disks.provisioning_type", model::Provisioning::ALL.iter().map(|s| s.code()).collect()),
        ("failover_jobs.status", model::FailoverStatus::ALL.iter().map(|s| s.code()).collect()),
        ("failover_jobs.job_type", model::FailoverKind::ALL.iter().map(|s| s.code()).collect()),
        ("network_mappings.validation_status", model::MappingValidation::ALL.iter().map(|s| s.code()).collect()),
        ("network_mappings.mapping_type", model::MappingType::ALL.iter().map(|s| s.code()).collect()),
        ("ossea_volumes.volume_type", model::VolumeRole::ALL.iter().map(|s| s.code()).collect()),
        ("ossea_volumes.status", model::VolumeStatus::ALL.iter().map(|s| s.code()).collect()),
        ("ossea_volumes.snapshot_status", model::SnapshotStatus::ALL.iter().map(|s| s.code()).collect()),
        ("device_mappings.operation_mode", model::OperationMode::ALL.iter().map(|s| s.code()).collect()),
        ("volume_operations.type", model::OperationKind::ALL.iter().map(|s| s.code()).collect()),
        ("volume_operations.status", model::OperationStatus::ALL.iter().map(|s| s.code()).collect()),
        ("nbd_exports.status", model::ExportStatus::ALL.iter().map(|s| s.code()).collect()),
        ("vm_export_mappings.status", model::MappingStatus::ALL.iter().map(|s| s.code()).collect()),
        ("replica_points.status", model::PointStatus::ALL.iter().map(|s| s.code()).collect()),
        ("job_tracking.operation", model::JobKind::ALL.iter().map(|s| s.code()).collect()),
        ("job_tracking.status", model::JobStatus::ALL.iter().map(|s| s.code()).collect()),
        ("job_tracking.job_category", model::JobCategory::ALL.iter().map(|s| s.code()).collect()),
        ("job_steps.status", model::StepStatus::ALL.iter().map(|s| s.code()).collect()),
        ("job_execution_log.log_level", model::LogLevel::ALL.iter().map(|s| s.code()).collect()),
        ("log_events.level", model::LogLevel::ALL.iter().map(|s| s.code()).collect()),
        ("job_intents.status", model::IntentStatus::ALL.iter().map(|s| s.code()).collect()),
        ("replication_schedules.schedule_type", model::ScheduleType::ALL.iter().map(|s| s.code()).collect()),
        ("replication_schedules.replication_type", model::ScheduleMode::ALL.iter().map(|s| s.code()).collect()),
        ("schedule_executions.status", model::ExecutionStatus::ALL.iter().map(|s| s.code()).collect()),
        ("cbt_history.sync_type", model::SyncType::ALL.iter().map(|s| s.code()).collect()),
        ("vma_enrollments.status", model::EnrollmentStatus::ALL.iter().map(|s| s.code()).collect()),
        ("vma_active_connections.connection_status", model::ConnectionStatus::ALL.iter().map(|s| s.code()).collect()),
        ("vma_connection_audit.event_type", model::ConnectionEvent::ALL.iter().map(|s| s.code()).collect()),
        ("users.role", model::Role::ALL.iter().map(|s| s.code()).collect()),
    ]
    .into();
    on_sqlite(|store| async {
        let store = store;
        let mut checked = checked_codes(&store).await;
        for own in ["device_mappings.linux_state", "linstor_configs.api_protocol"] {
            assert!(checked.remove(own).is_some(), "{own}");
        }
        for (column, mut wanted) in codes {
            let mut found = checked.remove(column).unwrap_or_default();
            wanted.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, wanted, "{column}");
        }
        assert!(checked.is_empty(), "columns with codes that no model is compared with: {checked:?}");
    });
}

/// `table.column` and the codes that its CHECK allows, from the texts SQLite keeps.
async fn checked_codes(store: &Store) -> BTreeMap<String, Vec<String>> {
    let mut codes = BTreeMap::new();
    let texts = ask(store, "SELECT name || '|' || sql AS value FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL").await.unwrap();
    for text in texts.into_iter().flatten() {
        let (table, sql) = text.split_once('|').unwrap();
        for line in sql.lines() {
            let Some((before, list)) = line.split_once(" IN ('").filter(|(before, _)| before.contains("CHECK (")) else { continue };
            let column = before.trim().split(' ').next().unwrap().trim_matches('"');
            let list = list.split_once(')').unwrap().0.replace('\'', "");
            codes.insert(format!("{table}.{column}"), list.split(", ").map(str::to_owned).collect());
        }
    }
    codes
}

async fn lines(store: &Store, sql: &str) -> Vec<Vec<String>> {
    let rows = ask(store, sql).await.unwrap();
    rows.into_iter().map(|row| row.unwrap_or_default().split('|').map(str::to_owned).collect()).collect()
}

/// The same words for the types of both.
fn kind(kind: &str) -> &'static str {
    match kind.to_ascii_lowercase().as_str() {
        "integer" | "bigint" | "int" | "tinyint" => "integer",
        "real" | "double" => "real",
        "text" | "varchar" | "mediumtext" | "longtext" | "char" => "text",
        _ => "another type",
    }
}

fn default(text: &str) -> String {
    match text {
        "" | "NULL" => "none".to_owned(),
        text => text.trim_matches('\'').to_owned(),
    }
}

async fn sqlite_facts(store: &Store) -> Facts {
    let mut facts = Facts::new();
    for row in
        lines(store, "SELECT name || '|' || type AS value FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'")
            .await
    {
        let (name, what) = (&row[0], &row[1]);
        facts.insert(format!("{what} {name}"), String::new());
        let columns = format!(
            "SELECT name || '|' || type || '|' || \"notnull\" || '|' || COALESCE(dflt_value, '') || '|' || pk || '|' || hidden AS value FROM pragma_table_xinfo('{name}')"
        );
        for column in lines(store, &columns).await {
            if what == "view" {
                facts.insert(format!("view column {name}.{}", column[0]), String::new());
                continue;
            }
            let key = column[4] != "0";
            let null = if column[2] == "1" || key { "required" } else { "may be empty" };
            let generated = if column[5] == "0" { "" } else { ", generated" };
            facts.insert(
                format!("column {name}.{}", column[0]),
                format!("{}, {null}, default {}{generated}", kind(&column[1]), default(&column[3])),
            );
            if key {
                facts.insert(format!("key {name}"), column[0].clone());
            }
        }
        let foreign = format!(
            "SELECT \"from\" || '|' || \"table\" || '|' || \"to\" || '|' || on_delete || '|' || on_update AS value FROM pragma_foreign_key_list('{name}')"
        );
        for key in lines(store, &foreign).await {
            facts.insert(
                format!("foreign {name}.{}", key[0]),
                format!("{}.{}, on delete {}, on update {}", key[1], key[2], key[3], key[4].replace("NO ACTION", "RESTRICT")),
            );
        }
        let indexes = format!(
            "SELECT l.\"unique\" || '|' || l.origin || '|' || (SELECT group_concat(i.name, ',') FROM (SELECT name FROM pragma_index_info(l.name) ORDER BY seqno) i) AS value \
             FROM pragma_index_list('{name}') l"
        );
        for index in lines(store, &indexes).await {
            match (index[0].as_str(), index[1].as_str()) {
                (_, "pk") => {}
                ("1", _) => _ = facts.insert(format!("unique {name} ({})", index[2]), String::new()),
                _ => _ = facts.insert(format!("index {name} ({})", index[2]), String::new()),
            }
        }
    }
    facts
}

async fn mariadb_facts(store: &Store) -> Facts {
    let mut facts = Facts::new();
    for row in
        lines(store, "SELECT CONCAT(table_name, '|', table_type) AS value FROM information_schema.tables WHERE table_schema = DATABASE()")
            .await
    {
        let what = if row[1] == "VIEW" { "view" } else { "table" };
        facts.insert(format!("{what} {}", row[0]), String::new());
    }
    let columns = "SELECT CONCAT_WS('|', c.table_name, c.column_name, c.data_type, c.is_nullable, COALESCE(c.column_default, ''), c.column_key, \
         c.is_generated, t.table_type) AS value FROM information_schema.columns c JOIN information_schema.tables t \
         ON t.table_schema = c.table_schema AND t.table_name = c.table_name WHERE c.table_schema = DATABASE()";
    for c in lines(store, columns).await {
        if c[7] == "VIEW" {
            facts.insert(format!("view column {}.{}", c[0], c[1]), String::new());
            continue;
        }
        let null = if c[3] == "NO" { "required" } else { "may be empty" };
        let generated = if c[6] == "ALWAYS" { ", generated" } else { "" };
        facts.insert(format!("column {}.{}", c[0], c[1]), format!("{}, {null}, default {}{generated}", kind(&c[2]), default(&c[4])));
        if c[5] == "PRI" {
            facts.insert(format!("key {}", c[0]), c[1].clone());
        }
    }
    let foreign = "SELECT CONCAT_WS('|', k.table_name, k.column_name, k.referenced_table_name, k.referenced_column_name, r.delete_rule, r.update_rule) AS value \
         FROM information_schema.key_column_usage k JOIN information_schema.referential_constraints r \
         ON r.constraint_schema = k.table_schema AND r.constraint_name = k.constraint_name \
         WHERE k.table_schema = DATABASE() AND k.referenced_table_name IS NOT NULL";
    for f in lines(store, foreign).await {
        facts.insert(format!("foreign {}.{}", f[0], f[1]), format!("{}.{}, on delete {}, on update {}", f[2], f[3], f[4], f[5]));
    }
    let indexes = "SELECT CONCAT_WS('|', table_name, index_name, MAX(non_unique), GROUP_CONCAT(column_name ORDER BY seq_in_index)) AS value \
         FROM information_schema.statistics WHERE table_schema = DATABASE() AND index_name <> 'PRIMARY' GROUP BY table_name, index_name";
    for i in lines(store, indexes).await {
        let what = if i[2] == "0" { "unique" } else { "index" };
        facts.insert(format!("{what} {} ({})", i[0], i[3]), String::new());
    }
    facts
}

/// The page that people read, from the comments in the schema itself.
async fn dictionary(store: &Store) -> String {
    let mut page = "# The catalog's tables\n\nMade from the schema by `tests/store/schema.rs` (`MIGRATEKIT_BLESS=1` writes it anew). SQLite and MariaDB have the same \
                    tables; types are those of MariaDB.\nTimes are microseconds UTC, sizes are bytes.\n"
        .to_owned();
    let tables = "SELECT CONCAT_WS('|', table_name, table_comment) AS value FROM information_schema.tables \
         WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' ORDER BY table_name";
    for table in lines(store, tables).await {
        let (name, about) = (&table[0], &table[1]);
        let _ = write!(page, "\n## {name}\n\n{about}\n\n| column | type | empty | default | what |\n|---|---|---|---|---|\n");
        let columns = format!(
            "SELECT CONCAT_WS('|', column_name, column_type, is_nullable, COALESCE(column_default, ''), column_comment) AS value \
             FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = '{name}' ORDER BY ordinal_position"
        );
        for c in lines(store, &columns).await {
            let given = default(&c[3]);
            let given = if given == "none" { String::new() } else { given };
            let empty = if c[2] == "YES" { "yes" } else { "" };
            let _ = writeln!(page, "| {} | {} | {empty} | {given} | {} |", c[0], c[1], c[4]);
        }
        let keys = format!(
            "SELECT CONCAT_WS('|', k.column_name, k.referenced_table_name, k.referenced_column_name, r.delete_rule) AS value \
             FROM information_schema.key_column_usage k JOIN information_schema.referential_constraints r \
             ON r.constraint_schema = k.table_schema AND r.constraint_name = k.constraint_name \
             WHERE k.table_schema = DATABASE() AND k.table_name = '{name}' AND k.referenced_table_name IS NOT NULL ORDER BY k.column_name"
        );
        let keys: Vec<_> = lines(store, &keys)
            .await
            .iter()
            .map(|k| format!("{} to {}.{} (on delete: {})", k[0], k[1], k[2], k[3].to_lowercase()))
            .collect();
        let uniques = format!(
            "SELECT GROUP_CONCAT(column_name ORDER BY seq_in_index) AS value FROM information_schema.statistics \
             WHERE table_schema = DATABASE() AND table_name = '{name}' AND non_unique = 0 AND index_name <> 'PRIMARY' GROUP BY index_name ORDER BY 1"
        );
        let uniques: Vec<_> = lines(store, &uniques).await.iter().map(|columns| format!("({})", columns[0].replace(',', ", "))).collect();
        if !uniques.is_empty() {
            let _ = write!(page, "\nUnique: {}.\n", uniques.join(", "));
        }
        if !keys.is_empty() {
            let _ = write!(page, "\nRefers to: {}.\n", keys.join("; "));
        }
    }
    page.push_str("\n## Views\n\n| view | columns |\n|---|---|\n");
    let views = "SELECT CONCAT_WS('|', table_name, GROUP_CONCAT(column_name ORDER BY ordinal_position SEPARATOR ', ')) AS value FROM information_schema.columns \
         WHERE table_schema = DATABASE() AND table_name IN (SELECT table_name FROM information_schema.views WHERE table_schema = DATABASE()) \
         GROUP BY table_name ORDER BY table_name";
    for view in lines(store, views).await {
        let _ = writeln!(page, "| {} | {} |", view[0], view[1]);
    }
    page
}
