//! What is agreed upon at the beginning of a connection: modern algorithms only, AES-GCM first (the processors have it), host keys and
//! user keys of Ed25519 only, no compression of SSH's own.

use std::borrow::Cow;

use russh::keys::Algorithm;
use russh::{Limits, Preferred, cipher, compression, kex, mac};

use super::limits::{REKEY_BYTES, REKEY_TIME};

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

const CIPHERS: &[cipher::Name] = &[cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305];

/// Never used with these ciphers, which authenticate by themselves; the negotiation wants a list all the same.
const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM];

/// For either side.
pub(super) const PREFERRED: Preferred = Preferred {
    kex: Cow::Borrowed(KEX),
    key: Cow::Borrowed(&[Algorithm::Ed25519]),
    host_key_certificates: Cow::Borrowed(&[]),
    cipher: Cow::Borrowed(CIPHERS),
    mac: Cow::Borrowed(MACS),
    compression: Cow::Borrowed(&[compression::NONE]),
};

/// When keys are exchanged anew.
pub(super) fn rekey(bytes: usize) -> Limits {
    Limits::new(bytes.min(REKEY_BYTES), bytes.min(REKEY_BYTES), REKEY_TIME)
}
