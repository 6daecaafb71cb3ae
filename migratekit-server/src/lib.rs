//! What MigrateKit serves by HTTP. It parses, makes one call into `migratekit-core`, and answers; no decision is made here.
//!
//! ```text
//!  tunnels::Server ── a connection that begins with TLS ─▶ EnrollmentService ─▶ TLS ─▶ hyper ─▶ routes ─▶ vmas::Reception
//! ```
//!
//! - [`EnrollmentService`]: the public face of an OMA on the tunnel's port: the three routes by which a VMA enrolls, and `/health`. Nothing
//!   else is routed there.
//! - [`Certificate`]: its TLS certificate, made at the first start.
//! - [`limits`]: every bound of it, by name.

mod answer;
mod certificate;
pub mod limits;
mod routes;
mod service;

pub use self::certificate::Certificate;
pub use self::service::EnrollmentService;
