//! VMAs: the machines at the VMware side, as the catalog knows them.
//!
//! - [`Connections`]: writes down who is connected, as it happens in the tunnel.

mod connections;

pub use self::connections::{ConnectionSettings, Connections, MAX_KEPT};
