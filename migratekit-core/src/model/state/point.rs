//! The state of a point.

use super::Refused;

codes! {
    /// Where a point is on its way from the source into the volumes.
    PointStatus ("status of a point") {
        /// Committed: all of it is durable in spools or volumes, not yet all in the volumes. It can be finished without the source.
        Committed => "committed",
        /// All of it is in the volumes.
        Applied => "applied",
        /// A later point took its place in the volumes.
        Superseded => "superseded",
    }

    /// What happened to a point.
    PointTrigger ("change of a point") {
        /// The last volume holds it.
        Apply => "apply",
        /// A later point was committed.
        Supersede => "supersede",
    }
}

impl PointStatus {
    /// What becomes of the state. A point that is not in the volumes yet cannot be superseded: it is finished first.
    pub fn next(self, on: PointTrigger) -> Result<Self, Refused> {
        match (on, self) {
            (PointTrigger::Apply, PointStatus::Committed) => Ok(PointStatus::Applied),
            (PointTrigger::Supersede, PointStatus::Applied) => Ok(PointStatus::Superseded),
            _ => Err(Refused { machine: "point", from: self.code(), on: on.code() }),
        }
    }

    /// Whether nothing happens any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        self == PointStatus::Superseded
    }

    /// Whether something is under way.
    #[must_use]
    pub fn is_busy(self) -> bool {
        self == PointStatus::Committed
    }
}
