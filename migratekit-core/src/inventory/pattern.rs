//! Patterns of names: `web-*`, where a star stands for any text.

use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// The longest pattern, in bytes; names are no longer.
const MAX_PATTERN: usize = 255;

/// A pattern that names fit or do not fit; case matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    parts: Vec<String>,
}

impl NamePattern {
    /// The pattern that every name fits.
    #[must_use]
    pub fn any() -> Self {
        NamePattern { parts: vec![String::new(), String::new()] }
    }

    /// Whether the whole name fits.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        let Some((first, rest)) = self.parts.split_first() else { return name.is_empty() };
        let Some((last, middle)) = rest.split_last() else { return name == first };
        let Some(mut left) = name.strip_prefix(first.as_str()) else { return false };
        for part in middle {
            // The first place that fits leaves most for what follows.
            match left.split_once(part.as_str()) {
                Some((_, behind)) => left = behind,
                None => return false,
            }
        }
        left.ends_with(last.as_str())
    }
}

impl FromStr for NamePattern {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > MAX_PATTERN {
            return Err(Error::new(ErrorKind::InvalidInput, "read a pattern of names", "it must have 1 to 255 bytes"));
        }
        Ok(NamePattern { parts: text.split('*').map(str::to_owned).collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        pattern.parse::<NamePattern>().unwrap().fits(name)
    }

    #[test]
    fn a_star_stands_for_any_text_and_nothing_else_does() {
        for (pattern, name) in [("*", ""), ("web-*", "web-01"), ("*01", "web-01"), ("w*-*1", "web-01"), ("a*b*b", "abb"), ("a?", "a?")] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("web-*", "Web-01"), ("a*a", "a"), ("a*b*b", "ab"), ("a?", "ab"), ("web", "web-01")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
        assert!(NamePattern::any().fits("whatever") && "".parse::<NamePattern>().is_err());
    }

    proptest! {
        /// Against the plain definition: some way to cut the name at the stars exists.
        #[test]
        fn it_agrees_with_the_definition(pattern in "[ab*]{1,7}", name in "[ab]{0,7}") {
            fn defined(pattern: &[u8], name: &[u8]) -> bool {
                match pattern.split_first() {
                    None => name.is_empty(),
                    Some((b'*', rest)) => (0..=name.len()).any(|cut| defined(rest, &name[cut..])),
                    Some((byte, rest)) => name.first() == Some(byte) && defined(rest, &name[1..]),
                }
            }
            prop_assert_eq!(fits(&pattern, &name), defined(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
