//! Why an operation stopped: a closed list, each with its words, category, severity and actions.

use super::Action;
use crate::error::ErrorKind;

codes! {
    /// What a failure has to do with.
    Category ("category of errors") {
        /// What the machine is does not fit where it goes.
        Compatibility => "compatibility",
        /// The network carries too little, or too slowly.
        Network => "network",
        /// A disk, a volume, space.
        Storage => "storage",
        /// The source or the cloud as a whole.
        Platform => "platform",
        /// The other side cannot be reached.
        Connectivity => "connectivity",
        /// Something is set wrongly, or not at all.
        Configuration => "configuration",
    }

    /// How bad it is.
    Severity ("severity") {
        /// It was wanted so.
        Info => "info",
        /// It passes by itself, or can be tried again as it is.
        Warning => "warning",
        /// Something has to be changed first.
        Error => "error",
        /// Data or trust is in question until somebody looked.
        Critical => "critical",
    }
}

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident => $code:literal, $category:ident, $severity:ident, $words:literal, [$($action:ident),+];)*) => {
        codes! {
            /// Why an operation stopped: the kinds of [`ErrorKind`](crate::error::ErrorKind), and what recovery finds.
            Cause ("cause") { $($(#[$doc])* $name => $code,)* }
        }

        impl Cause {
            /// The cause in words: the end of a sentence.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self { $(Cause::$name => $words,)* }
            }

            /// What it has to do with.
            #[must_use]
            pub fn category(self) -> Category {
                match self { $(Cause::$name => Category::$category,)* }
            }

            /// How bad it is.
            #[must_use]
            pub fn severity(self) -> Severity {
                match self { $(Cause::$name => Severity::$severity,)* }
            }

            /// What to do, the likeliest first.
            #[must_use]
            pub fn actions(self) -> &'static [Action] {
                match self { $(Cause::$name => &[$(Action::$action),+],)* }
            }
        }
    };
}

causes! {
    /// The request makes no sense.
    InvalidInput => "invalid_input", Configuration, Error, "a value that was given does not fit", [ShowMachine, ReadJobLog];
    /// Something is not there.
    NotFound => "not_found", Platform, Error, "something it needs no longer exists", [DiscoverAgain, ShowMachine];
    /// Something is in the way.
    AlreadyExists => "already_exists", Configuration, Error, "something of the same name is in the way", [ShowMachine, SweepSource];
    /// Somebody else has it.
    Busy => "busy", Platform, Warning, "something it needs is in use by another operation", [ListJobs, ReplicateAgain];
    /// Not allowed.
    Denied => "denied", Configuration, Error, "access was refused", [TestCredential, UpdateCredential];
    /// Cannot be done there.
    Unsupported => "unsupported", Compatibility, Error, "one side cannot do what is needed", [ShowMachine, ReadJobLog];
    /// Must not be written.
    ReadOnly => "read_only", Storage, Error, "the target does not accept writes", [CheckHost, ShowMachine];
    /// Full.
    NoSpace => "no_space", Storage, Error, "there is not enough space", [MakeRoom, ReplicateAgain];
    /// Not reachable.
    Unreachable => "unreachable", Connectivity, Warning, "the other side could not be reached, or the connection broke",
        [CheckConnection, ReplicateAgain];
    /// Too slow.
    Timeout => "timeout", Network, Warning, "nothing moved for too long", [CheckConnection, ReplicateAgain];
    /// Ended by request.
    Cancelled => "cancelled", Platform, Info, "it was cancelled", [ReplicateAgain];
    /// Not understood.
    Protocol => "protocol", Compatibility, Error, "the other side gave an answer that makes no sense", [ReadJobLog, CheckHost];
    /// A device fails.
    Io => "io", Storage, Critical, "a disk reported an error", [CheckHost, ReadJobLog];
    /// Bytes differ.
    Mismatch => "mismatch", Storage, Critical, "what was written is not what was read", [ReplicateFully, CheckHost];
    /// It changed meanwhile.
    Changed => "changed", Platform, Error, "a disk or the machine changed meanwhile", [DiscoverAgain, ReplicateAgain];
    /// Somebody else took over.
    Fenced => "fenced", Platform, Warning, "a newer run took over", [ListJobs, ShowJob];
    /// Not installed.
    MissingTool => "missing_tool", Configuration, Error, "a program that it needs is not installed", [CheckHost];
    /// The key does not fit.
    Sealed => "sealed", Configuration, Error, "a saved secret cannot be opened with the present key", [ProvideKey, UpdateCredential];
    /// A volume holds something else.
    ForeignContent => "foreign_content", Storage, Critical, "a volume holds data that is not ours", [ShowMachine, ReadJobLog];
    /// A fault of ours.
    Internal => "internal", Platform, Critical, "the program met a fault of its own", [ReadJobLog, CheckCatalog];
    /// Done without proof.
    NoProof => "no_proof", Platform, Error, "the other side could not prove that everything arrived", [ReplicateAgain, ReadJobLog];
    /// Forgotten.
    JobLost => "job_lost", Connectivity, Error, "the other side does not know of this run any more", [ReplicateAgain, CheckConnection];
    /// Failed over there.
    Reported => "vma_reported_failure", Platform, Error, "the other side reported a failure", [ReadJobLog, ReplicateAgain];
    /// Silent for too long.
    Silent => "vma_unreachable_timeout", Connectivity, Error, "the other side has been silent for too long", [CheckConnection, ResumeReplication];
    /// Nobody can tell.
    Unknown => "unknown", Platform, Error, "the reason is not known", [ReadJobLog, ShowJob];
}

impl Cause {
    /// The kind of error that it is for who waits: its own, or what comes nearest to what recovery finds.
    #[must_use]
    pub fn kind(self) -> ErrorKind {
        match self {
            Cause::NoProof => ErrorKind::Mismatch,
            Cause::JobLost => ErrorKind::NotFound,
            Cause::Silent => ErrorKind::Unreachable,
            cause => ErrorKind::ALL.iter().copied().find(|kind| kind.code() == cause.code()).unwrap_or(ErrorKind::Internal),
        }
    }
}

/// Words of technical text, and the cause that they betray; the first that is found decides. All in lower case.
const BETRAYED: &[(&str, Cause)] = &[
    ("no space left", Cause::NoSpace),
    ("quota", Cause::NoSpace),
    ("permission denied", Cause::Denied),
    ("access denied", Cause::Denied),
    ("unauthorized", Cause::Denied),
    ("certificate", Cause::Denied),
    ("login", Cause::Denied),
    ("read-only", Cause::ReadOnly),
    ("timed out", Cause::Timeout),
    ("timeout", Cause::Timeout),
    ("connection", Cause::Unreachable),
    ("unreachable", Cause::Unreachable),
    ("no route", Cause::Unreachable),
    ("not found", Cause::NotFound),
    ("no such", Cause::NotFound),
    ("already exists", Cause::AlreadyExists),
    ("in use", Cause::Busy),
    ("locked", Cause::Busy),
    ("input/output error", Cause::Io),
    ("not supported", Cause::Unsupported),
    ("unsupported", Cause::Unsupported),
    ("cancelled", Cause::Cancelled),
];

impl Cause {
    /// The cause of a failure: by its code; when that is none or unknown, by what its technical text betrays.
    #[must_use]
    pub fn of(code: Option<&str>, technical: Option<&str>) -> Cause {
        code.and_then(|code| code.parse().ok()).unwrap_or_else(|| {
            let text = technical.unwrap_or_default().to_lowercase();
            BETRAYED.iter().find(|(word, _)| text.contains(word)).map_or(Cause::Unknown, |(_, cause)| *cause)
        })
    }

    /// Whether the step says better than the cause what the failure has to do with.
    pub(super) fn yields_to_step(self) -> bool {
        matches!(self, Cause::Unknown | Cause::Reported | Cause::Internal | Cause::InvalidInput | Cause::Protocol)
    }
}
