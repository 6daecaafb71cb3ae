//! The crash model: a job, its journal, the rows of its domain and the world outside, small enough to walk through whole.
//!
//! A [`Node`] is what survives the death of a process: what is committed, and what exists outside. [`Hand`] is what does not: where the runner
//! is within a step, and what it saw. [`ways_on`] gives everything that can happen next, each a single commit or a single change of the world;
//! dying is dropping the hand. [`recover`] is what a new process does, with a world that behaves in one given way from then on.

use super::*;

mod search;
mod table;

/// Tries of a step, and of its undo, in the model.
const TRIES: u32 = 2;

/// Steps that may find that they are not needed.
const SKIPPED: [&str; 3] = ["configuring", "source-vm-power-off", "virtio-driver-injection"];

/// Which rows belong to the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Domain {
    Replication(ReplicationStatus),
    Failover(FailoverKind, FailoverStatus),
}

/// A saga as data: its steps and its pivot.
#[derive(Debug, Clone, Copy)]
struct Saga {
    steps: &'static [&'static str],
    pivot: &'static str,
    domain: Domain,
}

const REPLICATION: Saga = Saga {
    steps: &[
        "initializing",
        "analyzing",
        "provisioning",
        "configuring",
        "snapshotting",
        "replicating",
        "committing",
        "applying",
        "releasing",
    ],
    pivot: "committing",
    domain: Domain::Replication(ReplicationStatus::Pending),
};

const LIVE: Saga = Saga {
    steps: &[
        "validation",
        "source-vm-power-off",
        "final-sync",
        "multi-volume-snapshot-creation",
        "virtio-driver-injection",
        "vm-creation",
        "volume-attachment",
        "vm-startup-and-validation",
        "status-update",
    ],
    pivot: "vm-startup-and-validation",
    domain: Domain::Failover(FailoverKind::Live, FailoverStatus::Pending),
};

const TEST: Saga = Saga {
    steps: &[
        "validation",
        "multi-volume-snapshot-creation",
        "virtio-driver-injection",
        "vm-creation",
        "volume-attachment",
        "vm-startup-and-validation",
        "status-update",
    ],
    pivot: "vm-startup-and-validation",
    domain: Domain::Failover(FailoverKind::Test, FailoverStatus::Pending),
};

/// The steps and the pivot of the saga of this kind as they are walked through here. A test of the engine compares them with those that
/// are shipped, so that what is proven here is proven of them.
pub(crate) fn walked(kind: JobKind) -> Option<(&'static [&'static str], &'static str)> {
    let saga = match kind {
        JobKind::Replication => REPLICATION,
        JobKind::LiveFailover => LIVE,
        JobKind::TestFailover => TEST,
        _ => return None,
    };
    Some((saga.steps, saga.pivot))
}

/// What survives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    journal: Journal,
    intents: Vec<Option<IntentStatus>>,
    world: Vec<bool>,
    domain: Domain,
    shown: Percent,
    dismissed: bool,
}

/// What does not: where the runner is, and what it saw of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Hand {
    Idle,
    Running { step: usize, found: Option<bool> },
    Undoing { step: usize, found: Option<bool> },
}

/// How the world behaves from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Weather {
    steps_succeed: bool,
    undos_succeed: bool,
}

impl Node {
    fn new(saga: Saga) -> Node {
        let step = JournalStep { status: StepStatus::Pending, attempt: 0, attempts: TRIES };
        let count = saga.steps.len();
        Node {
            journal: Journal {
                status: JobStatus::Pending,
                crossed: false,
                cancel_requested: false,
                pause_requested: false,
                undo_requested: false,
                steps: vec![step; count],
            },
            intents: vec![None; count],
            world: vec![false; count],
            domain: saga.domain,
            shown: Percent::ZERO,
            dismissed: false,
        }
    }

    /// A change of the job's status, with the domain's rows in the same commit.
    fn turn(&mut self, on: JobTrigger) {
        self.journal.status = self.journal.status.next(on).unwrap();
        match on {
            JobTrigger::RetryForward => self.journal.steps.iter_mut().for_each(|step| step.attempt = 0),
            JobTrigger::RetryUndo => {
                self.journal.undo_requested = true;
                self.journal.steps.iter_mut().for_each(|step| step.attempt = 0);
            }
            JobTrigger::Dismiss => self.dismissed = true,
            JobTrigger::TooLate => self.journal.cancel_requested = false,
            _ => {}
        }
        let back = self.journal.status == JobStatus::RollingBack && on != JobTrigger::Take;
        let end = self.journal.status;
        match &mut self.domain {
            Domain::Replication(status) => {
                if let Some(end) = ReplicationTrigger::of_end(end) {
                    *status = status.next(end).unwrap();
                }
            }
            Domain::Failover(_, status) => {
                if back && *status != FailoverStatus::Pending {
                    *status = status.next(FailoverTrigger::CleanUp).unwrap();
                }
                if let Some(end) = FailoverTrigger::of_end(end) {
                    *status = status.next(end).unwrap();
                }
            }
        }
        self.show();
    }

    fn step(&mut self, at: usize, on: StepTrigger) {
        let step = &mut self.journal.steps[at];
        step.status = step.status.next(on).unwrap();
        // Nobody reads the count of a step that came to its end; without it, fewer states differ.
        if step.status.is_final() {
            step.attempt = 0;
        }
        self.show();
    }

    fn intent(&mut self, at: usize, on: IntentTrigger) {
        self.intents[at] = Some(self.intents[at].unwrap().next(on).unwrap());
    }

    fn begin(&mut self, saga: Saga, at: usize) {
        self.journal.steps[at].attempt = self.journal.next_attempt(at);
        self.step(at, StepTrigger::Begin);
        let name = saga.steps[at];
        match &mut self.domain {
            Domain::Replication(status) => *status = status.next(ReplicationTrigger::of_step(name).unwrap()).unwrap(),
            Domain::Failover(_, status) => *status = status.next(FailoverTrigger::of_step(name).unwrap()).unwrap(),
        }
        self.show();
    }

    fn complete(&mut self, saga: Saga, at: usize) {
        self.step(at, StepTrigger::Complete);
        self.journal.crossed |= saga.steps[at] == saga.pivot;
    }

    fn show(&mut self) {
        let weights = vec![1; self.journal.steps.len()];
        self.shown = self.journal.percent(self.shown, &weights, Percent::ZERO);
        if let Domain::Failover(kind, status) = self.domain {
            self.shown = self.shown.raised_to(status.percent(kind).min(Percent::capped(99)));
        }
    }
}

/// Everything that can happen next, dying included.
fn ways_on(saga: Saga, node: &Node, hand: Hand) -> Vec<(Node, Hand)> {
    let mut ways = Vec::new();
    let mut way = |change: Change<'_>, hand: Hand| {
        let mut next = node.clone();
        change(&mut next);
        ways.push((next, hand));
    };
    match hand {
        Hand::Idle => match node.journal.next_move() {
            Move::Turn(on) => way(&|n| n.turn(on), Hand::Idle),
            Move::Begin(step) => way(&|n| n.begin(saga, step), Hand::Running { step, found: None }),
            Move::Undo(step) => way(&|n| start_undo(n, step), Hand::Undoing { step, found: None }),
            Move::Rest => {}
        },
        Hand::Running { step, found } => {
            let go = |found| Hand::Running { step, found };
            match effect_move(node.intents[step], found) {
                EffectMove::WriteDown => way(&|n| n.intents[step] = Some(IntentStatus::Intended), go(None)),
                EffectMove::LookFor => way(&|_| {}, go(Some(node.world[step]))),
                EffectMove::Make => {
                    way(&|n| n.world[step] = true, go(Some(true)));
                    // It was made, and the answer was lost.
                    way(&|n| (n.world[step] = true, n.step(step, StepTrigger::Fail)).1, Hand::Idle);
                }
                EffectMove::Record => way(&|n| n.intent(step, IntentTrigger::Effect), go(found)),
                EffectMove::Use => way(&|n| n.complete(saga, step), Hand::Idle),
            }
            way(&|n| n.step(step, StepTrigger::Fail), Hand::Idle);
            if node.intents[step].is_none() && SKIPPED.contains(&saga.steps[step]) {
                way(&|n| n.step(step, StepTrigger::Skip), Hand::Idle);
            }
        }
        Hand::Undoing { step, found } => {
            let go = |found| Hand::Undoing { step, found };
            match removal_move(node.intents[step], found) {
                RemovalMove::LookFor => way(&|_| {}, go(Some(node.world[step]))),
                RemovalMove::Remove => way(&|n| n.world[step] = false, go(Some(false))),
                RemovalMove::Record => way(&|n| n.intent(step, IntentTrigger::Undo), go(found)),
                RemovalMove::Nothing => way(&|n| n.step(step, StepTrigger::UndoDone), Hand::Idle),
            }
            way(&|n| fail_undo(n, step), Hand::Idle);
        }
    }
    if hand != Hand::Idle {
        way(&|_| {}, Hand::Idle);
    }
    people(node, &mut |change| way(change, hand));
    ways
}

/// A change that survives.
type Change<'a> = &'a dyn Fn(&mut Node);

/// What people do meanwhile.
fn people(node: &Node, way: &mut dyn FnMut(Change<'_>)) {
    let busy = node.journal.status.is_busy() && node.journal.status != JobStatus::RollingBack;
    if busy && !node.journal.cancel_requested && !node.journal.crossed {
        way(&|n| n.journal.cancel_requested = true);
    }
    if busy && !node.journal.crossed {
        way(&|n| n.journal.pause_requested = !n.journal.pause_requested);
    }
    for on in node.journal.retries() {
        way(&|n| n.turn(*on));
    }
}

fn start_undo(node: &mut Node, step: usize) {
    node.journal.steps[step].attempt = node.journal.next_attempt(step);
    node.step(step, StepTrigger::Undo);
}

fn fail_undo(node: &mut Node, step: usize) {
    if node.intents[step].is_some_and(|intent| intent != IntentStatus::Undone) {
        node.intent(step, IntentTrigger::LeaveOver);
    }
    node.step(step, StepTrigger::UndoFail);
}

/// What a new process does with what survived, until the job is at rest: the moves that the runner makes, each seen by `seen`.
fn recover(saga: Saga, mut node: Node, weather: Weather, seen: &mut dyn FnMut(&Node, Move)) -> Node {
    // No move twice in one place: each begins a step (at most TRIES times each way), or turns the job (at most once each way).
    let bound = saga.steps.len() * 2 * (TRIES as usize + 1) + JobTrigger::ALL.len();
    for _ in 0..bound {
        let next = node.journal.next_move();
        seen(&node, next);
        match next {
            Move::Rest => return node,
            Move::Turn(on) => node.turn(on),
            Move::Begin(step) => {
                node.begin(saga, step);
                run(saga, &mut node, step, weather);
            }
            Move::Undo(step) => {
                start_undo(&mut node, step);
                undo(&mut node, step, weather);
            }
        }
    }
    panic!("not at rest after {bound} moves: {node:?}");
}

fn run(saga: Saga, node: &mut Node, step: usize, weather: Weather) {
    let mut found = None;
    loop {
        match effect_move(node.intents[step], found) {
            EffectMove::WriteDown => node.intents[step] = Some(IntentStatus::Intended),
            EffectMove::LookFor => found = Some(node.world[step]),
            EffectMove::Make if !weather.steps_succeed => return node.step(step, StepTrigger::Fail),
            EffectMove::Make => (node.world[step], found) = (true, Some(true)),
            EffectMove::Record => node.intent(step, IntentTrigger::Effect),
            EffectMove::Use if !weather.steps_succeed => return node.step(step, StepTrigger::Fail),
            EffectMove::Use => return node.complete(saga, step),
        }
    }
}

fn undo(node: &mut Node, step: usize, weather: Weather) {
    let mut found = None;
    loop {
        match removal_move(node.intents[step], found) {
            RemovalMove::LookFor => found = Some(node.world[step]),
            RemovalMove::Remove if !weather.undos_succeed => return fail_undo(node, step),
            RemovalMove::Remove => (node.world[step], found) = (false, Some(false)),
            RemovalMove::Record => node.intent(step, IntentTrigger::Undo),
            RemovalMove::Nothing => return node.step(step, StepTrigger::UndoDone),
        }
    }
}
