//! What the parts hold together: envelopes, the key file, rotations.

mod envelope;
mod key_file;
mod rotation;

use super::{Key, Keys, RowIdentity, Vault};

fn vault() -> Vault {
    Vault::new(Keys::new(Key::generate().unwrap()))
}

fn row(key: &str) -> RowIdentity {
    RowIdentity::new("vmware_credentials", "password_encrypted", key.to_owned())
}
