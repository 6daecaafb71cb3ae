//! A page of a list, and where the next one begins.

use serde::Serialize;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::JobId;

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

/// The page of `rows`, of which one more than `limit` was asked for; `cursor` names the last one that is shown.
pub(super) fn cut<T>(mut items: Vec<T>, limit: u32, cursor: impl FnOnce(&T) -> String) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(cursor);
    Page { items, next }
}

/// A cursor that no page gave.
pub(super) fn wrong_cursor() -> Error {
    Error::new(ErrorKind::InvalidInput, "read a page of a list", "the cursor is none that a page of this list gave")
}

/// The cursor of a list by time.
pub(super) fn cursor_of(time: Timestamp, id: &JobId) -> String {
    format!("{}.{id}", time.as_micros())
}

/// The time and id of such a cursor.
pub(super) fn read_cursor(text: &str) -> Result<(Timestamp, JobId)> {
    let (time, id) = text.split_once('.').ok_or_else(wrong_cursor)?;
    let time = time.parse().ok().and_then(|micros| Timestamp::from_micros(micros).ok()).ok_or_else(wrong_cursor)?;
    Ok((time, id.parse().map_err(|e: Error| wrong_cursor().with_source(e))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nonsense_is_refused() {
        let (time, id) = (Timestamp::now(), JobId::generate());
        assert_eq!(read_cursor(&cursor_of(time, &id)).unwrap(), (time, id));
        for text in ["", "1", "x.job-1", "1.ctx-1"] {
            assert!(read_cursor(text).unwrap_err().message().contains("cursor"), "{text}");
        }
    }

    #[test]
    fn the_last_page_has_no_next() {
        let page = |count: u32| cut((0..count).collect(), 2, u32::to_string);
        assert_eq!((page(2).items.len(), page(2).next), (2, None));
        assert_eq!((page(3).items.len(), page(3).next), (2, Some("1".to_owned())));
        assert!(size(0).is_err() && size(501).is_err() && size(500).is_ok());
    }
}
