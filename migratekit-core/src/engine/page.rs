//! A page of a list, and where the next one begins.

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};

/// The most rows of one page.
pub const MAX_PAGE: u32 = 500;

/// Some rows of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    /// The rows, in the order of the list.
    pub items: Vec<T>,
    /// Where the next page begins; none when this is the last.
    pub next: Option<String>,
}

/// The number of rows of a page, checked.
pub(super) fn size(limit: u32) -> Result<u32> {
    if (1..=MAX_PAGE).contains(&limit) {
        return Ok(limit);
    }
    Err(Error::new(ErrorKind::InvalidInput, "read a page of a list", "a page has 1 to 500 rows").with("limit", limit))
}
