//! Exit codes and hints: what an error of the library means for the one who typed the command.

use std::fmt::Write as _;

use migratekit_core::{Error, ErrorKind, Retry};

use crate::args::Command;
use crate::told::Told;

/// The exit code of a kind. Codes are stable; 0 is success, 2 a wrong command line (clap's own), 130 a second Ctrl-C.
pub(crate) fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidInput => 3,
        ErrorKind::NotFound => 4,
        ErrorKind::AlreadyExists => 5,
        ErrorKind::Busy => 6,
        ErrorKind::Denied => 7,
        ErrorKind::Unsupported => 8,
        ErrorKind::ReadOnly => 9,
        ErrorKind::NoSpace => 10,
        ErrorKind::Unreachable => 11,
        ErrorKind::Timeout => 12,
        ErrorKind::Cancelled => 13,
        ErrorKind::Protocol => 14,
        ErrorKind::Io => 15,
        ErrorKind::Mismatch => 16,
        ErrorKind::Changed => 17,
        ErrorKind::Fenced => 18,
        ErrorKind::MissingTool => 19,
        ErrorKind::Sealed => 20,
        ErrorKind::ForeignContent => 21,
        _ => 1,
    }
}

/// What a command works on: what is to be done about a failure depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Area {
    /// Disks, exports, this host.
    Disks,
    /// The catalog, and what is in it.
    Catalog,
}

impl Area {
    /// Every one.
    #[cfg(test)]
    pub(crate) const ALL: [Area; 2] = [Area::Disks, Area::Catalog];

    /// That of a command.
    pub(crate) fn of(command: &Command) -> Self {
        match command {
            Command::Credential(_)
            | Command::Vm(_)
            | Command::Replicate(_)
            | Command::Job(_)
            | Command::Db(_)
            | Command::Key(_)
            | Command::Vma(_) => Area::Catalog,
            Command::Copy(_)
            | Command::Diff(_)
            | Command::Nbd(_)
            | Command::Tunnel(_)
            | Command::Doctor(_)
            | Command::Demo(_)
            | Command::Completions { .. }
            | Command::Man { .. } => Area::Disks,
        }
    }
}

/// What to do next about an error.
fn next(error: &Error, area: Area) -> &'static str {
    match (error.operation(), error.kind()) {
        ("import into the catalog", ErrorKind::Mismatch) => {
            "the file is not what was written: take another copy of it, or export it again by `migratekit db export FILE`"
        }
        ("import into the catalog", ErrorKind::AlreadyExists) => "name a catalog that is not there yet, by --store",
        ("import into the catalog", ErrorKind::NotFound | ErrorKind::InvalidInput) => "name a file that `migratekit db export FILE` wrote",
        ("export the catalog", ErrorKind::InvalidInput) => "bring the schema up to date by `migratekit db migrate`, then export again",
        (_, kind) => hint(kind, area),
    }
}

/// What to do next about an error of this kind, if nothing more is known.
pub(crate) fn hint(kind: ErrorKind, area: Area) -> &'static str {
    if area == Area::Catalog
        && let Some(hint) = catalog_hint(kind)
    {
        return hint;
    }
    match kind {
        ErrorKind::InvalidInput => "correct the command; `migratekit help` shows its form",
        ErrorKind::NotFound => "check the name; `migratekit nbd info URI` lists what a server has",
        ErrorKind::AlreadyExists => "choose another name, or remove what is there",
        ErrorKind::Busy => "wait until the other one is done, or end it",
        ErrorKind::Denied => "check permissions, certificates and names, or run as a user that may",
        ErrorKind::Unsupported => "use another way: `migratekit doctor` and `migratekit nbd info URI` show what is possible",
        ErrorKind::ReadOnly => "make the target writable, or choose another",
        ErrorKind::NoSpace => "make room or take a larger target, then run the same command with --resume if a ledger was kept",
        ErrorKind::Unreachable => "check the address and that the other side runs, then try again (--resume if a ledger was kept)",
        ErrorKind::Timeout => "look at the side that is named, then try again (--resume if a ledger was kept)",
        ErrorKind::Cancelled => "run the same command again, with --resume if a ledger was kept",
        ErrorKind::Protocol => "the peer speaks wrongly: check what listens there, and its version",
        ErrorKind::Io => "check the device that is named; what was written before stays",
        ErrorKind::Mismatch => "the target is not a copy of the source: `migratekit diff SRC DST` shows where; copy again",
        ErrorKind::Changed => "find out who changed it, then start the copy anew without --resume",
        ErrorKind::Fenced => "another run has taken over; look at that one",
        ErrorKind::Sealed => {
            "give the key that is named, by --key-file or MIGRATEKIT_CRED_ENCRYPTION_KEY; if it is lost for good, `migratekit key rotate \
             --old-key-lost` goes on without it, and secrets that no key opens are entered again"
        }
        ErrorKind::MissingTool => "install what is named; `migratekit doctor` checks all of it",
        ErrorKind::ForeignContent => "find out who wrote to the volume; a full replication makes it right again",
        _ => "this is a fault of MigrateKit: please report it with the message above",
    }
}

/// What is to be done differently where a catalog is in play.
fn catalog_hint(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::NotFound => {
            "check the name: `migratekit vm list`, `migratekit job list`, `migratekit credential list` show what there is"
        }
        ErrorKind::Busy => "wait until the other one is done, or end it: `migratekit job list --active` shows what runs",
        ErrorKind::Denied => "give the rights that are named; a catalog that moved here for good is taken over by `migratekit db adopt`",
        ErrorKind::Unsupported => "use the version or the place that is named, or another catalog by --store",
        ErrorKind::ReadOnly => "make writable what is named: the disk or the database that holds the catalog, or the volume",
        ErrorKind::NoSpace => "make room where it is named, then run the same command again",
        ErrorKind::Unreachable => "check that it runs and that its address is right, then run the same command again",
        ErrorKind::Timeout => "look at the side that is named, then run the same command again",
        ErrorKind::Cancelled => "run the same command again; `migratekit replicate resume VM` continues what was laid down",
        ErrorKind::Io => "check the disk that is named; what was committed before stays",
        ErrorKind::Mismatch => {
            "a catalog that is damaged is restored from a backup, or from an export by `migratekit db import FILE`; a replica that is not \
             right is made so by `migratekit replicate VM --full`"
        }
        ErrorKind::Changed => "look at it anew: `migratekit vm show VM`; then run the same command again",
        _ => return None,
    })
}

/// The table shown by `--help`.
pub(crate) fn table() -> String {
    let mut text = String::from("Exit codes:\n    0  success\n    1  internal\n    2  wrong command line\n");
    for kind in ErrorKind::ALL.iter().filter(|k| code(**k) != 1) {
        let _ = writeln!(text, "  {:>3}  {}", code(*kind), kind.code());
    }
    text.push_str("  130  interrupted twice");
    text
}

/// The error as people read it: what happened, and what to do next. That of a job is told in clean words, its technical text only to who
/// asks for it.
pub(crate) fn explain(error: &Error, area: Area, verbose: bool) -> String {
    if let Some(told) = Told::in_error(error) {
        return told.explain(verbose);
    }
    let again = match error.retry() {
        Retry::Exhausted => " (it was tried again, in vain)",
        _ => "",
    };
    format!("error: {error}{again}\n next: {}", next(error, area))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_has_a_code_and_a_hint_of_its_own() {
        let codes: BTreeSet<u8> = ErrorKind::ALL.iter().map(|k| code(*k)).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        for area in Area::ALL {
            let hints: BTreeSet<&str> = ErrorKind::ALL.iter().map(|k| hint(*k, area)).collect();
            assert_eq!(hints.len(), ErrorKind::ALL.len(), "{area:?}");
        }
        assert!(!codes.contains(&0) && !codes.contains(&2));
    }
}
