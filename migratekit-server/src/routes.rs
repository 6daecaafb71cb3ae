//! The routes: exactly those by which a VMA enrolls, and `/health`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use migratekit_core::id::EnrollmentId;
use migratekit_core::vmas::wire::{ENROLL, EnrollAnswer, EnrollRequest, EnrollmentResult, ErrorAnswer, RESULT, VERIFY, VerifyRequest};
use migratekit_core::vmas::{Caller, Reception};
use migratekit_core::{Error, ErrorKind, clock};
use serde::Deserialize;

use crate::answer::Failed;
use crate::limits::MAX_BODY;

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

/// `time` is [`ANSWER_TIME`](crate::limits::ANSWER_TIME).
pub(crate) fn routes(reception: Arc<Reception>, time: Duration) -> Router {
    Router::new()
        .route("/health", get(health))
        .route(ENROLL, post(enroll))
        .route(VERIFY, post(verify))
        .route(RESULT, get(result))
        .fallback(nothing)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(time, in_time))
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
    Ok(Json(reception.enroll(&request, &caller).await?))
}

async fn verify(
    State(reception): State<Arc<Reception>>,
    Extension(connection): Extension<Connection>,
    headers: HeaderMap,
    request: std::result::Result<Json<VerifyRequest>, JsonRejection>,
) -> Answer<EnrollmentResult> {
    let Json(request) = request.map_err(unreadable)?;
    let caller = connection.caller(&headers);
    Ok(Json(reception.verify(&request, &caller).await?))
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
    Ok(Json(reception.result(&which.id).await?))
}

/// All of a request: its body is read and it is answered within the time.
async fn in_time(State(time): State<Duration>, request: Request, next: Next) -> Response {
    let late = || Failed(Error::new(ErrorKind::Timeout, "answer a request", "it took too long"));
    clock::within(time, next.run(request)).await.unwrap_or_else(|| late().into_response())
}

fn unreadable(why: impl std::error::Error + Send + Sync + 'static) -> Failed {
    Failed(Error::new(ErrorKind::InvalidInput, "read a request", "the request is not what this route takes").with_source(why))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::{Body, Bytes};
    use hyper::body::Frame;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use migratekit_core::credentials::{Key, Keys, Vault};
    use migratekit_core::tunnels::PrivateKey;
    use migratekit_core::{Store, StoreOptions};

    use super::*;

    /// A body that is begun and never goes on.
    struct Never;

    impl hyper::body::Body for Never {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_waited_for_no_longer_than_the_answer() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("catalog.db").display());
        let store = Store::open(&url, StoreOptions::new()).await.unwrap();
        let vault = Vault::new(Keys::new(Key::generate().unwrap()));
        let reception = Arc::new(Reception::new(store, vault, PrivateKey::generate().unwrap()));
        let connection = Connection { address: [192, 0, 2, 1].into(), exporter: [0; 32] };
        let routes = routes(reception, Duration::from_millis(50)).layer(Extension(connection));
        let service = TowerToHyperService::new(routes);
        for path in [ENROLL, VERIFY] {
            let request = Request::post(path).header(header::CONTENT_TYPE, "application/json").body(Body::new(Never)).unwrap();
            let answer = clock::within(Duration::from_secs(30), service.call(request)).await.expect("an answer").unwrap();
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        }
    }
}
