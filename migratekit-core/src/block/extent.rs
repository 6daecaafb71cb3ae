//! Where a disk has data and where zeros.

use serde::{Deserialize, Serialize};

use crate::units::ByteRange;

/// What is known of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtentKind {
    /// May hold anything; must be read.
    Data,
    /// Allocated, and certainly reads as zero.
    Zero,
    /// Not allocated, and certainly reads as zero.
    Hole,
}

impl ExtentKind {
    /// Whether the range certainly reads as zero.
    #[must_use]
    pub fn reads_zero(self) -> bool {
        matches!(self, ExtentKind::Zero | ExtentKind::Hole)
    }
}

/// A range and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where.
    pub range: ByteRange,
    /// What.
    pub kind: ExtentKind,
}
