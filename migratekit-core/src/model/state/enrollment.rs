//! The states of a VMA's trust and of its connection.

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
}
