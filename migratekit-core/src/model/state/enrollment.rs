//! The states of a VMA's trust and of its connection.

use super::Refused;

codes! {
    /// Where an enrollment is.
    EnrollmentStatus ("status of an enrollment") {
        /// It has to prove that it holds its key.
        PendingVerification => "pending_verification",
        /// An administrator has to compare the fingerprint.
        AwaitingApproval => "awaiting_approval",
        /// Trusted.
        Approved => "approved",
        /// Refused.
        Rejected => "rejected",
        /// Nobody decided in time.
        Expired => "expired",
        /// Trust was ended.
        Revoked => "revoked",
    }

    /// Where a VMA's connection is.
    ConnectionStatus ("status of a connection") {
        /// Something was received lately.
        Connected => "connected",
        /// Nothing was.
        Disconnected => "disconnected",
        /// It may not connect any more.
        Revoked => "revoked",
    }

    /// What happened to an enrollment.
    EnrollmentTrigger ("change of an enrollment") {
        /// It proved to hold its key.
        Verify => "verify",
        /// An administrator approved it.
        Approve => "approve",
        /// An administrator refused it.
        Reject => "reject",
        /// Its time is over.
        Expire => "expire",
        /// Its trust was ended.
        Revoke => "revoke",
    }

    /// What happened to a connection.
    ConnectionTrigger ("change of a connection") {
        /// Something was received.
        Receive => "receive",
        /// Nothing was received for too long.
        Lose => "lose",
        /// Its trust was ended.
        Revoke => "revoke",
    }
}

impl EnrollmentStatus {
    /// What becomes of the state.
    pub fn next(self, on: EnrollmentTrigger) -> Result<Self, Refused> {
        use {EnrollmentStatus as S, EnrollmentTrigger as T};
        Ok(match (on, self) {
            (T::Verify, S::PendingVerification) => S::AwaitingApproval,
            (T::Approve, S::AwaitingApproval) => S::Approved,
            (T::Reject, S::PendingVerification | S::AwaitingApproval) => S::Rejected,
            (T::Expire, S::PendingVerification | S::AwaitingApproval) => S::Expired,
            (T::Revoke, S::Approved) => S::Revoked,
            _ => return Err(Refused { machine: "enrollment", from: self.code(), on: on.code() }),
        })
    }

    /// Whether nothing happens any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, EnrollmentStatus::Rejected | EnrollmentStatus::Expired | EnrollmentStatus::Revoked)
    }

    /// Whether somebody has to do something before it expires.
    #[must_use]
    pub fn is_busy(self) -> bool {
        matches!(self, EnrollmentStatus::PendingVerification | EnrollmentStatus::AwaitingApproval)
    }
}

impl ConnectionStatus {
    /// What becomes of the state.
    pub fn next(self, on: ConnectionTrigger) -> Result<Self, Refused> {
        use {ConnectionStatus as S, ConnectionTrigger as T};
        Ok(match (on, self) {
            (T::Receive, S::Disconnected | S::Connected) => S::Connected,
            (T::Lose, S::Connected) => S::Disconnected,
            (T::Revoke, S::Connected | S::Disconnected) => S::Revoked,
            _ => return Err(Refused { machine: "connection", from: self.code(), on: on.code() }),
        })
    }

    /// Whether nothing happens any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        self == ConnectionStatus::Revoked
    }

    /// Nothing is ever under way: who connects is either there or not.
    #[must_use]
    pub fn is_busy(self) -> bool {
        false
    }
}
