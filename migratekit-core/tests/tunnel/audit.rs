//! The judgement of `ssh-audit`: what our server agrees to is what is held for safe today.

use std::process::{Command, Output};

use migratekit_core::testing::peer::program;
use serde_json::Value;

use crate::rig::{Rig, soon};

async fn audit(rig: &Rig, args: &[&str]) -> Output {
    let mut command = Command::new(program("ssh-audit"));
    command.args(args).args(["-p", &rig.address.port().to_string(), "127.0.0.1"]);
    soon("ssh-audit", tokio::task::spawn_blocking(move || command.output().unwrap())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_audit_has_nothing_against_our_server() {
    let rig = Rig::echo().await;
    let out = audit(&rig, &["--json", "--skip-rate-test"]).await;
    let report: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    for part in ["kex", "key", "enc", "mac"] {
        let algorithms = report[part].as_array().unwrap();
        assert!(!algorithms.is_empty(), "{part} is not looked at: {report}");
        for algorithm in algorithms {
            let notes = algorithm["notes"].as_object().unwrap();
            let bad: Vec<_> = ["fail", "warn"].iter().filter_map(|level| notes.get(*level)).collect();
            assert!(bad.is_empty(), "{}: {bad:?}", algorithm["algorithm"]);
        }
    }
    let names: Vec<&str> = report["enc"].as_array().unwrap().iter().map(|e| e["algorithm"].as_str().unwrap()).collect();
    assert!(names[0].contains("gcm") && names[1].contains("gcm"), "AES-GCM comes first: {names:?}");
    assert_eq!(report["cves"], serde_json::json!([]));
    assert_eq!(report["recommendations"], serde_json::json!({}), "it would change something");
    assert_eq!(out.status.code(), Some(0), "{out:?}");

    // As a person sees it, with its test of many connections.
    let text = audit(&rig, &["--no-colors"]).await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("(kex) ") && !text.contains("[fail]") && !text.contains("[warn]"), "{text}");
    let _link = soon("a login after that", rig.client().connect()).await.unwrap();
    rig.close().await;
}
