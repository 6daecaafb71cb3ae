//! What people can do: a closed list, each with the place where it is done.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};

/// Where an action is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum Target {
    /// A setting: an environment variable or an option.
    Setting(&'static str),
    /// A command; capitals stand for what the reader fills in.
    Command(&'static str),
    /// A page of the web interface.
    Page(&'static str),
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident => $code:literal, $text:literal, $target:expr;)*) => {
        /// One thing to do. In JSON it is `{"code", "text", "target"}`; the code alone is read back.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Action { $($(#[$doc])* $name,)* }

        impl Action {
            /// Every one.
            pub const ALL: &'static [Action] = &[$(Action::$name,)*];

            /// The text that stands for it in the catalog and in the API; it never changes.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Action::$name => $code,)* }
            }

            /// What to do, as a sentence.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Action::$name => $text,)* }
            }

            /// Where it is done.
            #[must_use]
            pub fn target(self) -> Target {
                match self { $(Action::$name => $target,)* }
            }
        }
    };
}

actions! {
    /// Begin the replication again.
    ReplicateAgain => "replicate_again", "Start the replication again; what is in place already is not copied twice.",
        Target::Command("migratekit replicate VM");
    /// Go on with one that was interrupted.
    ResumeReplication => "resume_replication", "Continue the replication from where it stood.",
        Target::Command("migratekit replicate resume VM");
    /// Compare everything.
    ReplicateFully => "replicate_fully", "Run a full replication, which compares every block.",
        Target::Command("migratekit replicate VM --full");
    /// Look at the job.
    ShowJob => "show_job", "Look at the job and its steps.", Target::Command("migratekit job show JOB");
    /// Read the technical detail.
    ReadJobLog => "read_job_log", "Read the job's log; the technical detail is there.", Target::Command("migratekit job log JOB");
    /// Look which job is in the way.
    ListJobs => "list_jobs", "See which job is running for this machine, and wait for it or cancel it.",
        Target::Command("migratekit job list");
    /// Let the host be checked.
    CheckHost => "check_host", "Check this host; each finding says how to mend it.", Target::Command("migratekit doctor");
    /// Make room where passes are kept.
    MakeRoom => "make_room", "Free space where volumes and waiting data are kept, or choose a larger place.",
        Target::Command("migratekit vm disks VM");
    /// Look at the VM.
    ShowMachine => "show_machine", "Look at what is known of the machine and its disks.", Target::Command("migratekit vm show VM");
    /// Look at the source again.
    DiscoverAgain => "discover_again", "Look at the source again; the machine may have moved or changed.",
        Target::Command("migratekit vm discover SITE");
    /// Check the saved credential.
    TestCredential => "test_credential", "Check that the saved credential still works.", Target::Command("migratekit credential test NAME");
    /// Change the saved credential.
    UpdateCredential => "update_credential", "Save the right user name and password.",
        Target::Command("migratekit credential update NAME");
    /// Give the key back.
    ProvideKey => "provide_key", "Provide the key with which the secrets were sealed.",
        Target::Setting("MIGRATEKIT_CRED_ENCRYPTION_KEY");
    /// Look at the connection to the VMA.
    CheckConnection => "check_connection", "Check that the other side is switched on and connected.", Target::Page("/settings/vma");
    /// Look at the cloud's configuration.
    CheckCloud => "check_cloud", "Check the cloud's address, account and offerings.", Target::Page("/settings/ossea");
    /// Map the networks.
    MapNetworks => "map_networks", "Choose a destination for each of the machine's networks.", Target::Page("/network-mapping");
    /// Remove what a pass left at its source.
    SweepSource => "sweep_source", "Remove what an interrupted pass left at the source.", Target::Command("migratekit vm sweep VM");
    /// Let the state of the catalog be shown.
    CheckCatalog => "check_catalog", "Check the state of the catalog.", Target::Command("migratekit db status");
}

impl std::str::FromStr for Action {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Action::ALL.iter().copied().find(|action| action.code() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read an action", "it is none of the list")
                .with("value", text.chars().take(64).flat_map(char::escape_default).collect::<String>())
        })
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.code())
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Action", 3)?;
        object.serialize_field("code", self.code())?;
        object.serialize_field("text", self.text())?;
        object.serialize_field("target", &self.target())?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Code {
            code: String,
        }
        Code::deserialize(deserializer)?.code.parse().map_err(serde::de::Error::custom)
    }
}
