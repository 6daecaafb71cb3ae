//! The steps of all operations in friendly words, and what class each is of.

use super::Category;

codes! {
    /// What kind of work a step is.
    StepClass ("class of steps") {
        /// Getting to know what there is.
        Setup => "setup",
        /// Making ready.
        Preparation => "preparation",
        /// The work itself.
        Execution => "execution",
        /// Taking away what is not needed any more.
        Cleanup => "cleanup",
        /// Making it last.
        Finalization => "finalization",
    }
}

/// A step as people read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepWords {
    /// What is done, beginning with a capital, without a full stop.
    pub friendly: &'static str,
    /// What kind of work.
    pub class: StepClass,
    /// What its failures have to do with, when their cause does not say it.
    pub category: Option<Category>,
}

/// What is said of a step that has no words here.
const OTHER: StepWords = StepWords { friendly: "The operation", class: StepClass::Execution, category: None };

macro_rules! steps {
    ($($class:ident { $($name:literal => $friendly:literal $(, $category:ident)?;)* })*) => {
        /// Every step that has words, in the order of the operations.
        pub(super) const STEPS: &[(&str, StepWords)] = &[$($((
            $name,
            StepWords { friendly: $friendly, class: StepClass::$class, category: steps!(@ $($category)?) },
        ),)*)*];
    };
    (@ $category:ident) => { Some(Category::$category) };
    (@) => { None };
}

steps! {
    Setup {
        "initializing" => "Looking at the machine", Platform;
        "analyzing" => "Working out what to copy", Platform;
        "discovery" => "Looking at the source's machines", Platform;
        "validation" => "Checking that everything is ready", Configuration;
        "failover-job-retrieval" => "Finding the failover", Platform;
        "pre-flight-validation" => "Checking the destination's settings", Configuration;
        "credential-lookup" => "Opening the saved credential", Configuration;
        "conflict-detection" => "Looking for other work on the machine", Platform;
        "phantom-detection" => "Looking for runs that nobody follows", Connectivity;
    }
    Preparation {
        "provisioning" => "Preparing the target disks", Storage;
        "attaching" => "Connecting the target disks", Storage;
        "configuring" => "Opening the target disks for this run", Storage;
        "ready_for_sync" => "Getting ready to copy", Platform;
        "snapshotting" => "Taking a snapshot of the machine", Platform;
        "enable-change-tracking" => "Turning on change tracking", Platform;
        "query-changes" => "Asking what changed", Platform;
        "prepare-volumes" => "Preparing the volumes", Storage;
        "start-exports" => "Opening the volumes", Storage;
        "network-mapping" => "Matching the networks", Network;
        "source-vm-power-off" => "Shutting down the source machine", Platform;
        "multi-volume-snapshot-creation" => "Protecting the replica with snapshots", Storage;
        "virtio-driver-injection" => "Preparing the system for its new home", Compatibility;
        "guest-preparation" => "Adapting the copied system", Compatibility;
    }
    Execution {
        "replicating" => "Copying data", Network;
        "transfer" => "Transferring data", Network;
        "final-sync" => "Copying the last changes", Network;
        "compare" => "Comparing both sides", Storage;
        "verify" => "Proving that both sides are equal", Storage;
        "vm-creation" => "Creating the new machine", Platform;
        "volume-attachment" => "Giving the disks to the new machine", Storage;
        "volume-mode-switch-failover" => "Handing the disks over", Storage;
        "vm-startup-and-validation" => "Starting the new machine", Platform;
        "source-vm-power-on" => "Starting the source machine again", Platform;
        "schedule-run" => "Starting the scheduled runs", Platform;
    }
    Cleanup {
        "releasing" => "Removing the snapshot", Platform;
        "test-vm-shutdown" => "Stopping the test machine", Platform;
        "volume-detachment" => "Taking the disks from the machine", Storage;
        "multi-volume-snapshot-cleanup" => "Returning the disks to their snapshots", Storage;
        "volume-mode-switch-oma" => "Taking the disks back", Storage;
        "volume-reattachment-to-oma" => "Connecting the disks here again", Storage;
        "test-vm-deletion" => "Deleting the test machine", Platform;
        "failed-execution-cleanup" => "Mending what a failed run left", Platform;
        "source-sweep" => "Removing old snapshots of ours", Platform;
        "volume-removal" => "Deleting the volumes", Storage;
    }
    Finalization {
        "committing" => "Confirming the new restore point", Storage;
        "applying" => "Writing the new restore point into the volumes", Storage;
        "finalizing" => "Finishing the copy", Storage;
        "persist-change-ids" => "Recording the restore point", Platform;
        "status-update" => "Recording the result", Platform;
        "failover-job-status-update" => "Recording the failover's result", Platform;
        "vm-context-status-update" => "Recording the machine's state", Platform;
        "failover-commit" => "Making the failover final", Platform;
    }
}

/// The words for the step of this name; a step that has none is "The operation".
#[must_use]
pub fn step_words(name: &str) -> StepWords {
    STEPS.iter().find(|(step, _)| *step == name).map_or(OTHER, |(_, words)| *words)
}
