//! Users, audit, networks, groups, schedules, enrollments, exports: what is kept, refused, taken along.

use migratekit_core::id::{
    ConnectionId, EnrollmentId, Epoch, ExecutionId, GroupId, MembershipId, PairingId, ScheduleId, TokenId, UserId, VolumeId,
};
use migratekit_core::model::{
    ApiToken, Connection, ConnectionEvent, ConnectionStatus, Enrollment, EnrollmentStatus, Execution, ExecutionStatus, ExportStatus, Group,
    JobStatus, MappingType, MappingValidation, Membership, PairingCode, ReplicationMode, Role, Schedule, ScheduleType, User,
};
use migratekit_core::store::{NewAuditEntry, NewConnectionAudit, NewExport, NewMapping};
use migratekit_core::{ErrorKind, Result, Store, on_both_catalogs};

use crate::rows::{add_job, add_vm, at, call, vm};

on_both_catalogs! {
    users_and_their_tokens,
    the_audit_is_read_backwards_by_pages,
    networks_are_chosen_and_chosen_again,
    groups_and_their_members,
    a_schedule_runs_once_for_each_moment,
    a_pairing_code_is_used_once,
    an_enrollment_changes_from_the_state_it_was_seen_in,
    an_epoch_of_an_export_never_falls,
}

async fn users_and_their_tokens(store: Store) {
    let user = &User {
        id: UserId::generate(),
        name: "ann".into(),
        role: Role::Admin,
        password_hash: Some("$argon2$x".into()),
        is_active: true,
        last_login: None,
        created_at: at(1),
        updated_at: at(1),
    };
    let token = &ApiToken {
        id: TokenId::generate(),
        user: user.id.clone(),
        name: "ci".into(),
        digest: "d".into(),
        expires_at: Some(at(9)),
        last_used: None,
        revoked_at: None,
        created_at: at(1),
    };
    call!(store, |tx| tx.users().add(user)).unwrap();
    call!(store, |tx| tx.users().add_token(token)).unwrap();
    let twin = &User { id: UserId::generate(), ..user.clone() };
    assert_eq!(call!(store, |tx| tx.users().add(twin)).unwrap_err().context_value("unique"), Some("name"));
    assert_eq!(call!(store, |tx| tx.users().by_name("ann")).unwrap().as_ref(), Some(user));
    assert_eq!(call!(store, |tx| tx.users().token("d")).unwrap(), Some((token.clone(), user.clone())));
    assert_eq!(call!(store, |tx| tx.users().token("other")).unwrap(), None);
    call!(store, |tx| tx.users().set_role(&user.id, Role::Viewer, false, at(2))).unwrap();
    call!(store, |tx| tx.users().set_password(&user.id, None, at(3))).unwrap();
    call!(store, |tx| tx.users().signed_in(&user.id, at(4))).unwrap();
    let now = call!(store, |tx| tx.users().all()).unwrap();
    let wanted =
        User { role: Role::Viewer, is_active: false, password_hash: None, last_login: Some(at(4)), updated_at: at(3), ..user.clone() };
    assert_eq!(now, [wanted]);
    call!(store, |tx| tx.users().used(&token.id, at(5))).unwrap();
    call!(store, |tx| tx.users().revoke(&token.id, at(6))).unwrap();
    call!(store, |tx| tx.users().revoke(&token.id, at(7))).unwrap();
    let tokens = call!(store, |tx| tx.users().tokens(&user.id)).unwrap();
    assert_eq!((tokens[0].last_used, tokens[0].revoked_at), (Some(at(5)), Some(at(6))), "the first end counts");
    call!(store, |tx| tx.users().remove(&user.id)).unwrap();
    assert_eq!(call!(store, |tx| tx.users().token("d")).unwrap(), None, "tokens go with their user");
    let nobody: [Result<()>; 4] = [
        call!(store, |tx| tx.users().remove(&user.id)),
        call!(store, |tx| tx.users().signed_in(&user.id, at(1))),
        call!(store, |tx| tx.users().revoke(&token.id, at(1))),
        call!(store, |tx| tx.users().used(&token.id, at(1))),
    ];
    assert!(nobody.into_iter().all(|result| result.unwrap_err().kind() == ErrorKind::NotFound));
    assert_eq!(call!(store, |tx| tx.users().add_token(token)).unwrap_err().kind(), ErrorKind::NotFound, "no user, no token");
}

async fn the_audit_is_read_backwards_by_pages(store: Store) {
    for i in 0..25 {
        let details = &serde_json::json!({ "n": i });
        let entry = &NewAuditEntry {
            actor: "cli",
            action: "key.rotate",
            subject_kind: "key",
            subject_id: "k",
            details: Some(details),
            source_ip: None,
            success: i % 2 == 0,
        };
        call!(store, |tx| tx.audit().add(entry, at(i))).unwrap();
    }
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = call!(store, |tx| tx.audit().page(before, 10)).unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        seen.extend(page.into_iter().map(|entry| (entry.details.unwrap()["n"].as_i64().unwrap(), entry.success, entry.created_at)));
    }
    assert_eq!(seen, (0..25).rev().map(|i| (i, i % 2 == 0, at(i))).collect::<Vec<_>>());
}

async fn networks_are_chosen_and_chosen_again(store: Store) {
    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let first = &NewMapping {
        source_network: "LAN",
        is_test: false,
        destination_id: "n1",
        destination_name: "net 1",
        kind: MappingType::Live,
        strategy: None,
    };
    call!(store, |tx| tx.networks().choose(&vm.id, first, at(1))).unwrap();
    let test = &NewMapping { is_test: true, ..*first };
    call!(store, |tx| tx.networks().choose(&vm.id, test, at(1))).unwrap();
    let all = &call!(store, |tx| tx.networks().of(&vm.id)).unwrap();
    assert_eq!(all.len(), 2);
    call!(store, |tx| tx.networks().validated(all[0].id, MappingValidation::Valid, at(2))).unwrap();
    let other = &NewMapping { destination_id: "n2", strategy: Some("keep"), ..*first };
    call!(store, |tx| tx.networks().choose(&vm.id, other, at(3))).unwrap();
    let again = call!(store, |tx| tx.networks().of(&vm.id)).unwrap();
    assert_eq!((again.len(), again[0].id), (2, all[0].id), "the row stays");
    assert_eq!((again[0].destination_id.as_str(), again[0].validation, again[0].last_validated), ("n2", MappingValidation::Pending, None));
    assert_eq!((again[0].created_at, again[0].updated_at), (at(1), at(3)));
    call!(store, |tx| tx.networks().remove(all[0].id)).unwrap();
    assert_eq!(call!(store, |tx| tx.networks().remove(all[0].id)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        call!(store, |tx| tx.networks().validated(all[0].id, MappingValidation::Valid, at(2))).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

fn schedule(name: &str) -> Schedule {
    Schedule {
        id: ScheduleId::generate(),
        name: name.into(),
        description: None,
        kind: ScheduleType::Cron,
        cron_expression: Some("0 0 3 * * *".into()),
        timezone: "Europe/London".into(),
        chain_parent: None,
        chain_delay_minutes: 0,
        mode: ReplicationMode::Auto,
        max_concurrent_jobs: 2,
        retry_attempts: 3,
        retry_delay_minutes: 30,
        enabled: true,
        skip_if_running: true,
        created_by: Some("ann".into()),
        created_at: at(1),
        updated_at: at(1),
    }
}

async fn groups_and_their_members(store: Store) {
    let (vm, nightly) = (&vm("web", "vm-1"), &schedule("nightly"));
    add_vm(&store, vm).await.unwrap();
    call!(store, |tx| tx.schedules().add(nightly)).unwrap();
    let group = &Group {
        id: GroupId::generate(),
        name: "tier 1".into(),
        description: Some("first".into()),
        schedule: Some(nightly.id.clone()),
        max_concurrent_vms: 5,
        priority: -1,
        created_by: None,
        created_at: at(1),
        updated_at: at(1),
    };
    call!(store, |tx| tx.groups().add(group)).unwrap();
    assert_eq!(call!(store, |tx| tx.groups().by_name("tier 1")).unwrap().as_ref(), Some(group));
    let twin = &Group { id: GroupId::generate(), ..group.clone() };
    assert_eq!(call!(store, |tx| tx.groups().add(twin)).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let member = &Membership {
        id: MembershipId::generate(),
        group: group.id.clone(),
        context: vm.id.clone(),
        enabled: true,
        priority: 3,
        schedule_override: Some(nightly.id.clone()),
        added_at: at(2),
    };
    call!(store, |tx| tx.groups().join(member)).unwrap();
    let twice = &Membership { id: MembershipId::generate(), ..member.clone() };
    assert_eq!(call!(store, |tx| tx.groups().join(twice)).unwrap_err().context_value("unique"), Some("group_id,vm_context_id"));
    assert_eq!(call!(store, |tx| tx.groups().members(&group.id, None)).unwrap(), std::slice::from_ref(member));
    assert!(call!(store, |tx| tx.groups().members(&group.id, Some(member))).unwrap().is_empty(), "nobody behind the last");
    assert_eq!(call!(store, |tx| tx.groups().of(&vm.id)).unwrap(), std::slice::from_ref(member));
    assert_eq!(call!(store, |tx| tx.groups().size(&group.id)).unwrap(), 1);
    // The schedule goes, its group and its members stay without it.
    call!(store, |tx| tx.schedules().remove(&nightly.id)).unwrap();
    assert_eq!(call!(store, |tx| tx.groups().all()).unwrap(), [Group { schedule: None, ..group.clone() }]);
    assert_eq!(call!(store, |tx| tx.groups().of(&vm.id)).unwrap()[0].schedule_override, None);
    let renamed = &Group { name: "tier 2".into(), schedule: None, updated_at: at(9), ..group.clone() };
    call!(store, |tx| tx.groups().update(renamed)).unwrap();
    assert_eq!(call!(store, |tx| tx.groups().all()).unwrap(), std::slice::from_ref(renamed));
    call!(store, |tx| tx.groups().leave(&group.id, &vm.id)).unwrap();
    assert_eq!(call!(store, |tx| tx.groups().leave(&group.id, &vm.id)).unwrap_err().kind(), ErrorKind::NotFound);
    let plain = &Membership { schedule_override: None, ..member.clone() };
    call!(store, |tx| tx.groups().join(plain)).unwrap();
    call!(store, |tx| tx.groups().remove(&group.id)).unwrap();
    assert!(call!(store, |tx| tx.groups().of(&vm.id)).unwrap().is_empty(), "memberships go with their group");
    assert_eq!(call!(store, |tx| tx.groups().update(group)).unwrap_err().kind(), ErrorKind::NotFound);
}

async fn a_schedule_runs_once_for_each_moment(store: Store) {
    let nightly = &schedule("nightly");
    call!(store, |tx| tx.schedules().add(nightly)).unwrap();
    assert_eq!(call!(store, |tx| tx.schedules().by_name("nightly")).unwrap().as_ref(), Some(nightly));
    let twin = &schedule("nightly");
    assert_eq!(call!(store, |tx| tx.schedules().add(twin)).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let run = |moment: i64| Execution {
        id: ExecutionId::generate(),
        schedule: nightly.id.clone(),
        group: None,
        scheduled_at: at(moment),
        started_at: None,
        completed_at: None,
        status: ExecutionStatus::Scheduled,
        vms_eligible: 3,
        jobs_created: 0,
        jobs_completed: 0,
        jobs_failed: 0,
        jobs_skipped: 0,
        details: None,
        errors: None,
        triggered_by: "scheduler".into(),
        created_at: at(moment),
    };
    let (first, second) = (&run(10), &run(20));
    call!(store, |tx| tx.schedules().begin(first)).unwrap();
    call!(store, |tx| tx.schedules().begin(second)).unwrap();
    let twin = &run(20);
    assert_eq!(call!(store, |tx| tx.schedules().begin(twin)).unwrap_err().context_value("unique"), Some("schedule_id,scheduled_at"));
    let done = &Execution {
        status: ExecutionStatus::Running,
        started_at: Some(at(11)),
        jobs_created: 2,
        details: Some(serde_json::json!(["a"])),
        ..first.clone()
    };
    call!(store, |tx| tx.schedules().advance(done, ExecutionStatus::Scheduled)).unwrap();
    assert_eq!(call!(store, |tx| tx.schedules().advance(done, ExecutionStatus::Scheduled)).unwrap_err().kind(), ErrorKind::Changed);
    assert_eq!(call!(store, |tx| tx.schedules().execution(&first.id)).unwrap().as_ref(), Some(done));
    assert_eq!(call!(store, |tx| tx.schedules().executions(&nightly.id, None, 10)).unwrap(), [second.clone(), done.clone()]);
    assert_eq!(call!(store, |tx| tx.schedules().executions(&nightly.id, Some(at(20)), 10)).unwrap(), std::slice::from_ref(done));
    call!(store, |tx| tx.schedules().enable(&nightly.id, false, None)).unwrap();
    assert!(!call!(store, |tx| tx.schedules().all()).unwrap()[0].enabled);
    call!(store, |tx| tx.schedules().remove(&nightly.id)).unwrap();
    assert_eq!(call!(store, |tx| tx.schedules().execution(&first.id)).unwrap(), None);
    assert_eq!(call!(store, |tx| tx.schedules().enable(&nightly.id, true, None)).unwrap_err().kind(), ErrorKind::NotFound);
}

pub(crate) fn enrollment(name: &str, pairing: Option<PairingId>) -> Enrollment {
    Enrollment {
        id: EnrollmentId::generate(),
        pairing,
        public_key: "ssh-ed25519 AAAA".into(),
        name: name.into(),
        version: None,
        fingerprint: format!("SHA256:{name}"),
        ip_address: Some("192.0.2.1".into()),
        challenge_nonce: Some("n".into()),
        status: EnrollmentStatus::PendingVerification,
        reverse_port: None,
        approved_by: None,
        approved_at: None,
        expires_at: at(100),
        created_at: at(1),
        updated_at: at(1),
    }
}

async fn a_pairing_code_is_used_once(store: Store) {
    let code = &PairingCode {
        id: PairingId::generate(),
        code_digest: "d".into(),
        generated_by: "ann".into(),
        used_by: None,
        used_at: None,
        expires_at: at(100),
        created_at: at(1),
    };
    call!(store, |tx| tx.enrollments().add_code(code)).unwrap();
    let vma = &enrollment("a", Some(code.id.clone()));
    call!(store, |tx| tx.enrollments().add(vma)).unwrap();
    let mut texts = std::collections::BTreeSet::new();
    let mut denied = |result: Result<()>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        texts.insert(error.message().to_owned());
    };
    denied(call!(store, |tx| tx.enrollments().use_code("other", &vma.id, at(5))));
    denied(call!(store, |tx| tx.enrollments().use_code("d", &vma.id, at(100))));
    call!(store, |tx| tx.enrollments().use_code("d", &vma.id, at(99))).unwrap();
    denied(call!(store, |tx| tx.enrollments().use_code("d", &vma.id, at(99))));
    assert_eq!(texts.len(), 1, "nobody learns why");
}

async fn an_enrollment_changes_from_the_state_it_was_seen_in(store: Store) {
    let (one, two) = (&enrollment("a", None), &enrollment("b", None));
    for vma in [one, two] {
        call!(store, |tx| tx.enrollments().add(vma)).unwrap();
    }
    let approved = &Enrollment {
        status: EnrollmentStatus::Approved,
        reverse_port: Some(20_001),
        approved_by: Some("ann".into()),
        approved_at: Some(at(5)),
        challenge_nonce: None,
        updated_at: at(5),
        ..one.clone()
    };
    call!(store, |tx| tx.enrollments().advance(approved, EnrollmentStatus::PendingVerification)).unwrap();
    assert_eq!(
        call!(store, |tx| tx.enrollments().advance(approved, EnrollmentStatus::PendingVerification)).unwrap_err().kind(),
        ErrorKind::Changed
    );
    assert_eq!(call!(store, |tx| tx.enrollments().get(&one.id)).unwrap().as_ref(), Some(approved));
    assert_eq!(call!(store, |tx| tx.enrollments().all()).unwrap().len(), 2);
    let same_port = &Enrollment { reverse_port: Some(20_001), ..two.clone() };
    let taken = call!(store, |tx| tx.enrollments().advance(same_port, EnrollmentStatus::PendingVerification)).unwrap_err();
    assert_eq!(taken.context_value("unique"), Some("reverse_port"));
    let connection = &Connection {
        id: ConnectionId::generate(),
        enrollment: one.id.clone(),
        name: "a".into(),
        fingerprint: one.fingerprint.clone(),
        ssh_user: "vma_tunnel".into(),
        status: ConnectionStatus::Connected,
        last_seen_at: Some(at(6)),
        connected_at: Some(at(6)),
        revoked_at: None,
        revoked_by: None,
    };
    call!(store, |tx| tx.enrollments().set_connection(connection)).unwrap();
    let gone = &Connection { status: ConnectionStatus::Disconnected, last_seen_at: Some(at(7)), ..connection.clone() };
    call!(store, |tx| tx.enrollments().set_connection(gone)).unwrap();
    assert_eq!(call!(store, |tx| tx.enrollments().connection(&one.id)).unwrap().as_ref(), Some(gone));
    let line = &NewConnectionAudit {
        event: ConnectionEvent::Approval,
        source_ip: Some("192.0.2.1"),
        user_agent: None,
        approved_by: Some("ann"),
        details: None,
    };
    call!(store, |tx| tx.enrollments().record(&one.id, line, at(5))).unwrap();
    call!(store, |tx| tx.enrollments().remove(&one.id)).unwrap();
    let history = call!(store, |tx| tx.enrollments().history(Some(&one.fingerprint))).unwrap();
    assert_eq!(
        (history.len(), &history[0].enrollment, history[0].event),
        (1, &None, ConnectionEvent::Approval),
        "it outlives its enrollment"
    );
    assert_eq!(call!(store, |tx| tx.enrollments().history(None)).unwrap(), history);
    assert_eq!(call!(store, |tx| tx.enrollments().connection(&one.id)).unwrap(), None);
    assert_eq!(call!(store, |tx| tx.enrollments().record(&one.id, line, at(5))).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(call!(store, |tx| tx.enrollments().remove(&one.id)).unwrap_err().kind(), ErrorKind::NotFound);
}

async fn an_epoch_of_an_export_never_falls(store: Store) {
    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let job = &add_job(&store, Some(&vm.id), None, JobStatus::Running, 1).await.unwrap();
    let volume = &VolumeId::generate();
    let epoch = |n: u64| Epoch::try_from(n).unwrap();
    let new = &NewExport {
        context: &vm.id,
        job: None,
        volume,
        disk: None,
        name: "migration-vol-1",
        port: None,
        device_path: Some("/x"),
        epoch: epoch(3),
    };
    let export = &call!(store, |tx| tx.exports().add(new, at(1))).unwrap();
    assert_eq!((export.status, export.epoch, &export.volume), (ExportStatus::Pending, epoch(3), volume));
    assert_eq!(call!(store, |tx| tx.exports().add(new, at(1))).unwrap_err().kind(), ErrorKind::AlreadyExists);
    call!(store, |tx| tx.exports().set_status(export, ExportStatus::Active)).unwrap();
    assert_eq!(call!(store, |tx| tx.exports().set_status(export, ExportStatus::Failed)).unwrap_err().kind(), ErrorKind::Changed);
    call!(store, |tx| tx.exports().raise(export.id, epoch(5), job)).unwrap();
    assert_eq!(call!(store, |tx| tx.exports().raise(export.id, epoch(4), job)).unwrap_err().kind(), ErrorKind::Changed);
    let now = call!(store, |tx| tx.exports().of(&vm.id)).unwrap();
    assert_eq!((now[0].epoch, now[0].job.as_ref(), now[0].status), (epoch(5), Some(job), ExportStatus::Active));
    call!(store, |tx| tx.exports().remove(export.id)).unwrap();
    assert_eq!(call!(store, |tx| tx.exports().by_name("migration-vol-1")).unwrap(), None);
    assert_eq!(call!(store, |tx| tx.exports().remove(export.id)).unwrap_err().kind(), ErrorKind::NotFound);
}
