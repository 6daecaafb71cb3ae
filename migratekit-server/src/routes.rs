//! The routes: exactly those by which a VMA enrolls, and `/health`.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use migratekit_core::id::EnrollmentId;
use migratekit_core::vmas::wire::{ENROLL, EnrollAnswer, EnrollRequest, EnrollmentResult, ErrorAnswer, RESULT, VERIFY, VerifyRequest};
use migratekit_core::vmas::{Caller, Reception};
use migratekit_core::{Error, ErrorKind, Result, clock};
use serde::Deserialize;

use crate::answer::Failed;
use crate::limits::{ANSWER_TIME, MAX_BODY};

/// The connection a request came on.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) address: std::net::IpAddr,
    pub(crate) exporter: [u8; 32],
}

impl Connection {
    fn caller(self, headers: &HeaderMap) -> Caller {
        let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        Caller { address: self.address, user_agent: agent.map(str::to_owned), exporter: self.exporter }
    }
}

type Answer<T> = std::result::Result<Json<T>, Failed>;

pub(crate) fn routes(reception: Arc<Reception>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route(ENROLL, post(enroll))
        .route(VERIFY, post(verify))
        .route(RESULT, get(result))
        .fallback(nothing)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(reception)
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ok" }))
}

async fn nothing() -> (StatusCode, Json<ErrorAnswer>) {
    let message = "there is nothing here".to_owned();
    (StatusCode::NOT_FOUND, Json(ErrorAnswer { error: ErrorKind::NotFound.code().to_owned(), message }))
}

async fn enroll(
    State(reception): State<Arc<Reception>>,
    Extension(connection): Extension<Connection>,
    headers: HeaderMap,
    request: std::result::Result<Json<EnrollRequest>, JsonRejection>,
) -> Answer<EnrollAnswer> {
    let Json(request) = request.map_err(unreadable)?;
    let caller = connection.caller(&headers);
    in_time(reception.enroll(&request, &caller)).await
}

async fn verify(
    State(reception): State<Arc<Reception>>,
    Extension(connection): Extension<Connection>,
    headers: HeaderMap,
    request: std::result::Result<Json<VerifyRequest>, JsonRejection>,
) -> Answer<EnrollmentResult> {
    let Json(request) = request.map_err(unreadable)?;
    let caller = connection.caller(&headers);
    in_time(reception.verify(&request, &caller)).await
}

/// The query of a look at an enrollment.
#[derive(Debug, Deserialize)]
struct Which {
    id: EnrollmentId,
}

async fn result(
    State(reception): State<Arc<Reception>>,
    which: std::result::Result<Query<Which>, QueryRejection>,
) -> Answer<EnrollmentResult> {
    let Query(which) = which.map_err(unreadable)?;
    in_time(reception.result(&which.id)).await
}

async fn in_time<T>(answer: impl Future<Output = Result<T>>) -> Answer<T> {
    let late = || Error::new(ErrorKind::Timeout, "answer a request", "it took too long");
    Ok(Json(clock::within(ANSWER_TIME, answer).await.ok_or_else(late)??))
}

fn unreadable(why: impl std::error::Error + Send + Sync + 'static) -> Failed {
    Failed(Error::new(ErrorKind::InvalidInput, "read a request", "the request is not what this route takes").with_source(why))
}
