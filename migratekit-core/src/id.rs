//! Names of things: a type for each kind of id, so that a job's id never stands where a context's is wanted.
//!
//! Text ids that we make are `PREFIX-UUID` with a UUID of version 7 (they sort by the time they were made); `fresh` is the only
//! place that makes one. Text from outside is parsed: 1 to [`MAX_ID`] of `[0-9a-zA-Z._-]`, with the prefix of its kind, so that an id can
//! stand in a path, an export's name and a log line as it is. Row ids are positive numbers that the catalog gives.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The longest text id, in bytes: the width of the catalog's columns, and what an export's name allows a job.
pub const MAX_ID: usize = 64;

/// A new text id: the prefix, a dash, a UUID of version 7. Rising within this process, unique everywhere.
fn fresh(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::now_v7())
}

/// Whether `text` may be a text id of the kind with this prefix (empty: any).
fn is_id(text: &str, prefix: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let rest = if prefix.is_empty() { Some(text) } else { text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-')) };
    text.len() <= MAX_ID && text.chars().all(plain) && text != "." && text != ".." && rest.is_some_and(|rest| !rest.is_empty())
}

macro_rules! text_ids {
    ($($(#[$doc:meta])* $name:ident ($prefix:literal, made as $made:literal): $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new one, unique everywhere.
            #[must_use]
            pub fn generate() -> Self {
                $name(fresh($made))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                text.to_owned().try_into()
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                if is_id(&text, $prefix) {
                    return Ok($name(text));
                }
                Err(Error::new(ErrorKind::InvalidInput, concat!("read the id of a ", $what), wrong_id($prefix)).with("id", shown(&text)))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text_ids! {
    /// A VM under management.
    ContextId("ctx", made as "ctx"): "context";
    /// One operation, whatever its kind; its rows in all tables have this one id.
    JobId("job", made as "job"): "job";
    /// A complete point in time of all disks of a VM.
    PointId("pt", made as "pt"): "point";
    /// A volume; one that a cloud made has the cloud's id, so no prefix is asked for.
    VolumeId("", made as "vol"): "volume";
    /// A process that runs jobs.
    RunnerId("run", made as "run"): "runner";
    /// A schedule.
    ScheduleId("sch", made as "sch"): "schedule";
    /// One run of a schedule.
    ExecutionId("exe", made as "exe"): "schedule execution";
    /// A machine group.
    GroupId("grp", made as "grp"): "machine group";
    /// A VM's place in a machine group.
    MembershipId("mem", made as "mem"): "group membership";
    /// A VMA's enrollment.
    EnrollmentId("enr", made as "enr"): "enrollment";
    /// A pairing code's row (not the code).
    PairingId("pair", made as "pair"): "pairing code";
    /// A VMA's connection.
    ConnectionId("conn", made as "conn"): "connection";
    /// An operation on a volume.
    OperationId("op", made as "op"): "volume operation";
    /// A device's row.
    MappingId("map", made as "map"): "device mapping";
    /// A person or program that may sign in.
    UserId("usr", made as "usr"): "user";
    /// A token's row (not the token).
    TokenId("tok", made as "tok"): "token";
    /// A catalog; made once, with it.
    StoreId("store", made as "store"): "store";
}

fn wrong_id(prefix: &'static str) -> String {
    match prefix {
        "" => format!("an id has 1 to {MAX_ID} of 0-9 a-z A-Z . _ -"),
        prefix => format!("an id of this kind begins with {prefix}- and has at most {MAX_ID} of 0-9 a-z A-Z . _ -"),
    }
}

/// Text from outside as an error may show it: one line, not long.
fn shown(text: &str) -> String {
    text.chars().take(MAX_ID).flat_map(char::escape_default).collect()
}

macro_rules! row_ids {
    ($($(#[$doc:meta])* $name:ident: $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "i64", into = "i64")]
        pub struct $name(i64);

        impl $name {
            /// The number.
            #[must_use]
            pub fn get(self) -> i64 {
                self.0
            }
        }

        impl TryFrom<i64> for $name {
            type Error = Error;
            fn try_from(number: i64) -> Result<Self> {
                if number > 0 {
                    return Ok($name(number));
                }
                Err(Error::new(ErrorKind::InvalidInput, concat!("read the number of a ", $what), "it must be 1 or more").with("id", number))
            }
        }

        impl From<$name> for i64 {
            fn from(id: $name) -> i64 {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                text.parse::<i64>()
                    .map_err(|_| {
                        Error::new(ErrorKind::InvalidInput, concat!("read the number of a ", $what), "it is no whole number")
                            .with("id", shown(text))
                    })
                    .and_then($name::try_from)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

row_ids! {
    /// A disk's row; it stays the same over all passes.
    DiskId: "disk";
    /// A volume's row.
    VolumeRow: "volume row";
    /// A step's row.
    StepId: "step";
    /// An intent's row.
    IntentId: "intent";
    /// An export's row.
    ExportId: "export";
    /// An event; rising in the order of the changes that are told.
    EventId: "event";
    /// A log row.
    LogId: "log row";
    /// An entry of the audit.
    AuditId: "audit entry";
    /// A saved vCenter credential.
    CredentialId: "credential";
    /// A saved cloud configuration.
    CloudConfigId: "cloud configuration";
    /// A network mapping.
    NetworkMappingId: "network mapping";
    /// A failover's row.
    FailoverRow: "failover row";
    /// A folder of machines on this host.
    SiteId: "local site";
}

/// A disk of a VM as the source numbers it: `disk-2000`. The number is VMware's device key; it stays with the disk for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskKey(u32);

impl DiskKey {
    /// The disk with this device key.
    #[must_use]
    pub const fn new(key: u32) -> Self {
        DiskKey(key)
    }

    /// The device key.
    #[must_use]
    pub fn device_key(self) -> u32 {
        self.0
    }
}

impl FromStr for DiskKey {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let key = text.strip_prefix("disk-").filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        // One text for one disk: `disk-02000` would be another key of the same disk.
        key.and_then(|digits| digits.parse().ok()).map(DiskKey).filter(|key| key.to_string() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read the key of a disk", "it is disk- and the device key, such as disk-2000")
                .with("disk", shown(text))
        })
    }
}

impl TryFrom<String> for DiskKey {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<DiskKey> for String {
    fn from(key: DiskKey) -> String {
        key.to_string()
    }
}

impl fmt::Display for DiskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk-{}", self.0)
    }
}

/// The right to write a context's volumes: a higher epoch ends the rights of all lower ones. 0: nobody ever wrote. At most `2^63-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Epoch(u64);

impl Epoch {
    /// Nobody ever wrote.
    pub const NONE: Epoch = Epoch(0);

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The one after this. [`ErrorKind::Internal`] when there is none left.
    pub fn next(self) -> Result<Self> {
        self.0
            .checked_add(1)
            .map_or_else(|| Err(Error::new(ErrorKind::Internal, "raise an epoch", "the last epoch is used up")), Epoch::try_from)
    }

    /// As the catalog's column holds it.
    #[must_use]
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl TryFrom<u64> for Epoch {
    type Error = Error;
    fn try_from(number: u64) -> Result<Self> {
        if i64::try_from(number).is_ok() {
            return Ok(Epoch(number));
        }
        Err(Error::new(ErrorKind::InvalidInput, "read an epoch", "it is above 2^63-1").with("epoch", number))
    }
}

impl TryFrom<i64> for Epoch {
    type Error = Error;
    fn try_from(number: i64) -> Result<Self> {
        u64::try_from(number)
            .map(Epoch)
            .map_err(|_| Error::new(ErrorKind::InvalidInput, "read an epoch", "it is below 0").with("epoch", number))
    }
}

impl From<Epoch> for u64 {
    fn from(epoch: Epoch) -> u64 {
        epoch.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fresh_ids_rise_and_read_back() {
        let ids: Vec<JobId> = (0..1000).map(|_| JobId::generate()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(ids[0].as_str().parse::<JobId>().unwrap(), ids[0]);
        assert!(ids[0].as_str().len() <= MAX_ID);
        assert_eq!(serde_json::from_str::<JobId>(&serde_json::to_string(&ids[0]).unwrap()).unwrap(), ids[0]);
    }

    #[test]
    fn a_kind_refuses_the_ids_of_another_and_hostile_text() {
        assert!(ContextId::generate().as_str().parse::<JobId>().is_err());
        for text in ["", "job-", "job", "job-a b", "job-../x", "job-\n", "job-é", "JOB-1", &format!("job-{}", "a".repeat(MAX_ID))] {
            assert_eq!(text.parse::<JobId>().unwrap_err().kind(), ErrorKind::InvalidInput, "{text:?}");
        }
        for text in ["", ".", "..", "a/b"] {
            assert!(text.parse::<VolumeId>().is_err(), "{text:?}");
        }
        assert!("6f1b9a30-8f0e-4c8e-9a39-4f2f6a1f0001".parse::<VolumeId>().is_ok());
        assert!(serde_json::from_str::<JobId>("\"x\"").is_err());
    }

    #[test]
    fn disks_and_rows_have_one_text_each() {
        assert_eq!("disk-2000".parse::<DiskKey>().unwrap(), DiskKey::new(2000));
        for text in ["disk-", "disk-02", "disk-+1", "2000", "disk-4294967296", "disk--1"] {
            assert!(text.parse::<DiskKey>().is_err(), "{text}");
        }
        assert!(StepId::try_from(0).is_err() && "-3".parse::<StepId>().is_err() && "x".parse::<StepId>().is_err());
        assert_eq!("7".parse::<StepId>().unwrap().get(), 7);
    }

    #[test]
    fn epochs_rise_and_end() {
        assert_eq!(Epoch::NONE.next().unwrap().get(), 1);
        assert!(Epoch::try_from(i64::MAX).unwrap().next().is_err());
        assert!(Epoch::try_from(-1_i64).is_err() && Epoch::try_from(u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_it_was(text in ".{0,80}") {
            if let Ok(id) = text.parse::<VolumeId>() {
                prop_assert_eq!(id.to_string(), text.clone());
            }
            if let Ok(key) = text.parse::<DiskKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
