//! The table of workflows, row by row; then every combination there is.

use super::*;

const DISKS: [u32; 3] = [2000, 2001, 2002];

fn disks() -> Vec<DiskKey> {
    DISKS.map(DiskKey::new).to_vec()
}

fn report(marks: &[Option<&str>]) -> FinalReport {
    FinalReport { disks: disks().into_iter().zip(marks.iter().map(|mark| mark.map(str::to_owned))).collect() }
}

fn facts(other: OtherSide) -> RecoveryFacts {
    RecoveryFacts { status: JobStatus::Running, owner: Owner::Dead, crossed: false, other, disks: disks(), asked: 0 }
}

fn at(percent: u8) -> OtherSide {
    OtherSide::Running { percent: Percent::capped(percent) }
}

#[test]
fn running_is_followed_again_with_its_progress() {
    assert_eq!(decide(&facts(at(42))), Decision::Follow(Percent::capped(42)));
}

#[test]
fn completed_with_proof_is_finished_and_the_proof_has_every_change_id() {
    let Decision::Finish(proof) = decide(&facts(OtherSide::Completed(Some(report(&[Some("a"), Some("b"), Some("c")]))))) else {
        panic!("it must finish")
    };
    assert_eq!(proof.change_ids().values().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(proof.change_ids().keys().copied().collect::<Vec<_>>(), disks());
}

#[test]
fn completed_without_the_report_or_a_change_id_is_asked_again_and_then_fails() {
    let mut foreign = report(&[Some("a"), Some("b"), Some("c")]);
    foreign.disks.insert(DiskKey::new(2009), Some("d".into()));
    for reports in [
        None,
        Some(FinalReport::default()),
        Some(report(&[Some("a"), None, Some("c")])),
        Some(report(&[Some("a"), Some(""), Some("c")])),
        Some(report(&[Some("a"), Some("b")])),
        Some(foreign),
    ] {
        for asked in 0..=ASKS + 1 {
            let found = decide(&RecoveryFacts { asked, ..facts(OtherSide::Completed(reports.clone())) });
            let expected = if asked < ASKS { Decision::AskAgain } else { Decision::Fail(Lost::NoProof) };
            assert_eq!(found, expected, "{reports:?}, asked {asked} times");
        }
    }
    assert_eq!(Proof::of(&FinalReport::default(), &[]), None, "no disks prove nothing");
}

#[test]
fn failed_fails_with_the_error_of_the_other_side() {
    let found = decide(&facts(OtherSide::Failed { message: "disk gone".into() }));
    assert_eq!(found, Decision::Fail(Lost::Reported("disk gone".into())));
}

#[test]
fn not_found_is_lost_whatever_the_percent() {
    assert_eq!(decide(&facts(OtherSide::NotFound)), Decision::Fail(Lost::JobLost));
    let codes = [Lost::NoProof, Lost::JobLost, Lost::Reported(String::new())].map(|lost| lost.code());
    assert_eq!(codes, ["no_proof", "job_lost", "vma_reported_failure"]);
}

#[test]
fn unreachable_is_not_failed() {
    for (seconds, expected) in [
        (0, Decision::MarkUnreachable),
        (30 * 60 - 1, Decision::MarkUnreachable),
        (30 * 60, Decision::NeedsAttention),
        (u64::MAX, Decision::NeedsAttention),
    ] {
        assert_eq!(decide(&facts(OtherSide::Unreachable { since: Duration::from_secs(seconds) })), expected, "{seconds} s");
    }
}

#[test]
fn a_living_owner_is_left_alone_and_a_dead_one_is_not_waited_for() {
    for owner in [Owner::Us, Owner::Alive] {
        assert_eq!(decide(&RecoveryFacts { owner, ..facts(OtherSide::NotFound) }), Decision::Leave(Leave::Owned));
    }
    for owner in [Owner::Dead, Owner::None] {
        assert_eq!(decide(&RecoveryFacts { owner, ..facts(OtherSide::None) }), Decision::TakeOver);
    }
    assert_eq!(
        decide(&RecoveryFacts { owner: Owner::None, status: JobStatus::Pending, ..facts(OtherSide::None) }),
        Decision::Leave(Leave::Waiting)
    );
    assert_eq!(decide(&RecoveryFacts { status: JobStatus::Pending, ..facts(OtherSide::None) }), Decision::TakeOver);
}

/// Every combination of all facts, with what must hold for each.
#[test]
fn no_combination_of_facts_leaves_a_dead_owners_job_alone_or_completes_without_proof() {
    let others = [
        OtherSide::None,
        at(0),
        at(99),
        OtherSide::Completed(None),
        OtherSide::Completed(Some(report(&[Some("a"), None, Some("c")]))),
        OtherSide::Completed(Some(report(&[Some("a"), Some("b"), Some("c")]))),
        OtherSide::Failed { message: "x".into() },
        OtherSide::NotFound,
        OtherSide::Unreachable { since: Duration::ZERO },
        OtherSide::Unreachable { since: UNREACHABLE_LIMIT },
    ];
    let mut seen = 0;
    for &status in JobStatus::ALL {
        for owner in [Owner::None, Owner::Us, Owner::Alive, Owner::Dead] {
            for crossed in [false, true] {
                for asked in [0, ASKS] {
                    for other in &others {
                        let facts = RecoveryFacts { status, owner, crossed, other: other.clone(), disks: disks(), asked };
                        judge(&facts, &decide(&facts));
                        seen += 1;
                    }
                }
            }
        }
    }
    assert_eq!(seen, 10 * 4 * 2 * 2 * 10);
}

fn judge(facts: &RecoveryFacts, found: &Decision) {
    let owned = matches!(facts.owner, Owner::Us | Owner::Alive);
    match found {
        Decision::Leave(Leave::AtRest) => assert!(!facts.status.is_busy(), "{facts:?}"),
        Decision::Leave(Leave::Owned) => assert!(owned, "{facts:?}"),
        Decision::Leave(Leave::Paused) => assert_eq!(facts.status, JobStatus::Paused, "{facts:?}"),
        Decision::Leave(Leave::Waiting) => assert_eq!((facts.status, facts.owner), (JobStatus::Pending, Owner::None), "{facts:?}"),
        Decision::Finish(proof) => {
            assert_eq!(proof.change_ids().len(), facts.disks.len(), "{facts:?}");
            assert!(matches!(&facts.other, OtherSide::Completed(Some(_))), "{facts:?}");
        }
        Decision::Fail(_) | Decision::AskAgain | Decision::NeedsAttention => {
            assert!(!facts.crossed, "behind the pivot nothing fails any more: {facts:?}");
        }
        Decision::MarkUnreachable => assert!(matches!(facts.other, OtherSide::Unreachable { .. }), "{facts:?}"),
        Decision::TakeOver | Decision::Follow(_) => {}
    }
    if !matches!(found, Decision::Leave(_)) {
        assert!(facts.status.is_busy() && !owned, "what somebody owns or what is at rest is not touched: {facts:?}");
    }
}
