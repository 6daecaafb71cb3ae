//! Planted bugs, for the mutation check (see `testing::mutation`). Without feature `testing` there are none: the question is
//! answered at compile time.

/// The environment variable that names the bug to switch on, for a whole process.
#[cfg(feature = "testing")]
pub(crate) const VARIABLE: &str = "MIGRATEKIT_MUTATION";

/// Whether this planted bug is switched on.
#[cfg(feature = "testing")]
pub(crate) fn planted(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok()).as_deref() == Some(name)
}

/// Whether this planted bug is switched on: never.
#[cfg(not(feature = "testing"))]
pub(crate) const fn planted(_name: &str) -> bool {
    false
}
