//! Errors as answers: a status for each kind, and a body that says no more than the caller may know.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use migratekit_core::vmas::wire::ErrorAnswer;
use migratekit_core::{Error, ErrorKind};

/// An error on its way to the caller.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) Error);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let (status, kind) = (status(self.0.kind()), self.0.kind());
        // What is wrong inside is for the log: callers are not known yet.
        let message = if status.is_server_error() {
            tracing::error!(error = %self.0, "a request failed");
            "it cannot be done now".to_owned()
        } else {
            tracing::info!(error = %self.0, "a request was refused");
            self.0.message().to_owned()
        };
        (status, Json(ErrorAnswer { error: kind.code().to_owned(), message })).into_response()
    }
}

/// The status that says a kind of error.
pub(crate) fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::Changed => StatusCode::CONFLICT,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Busy => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Timeout | ErrorKind::Unreachable | ErrorKind::Cancelled | ErrorKind::NoSpace | ErrorKind::ReadOnly => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_status_and_faults_inside_are_not_told() {
        for kind in ErrorKind::ALL {
            let status = status(*kind);
            assert!(status.is_client_error() || status.is_server_error(), "{kind}");
        }
        for inside in [ErrorKind::Internal, ErrorKind::Io, ErrorKind::Sealed, ErrorKind::Protocol, ErrorKind::Mismatch] {
            assert_eq!(status(inside), StatusCode::INTERNAL_SERVER_ERROR, "{inside}");
        }
        assert_eq!(status(ErrorKind::Denied), StatusCode::FORBIDDEN);
    }
}
