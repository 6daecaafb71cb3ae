//! Values on their way into a statement.

use crate::clock::Timestamp;
use crate::id;
use crate::model::{Percent, SealedText};

/// One bound value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// NULL.
    Null,
    /// An integer: numbers, times, flags.
    Int(i64),
    /// A number with a fraction.
    Real(f64),
    /// Text: names, ids, codes, JSON.
    Text(String),
    /// A number that no column holds; the statement is refused.
    TooLarge(u64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Value::Text(text.clone())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Real(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or(Value::TooLarge(number), Value::Int)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        u64::try_from(number).map_or(Value::TooLarge(u64::MAX), Value::from)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Value::Int(i64::from(flag))
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Value::Int(time.as_micros())
    }
}

impl From<Percent> for Value {
    fn from(percent: Percent) -> Self {
        Value::Int(i64::from(percent.get()))
    }
}

impl From<&SealedText> for Value {
    fn from(sealed: &SealedText) -> Self {
        Value::Text(sealed.as_str().to_owned())
    }
}

impl From<&serde_json::Value> for Value {
    fn from(json: &serde_json::Value) -> Self {
        Value::Text(json.to_string())
    }
}

impl From<id::DiskKey> for Value {
    fn from(key: id::DiskKey) -> Self {
        Value::Text(key.to_string())
    }
}

impl From<id::Epoch> for Value {
    fn from(epoch: id::Epoch) -> Self {
        Value::Int(epoch.as_i64())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

macro_rules! integers {
    ($($number:ty)*) => {$(
        impl From<$number> for Value {
            fn from(number: $number) -> Self {
                Value::Int(i64::from(number))
            }
        }
    )*};
}

integers!(u8 u16 u32 i32 i64);

macro_rules! text_ids {
    ($($name:ident)*) => {$(
        impl From<&id::$name> for Value {
            fn from(id: &id::$name) -> Self {
                Value::Text(id.as_str().to_owned())
            }
        }
    )*};
}

text_ids! {
    ContextId JobId PointId VolumeId RunnerId ScheduleId ExecutionId GroupId MembershipId EnrollmentId PairingId ConnectionId OperationId
    MappingId UserId TokenId StoreId
}

macro_rules! row_ids {
    ($($name:ident)*) => {$(
        impl From<id::$name> for Value {
            fn from(id: id::$name) -> Self {
                Value::Int(id.get())
            }
        }
    )*};
}

row_ids! {
    DiskId VolumeRow StepId IntentId ExportId EventId LogId AuditId CredentialId CloudConfigId NetworkMappingId FailoverRow SiteId
}
