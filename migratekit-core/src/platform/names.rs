//! Names a platform gives, and the one kind of name we give: types, so that none stands for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::id::JobId;

/// The longest name of a platform, in bytes: the width of the catalog's columns.
pub const MAX_NAME: usize = 255;

/// What the name of each snapshot of ours begins with. What does not is never removed.
pub const SNAPSHOT_PREFIX: &str = "migratekit-";

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident: $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text, as the platform gave it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                if (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control) {
                    return Ok($name(text));
                }
                let shown: String = text.chars().take(64).flat_map(char::escape_default).collect();
                Err(Error::new(ErrorKind::InvalidInput, concat!("read ", $what), "it must have 1 to 255 bytes, and no control characters")
                    .with("text", shown))
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

opaque! {
    /// How a platform calls a machine when it is asked for it: vSphere's `vm-16`, the folder of a local machine. It may come to mean
    /// another machine; the [`InstanceId`] tells.
    MachineRef: "the reference of a machine";
    /// What stays with a machine for its life, and never passes to another: vSphere's instance uuid.
    InstanceId: "the instance id of a machine";
    /// A platform's mark of the state of one disk at a snapshot, opaque to us; of use only to the platform that gave it, for that disk.
    ChangeId: "a change id";
}

/// The name of a snapshot of ours: `migratekit-<job>`. So whose it is stands in its name, wherever it is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(JobId);

impl SnapshotName {
    /// The name of the snapshot of this job; a job has one.
    #[must_use]
    pub fn of(job: &JobId) -> Self {
        SnapshotName(job.clone())
    }

    /// The job.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.0
    }

    /// Whether a name found on a platform is one of ours, complete or not.
    #[must_use]
    pub fn is_ours(name: &str) -> bool {
        name.parse::<SnapshotName>().is_ok()
    }
}

impl FromStr for SnapshotName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let job = text.strip_prefix(SNAPSHOT_PREFIX).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read the name of a snapshot", "it does not begin with migratekit-").with("name", text)
        })?;
        job.parse().map(SnapshotName)
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> String {
        name.to_string()
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SNAPSHOT_PREFIX}{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_ours_only_by_its_whole_name() {
        let job = JobId::generate();
        let name = SnapshotName::of(&job);
        assert_eq!(name.to_string().parse::<SnapshotName>().unwrap().job(), &job);
        for foreign in ["nightly", "migratekit-", "migratekit", "migratekit-backup", "Migratekit-job-1", "migratekit-job-../x"] {
            assert!(!SnapshotName::is_ours(foreign), "{foreign}");
        }
    }

    #[test]
    fn names_from_outside_are_bounded() {
        assert!("52 0a/3".parse::<ChangeId>().is_ok());
        for text in [String::new(), "a\nb".to_owned(), "x".repeat(MAX_NAME + 1)] {
            assert_eq!(text.parse::<ChangeId>().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }
}
