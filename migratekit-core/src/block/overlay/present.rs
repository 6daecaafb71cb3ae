//! Which clusters lie in the top: a bitmap in pages, so that a large disk with few changes takes little memory.

use std::collections::BTreeMap;

/// Words of 64 bits in a page; a page tells of 65,536 clusters (4 GiB of the default size) in 8 KiB.
const WORDS: usize = 1024;

/// Clusters in a page.
const CLUSTERS: u64 = 64 * 1024;

#[derive(Debug)]
struct Page {
    words: Box<[u64]>,
    count: u64,
}

/// A set of cluster numbers.
#[derive(Debug, Default)]
pub(super) struct Present {
    pages: BTreeMap<u64, Page>,
}

impl Present {
    pub(super) fn insert(&mut self, cluster: u64) {
        let page = self.pages.entry(cluster / CLUSTERS).or_insert_with(|| Page { words: vec![0; WORDS].into_boxed_slice(), count: 0 });
        let (word, bit) = place(cluster);
        if let Some(word) = page.words.get_mut(word)
            && *word & bit == 0
        {
            *word |= bit;
            page.count += 1;
        }
    }

    pub(super) fn contains(&self, cluster: u64) -> bool {
        let (word, bit) = place(cluster);
        self.pages.get(&(cluster / CLUSTERS)).and_then(|page| page.words.get(word)).is_some_and(|word| word & bit != 0)
    }

    /// Whether `first` is in the set, and where (at most at `end`) that changes. Full and empty pages are passed at once.
    pub(super) fn run(&self, first: u64, end: u64) -> (bool, u64) {
        let here = self.contains(first);
        let mut at = first;
        while at < end {
            let all_alike = match self.pages.get(&(at / CLUSTERS)) {
                None => !here,
                Some(page) => here && page.count == CLUSTERS,
            };
            if all_alike {
                at = (at / CLUSTERS + 1) * CLUSTERS;
            } else if self.contains(at) == here {
                at += 1;
            } else {
                break;
            }
        }
        (here, at.min(end))
    }
}

fn place(cluster: u64) -> (usize, u64) {
    let inside = cluster % CLUSTERS;
    (usize::try_from(inside / 64).unwrap_or(0), 1 << (inside % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_where_the_set_changes() {
        let mut set = Present::default();
        assert_eq!(set.run(0, 1 << 40), (false, 1 << 40));
        for cluster in (0..CLUSTERS + 3).chain([CLUSTERS * 5]) {
            set.insert(cluster);
            set.insert(cluster);
        }
        assert_eq!(set.run(1, u64::MAX), (true, CLUSTERS + 3));
        assert_eq!(set.run(CLUSTERS + 3, u64::MAX), (false, CLUSTERS * 5));
        assert_eq!(set.run(CLUSTERS * 5, u64::MAX), (true, CLUSTERS * 5 + 1));
        assert_eq!(set.run(7, 9), (true, 9));
        assert!(set.contains(CLUSTERS * 5) && !set.contains(CLUSTERS * 5 - 1));
    }
}
