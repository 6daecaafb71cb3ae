//! A connection: TLS, then HTTP, within the bounds of both.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use migratekit_core::block::BoxFuture;
use migratekit_core::tunnels::TlsHandler;
use migratekit_core::vmas::Reception;
use migratekit_core::vmas::proof::{EXPORTER_LABEL, LENGTH};
use migratekit_core::{Error, ErrorKind, Result, clock};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::certificate::Certificate;
use crate::limits::{ANSWER_TIME, HANDSHAKE_TIME, HEAD_TIME, MAX_HEAD, MAX_HEADERS};
use crate::routes::{Connection, routes};

const SERVE: &str = "serve a connection";

/// See the [crate's documentation](crate).
#[derive(Clone)]
pub struct EnrollmentService {
    acceptor: TlsAcceptor,
    routes: Router,
}

impl fmt::Debug for EnrollmentService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollmentService").finish_non_exhaustive()
    }
}

impl EnrollmentService {
    /// With this certificate, for what `reception` decides.
    ///
    /// # Errors
    /// When certificate and key do not belong together.
    pub fn new(certificate: &Certificate, reception: Reception) -> Result<Self> {
        Ok(EnrollmentService {
            acceptor: TlsAcceptor::from(certificate.server_config()?),
            routes: routes(Arc::new(reception), ANSWER_TIME),
        })
    }

    async fn connection(&self, socket: TcpStream, address: SocketAddr) -> Result<()> {
        let io = |e| Error::from_io(SERVE, e);
        let late = || Error::new(ErrorKind::Timeout, SERVE, "the TLS handshake took too long");
        let stream = clock::within(HANDSHAKE_TIME, self.acceptor.accept(socket)).await.ok_or_else(late)?.map_err(io)?;
        let exporter = stream
            .get_ref()
            .1
            .export_keying_material([0; LENGTH], EXPORTER_LABEL, Some(&[]))
            .map_err(|e| Error::new(ErrorKind::Internal, SERVE, "the connection cannot be bound to").with_source(e))?;
        let connection = Connection { address: address.ip().to_canonical(), exporter };
        let service = TowerToHyperService::new(self.routes.clone().layer(Extension(connection)));
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .half_close(false)
            .serve_connection(TokioIo::new(stream), service)
            .await
            .map_err(|e| Error::new(ErrorKind::Unreachable, SERVE, "the connection broke").with_source(e))
    }
}

impl TlsHandler for EnrollmentService {
    fn serve(&self, socket: TcpStream, address: SocketAddr) -> BoxFuture<'static, ()> {
        let service = self.clone();
        Box::pin(async move {
            if let Err(error) = service.connection(socket, address).await {
                tracing::debug!(%error, %address, "a connection of TLS ended");
            }
        })
    }
}
