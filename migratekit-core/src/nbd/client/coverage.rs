//! Which bytes of a reply were told: each must be told exactly once.

/// Runs that were told: sorted, disjoint, never touching.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    runs: Vec<(u32, u32)>,
}

impl Coverage {
    /// Adds `count` bytes from `from` on; false when one of them was told before, or the end overflows.
    pub(crate) fn add(&mut self, from: u32, count: u32) -> bool {
        let Some(end) = from.checked_add(count) else { return false };
        let at = self.runs.partition_point(|(start, _)| *start < from);
        let before = at.checked_sub(1).and_then(|i| self.runs.get(i)).copied();
        let after = self.runs.get(at).copied();
        if before.is_some_and(|(_, e)| e > from) || after.is_some_and(|(s, _)| s < end) {
            return false;
        }
        let joins_before = before.is_some_and(|(_, e)| e == from);
        let joins_after = after.is_some_and(|(s, _)| s == end);
        let new_end = if joins_after { after.map_or(end, |(_, e)| e) } else { end };
        if joins_after && joins_before {
            self.runs.remove(at);
        }
        if joins_before {
            if let Some(run) = self.runs.get_mut(at.saturating_sub(1)) {
                run.1 = new_end;
            }
        } else if joins_after {
            if let Some(run) = self.runs.get_mut(at) {
                run.0 = from;
            }
        } else {
            self.runs.insert(at, (from, new_end));
        }
        true
    }

    /// Whether exactly the bytes from 0 to `length` were told.
    pub(crate) fn covers(&self, length: u32) -> bool {
        self.runs == [(0, length)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(runs in proptest::collection::vec((0_u32..64, 1_u32..16), 1..40)) {
            let mut coverage = Coverage::default();
            let mut map = [false; 96];
            for (from, count) in runs {
                let range = from as usize..(from + count) as usize;
                let free = map[range.clone()].iter().all(|b| !b);
                prop_assert_eq!(coverage.add(from, count), free);
                if free {
                    map[range].fill(true);
                }
                let told: usize = coverage.runs.iter().map(|(s, e)| (e - s) as usize).sum();
                prop_assert_eq!(told, map.iter().filter(|b| **b).count());
                prop_assert!(coverage.runs.windows(2).all(|w| w[0].1 < w[1].0));
            }
        }
    }

    #[test]
    fn overflow_is_refused() {
        assert!(!Coverage::default().add(u32::MAX, 1));
    }
}
