//! The table of what recovery does, by step and by the moment of death: `docs/reference/recovery.md`, which is a snapshot of it.
//! `MIGRATEKIT_BLESS=1 cargo test -p migratekit-core --lib model::crash::table` writes it anew.

use std::fmt::Write;
use std::path::Path;

use super::*;

const HEAD: &str = "# What recovery does\n\n\
    For each saga: the process dies in a step, at one of its moments. A new process takes the job over by a new epoch, reads the journal, and\n\
    goes on. The columns say what it does first, and where the job comes to rest: when all goes well, when the steps keep failing, when their\n\
    undo keeps failing too. This file is generated; a test compares it with the program. To write it anew:\n\
    `MIGRATEKIT_BLESS=1 cargo test -p migratekit-core --lib model::crash::table`.\n";

/// The moments of a step at which a process can die, in their order.
const MOMENTS: [&str; 6] = [
    "before it is begun",
    "begun, nothing written down",
    "the intent is written down",
    "the thing is made, its id is not written down",
    "its id is written down",
    "the step is committed",
];

/// What survives when a process dies at this moment of this step, everything before having gone well.
fn survives(saga: Saga, step: usize, moment: usize) -> Node {
    let mut node = Node::new(saga);
    node.turn(JobTrigger::Take);
    for done in 0..step {
        node.begin(saga, done);
        run(saga, &mut node, done, Weather { steps_succeed: true, undos_succeed: true });
    }
    let acts: [&dyn Fn(&mut Node); 5] = [
        &|n| n.begin(saga, step),
        &|n| n.intents[step] = Some(IntentStatus::Intended),
        &|n| n.world[step] = true,
        &|n| n.intent(step, IntentTrigger::Effect),
        &|n| n.complete(saga, step),
    ];
    for act in acts.iter().take(moment) {
        act(&mut node);
    }
    node
}

fn first_move(saga: Saga, node: &Node) -> String {
    match node.journal.next_move() {
        Move::Begin(at) => {
            let thing = match (node.intents[at], effect_move(node.intents[at], Some(node.world[at]))) {
                (None, _) => "",
                (_, EffectMove::Record) => ": finds what was made, writes its id down",
                (_, EffectMove::Make) => ": finds nothing, makes it",
                (_, _) => ": uses what is there",
            };
            let verb = if node.journal.steps[at].status == StepStatus::Pending { "begins" } else { "repeats" };
            format!("{verb} {}{thing}", saga.steps[at])
        }
        Move::Undo(at) => format!("undoes {}", saga.steps[at]),
        Move::Turn(on) => format!("turns it: {on}"),
        Move::Rest => "nothing".to_owned(),
    }
}

fn rows(saga: Saga) -> String {
    let mut text = String::from("| step | died when | first | all well | steps fail | undo fails too |\n|---|---|---|---|---|---|\n");
    for (at, name) in saga.steps.iter().enumerate() {
        let name = if *name == saga.pivot { format!("**{name}** (pivot)") } else { (*name).to_owned() };
        for (moment, died) in MOMENTS.iter().enumerate() {
            let node = survives(saga, at, moment);
            let ends = [(true, true), (false, true), (false, false)].map(|(steps_succeed, undos_succeed)| {
                recover(saga, node.clone(), Weather { steps_succeed, undos_succeed }, &mut |_, _| {}).journal.status
            });
            let first = first_move(saga, &node);
            writeln!(text, "| {name} | {died} | {first} | {} | {} | {} |", ends[0], ends[1], ends[2]).unwrap();
        }
    }
    text
}

#[test]
fn the_reference_shows_this_table() {
    let mut text = HEAD.to_owned();
    for (title, saga) in [("Replication", REPLICATION), ("Live failover", LIVE), ("Test failover", TEST)] {
        write!(text, "\n## {title}\n\n{}", rows(saga)).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/recovery.md");
    if std::env::var_os("MIGRATEKIT_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let shown = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(shown == text, "docs/reference/recovery.md is not what the program does; see this file's head");
}

#[test]
fn behind_the_pivot_nothing_ends_but_complete_or_with_a_person() {
    for saga in [REPLICATION, LIVE, TEST] {
        let pivot = saga.steps.iter().position(|step| *step == saga.pivot).unwrap();
        for at in 0..saga.steps.len() {
            for (moment, died) in MOMENTS.iter().enumerate() {
                let node = survives(saga, at, moment);
                let crossed = at > pivot || (at == pivot && moment == 5);
                assert_eq!(node.journal.crossed, crossed);
                let end = recover(saga, node, Weather { steps_succeed: false, undos_succeed: true }, &mut |_, _| {}).journal.status;
                let last = at + 1 == saga.steps.len() && moment == 5;
                let expected = match (crossed, last) {
                    (_, true) => JobStatus::Completed,
                    (true, false) => JobStatus::NeedsAttention,
                    (false, _) => JobStatus::Failed,
                };
                assert_eq!(end, expected, "{} {died}", saga.steps[at]);
            }
        }
    }
}
