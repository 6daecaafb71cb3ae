//! A value that does not leak by accident.

use std::fmt;
use std::hint::black_box;

use zeroize::Zeroize;

/// A secret text: a password, a token, a private key in PEM.
pub type SecretString = Secret<String>;
/// Secret bytes.
pub type SecretBytes = Secret<Vec<u8>>;

/// A value that is shown by nothing but [`expose`](Secret::expose), and wiped when it is dropped.
///
/// It cannot be changed in place, since a text that grows leaves its old bytes behind in memory. A clone is another copy in memory,
/// wiped on its own.
#[derive(Clone)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes the value; what it was copied from before is the caller's to wipe.
    #[must_use]
    pub fn new(value: T) -> Self {
        Secret(value)
    }

    /// The value. Do not put it into messages, arguments, URLs or environments.
    #[must_use]
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Secret::new(value)
    }
}

impl From<&str> for SecretString {
    fn from(value: &str) -> Self {
        Secret::new(value.to_owned())
    }
}

impl<T: Zeroize + AsRef<[u8]>> PartialEq for Secret<T> {
    /// Takes a time that depends on the lengths only.
    fn eq(&self, other: &Self) -> bool {
        same(self.0.as_ref(), other.0.as_ref())
    }
}

impl<T: Zeroize + AsRef<[u8]>> Eq for Secret<T> {}

/// Whether both are equal, in a time that depends on their lengths only.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(0, |seen, (x, y)| black_box(seen | (x ^ y)));
    a.len() == b.len() && black_box(differ) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn debug_shows_nothing() {
        let secret = SecretString::from("hunter2");
        assert_eq!(format!("{secret:?} {:?} {:#?}", Some(&secret), [&secret]).matches("hunter2").count(), 0);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn equality_is_of_all_bytes_and_of_the_length() {
        let of = |text: &str| SecretString::from(text);
        assert_eq!(of("abc"), of("abc"));
        assert_eq!(of(""), of(""));
        for (a, b) in [("abc", "abd"), ("abc", "xbc"), ("abc", "ab"), ("", "a"), ("abc", "abcd")] {
            assert_ne!(of(a), of(b), "{a} {b}");
            assert_ne!(of(b), of(a), "{a} {b}");
        }
    }

    /// Counts its wipes, and what it held when it was wiped.
    struct Watched<'a>(u8, &'a AtomicUsize, &'a Mutex<Vec<u8>>);

    impl Zeroize for Watched<'_> {
        fn zeroize(&mut self) {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.2.lock().unwrap().push(self.0);
            self.0 = 0;
        }
    }

    #[test]
    fn each_copy_is_wiped_when_it_is_dropped() {
        let (wipes, held) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let secret = Secret::new(Watched(7, &wipes, &held));
        assert_eq!(wipes.load(Ordering::SeqCst), 0);
        let moved = secret;
        assert_eq!(wipes.load(Ordering::SeqCst), 0);
        drop(moved);
        assert_eq!((wipes.load(Ordering::SeqCst), held.lock().unwrap().as_slice()), (1, &[7][..]));
    }
}
