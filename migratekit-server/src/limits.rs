//! Every bound of what is served by HTTP, by name, with unit and reason. How many connections there may be, in all and from one address, and
//! how long each, is said by the tunnel's server, whose port this is; how many wrong codes, by `migratekit_core::vmas::limits`.

use std::time::Duration;

/// Until the TLS handshake is done.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Until the head of a request is whole, and between two requests of a connection.
pub const HEAD_TIME: Duration = Duration::from_secs(10);
/// From a request's head to its answer: its body is read and it is done in this time.
pub const ANSWER_TIME: Duration = Duration::from_secs(15);
/// The head of a request, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;
/// The headers of a request.
pub const MAX_HEADERS: usize = 32;
/// The body of a request, in bytes: a few keys and proofs.
pub const MAX_BODY: usize = 8 * 1024;
