//! Envelopes: what is sealed opens, and nothing else does.

use proptest::prelude::*;

use super::{row, vault};
use crate::credentials::{Key, Keys, MAX_SECRET, RowIdentity, Sealed, Secret, SecretBytes, SecretString, Vault};
use crate::error::{Error, ErrorKind};

const PLAIN: &str = "correct horse battery staple";

fn sealed() -> (Vault, Sealed) {
    let vault = vault();
    let sealed = vault.seal(&row("7"), &SecretString::from(PLAIN)).unwrap();
    (vault, sealed)
}

/// What `open` says of a text.
fn refused(vault: &Vault, row: &RowIdentity, text: &str) -> Error {
    text.parse::<Sealed>().and_then(|sealed| vault.open(row, &sealed)).map_err(|e| e.with("text", text)).unwrap_err()
}

#[test]
fn what_is_sealed_opens_and_is_never_the_same_twice() {
    let (vault, sealed) = sealed();
    let text = sealed.to_string();
    assert!(text.starts_with(&Sealed::prefix(vault.fingerprint())) && text.starts_with("mk1:"), "{text}");
    let read: Sealed = text.parse().unwrap();
    assert_eq!(vault.open_text(&row("7"), &read).unwrap(), SecretString::from(PLAIN));
    let again = vault.seal(&row("7"), &SecretString::from(PLAIN)).unwrap();
    assert_ne!(again.to_string(), text);
    assert_eq!(vault.open(&row("7"), &again).unwrap(), SecretBytes::new(PLAIN.into()));
}

#[test]
fn the_form_never_changes() {
    // Sealed by the first version of this code, and opened by an implementation in another language too. Should this fail, stored
    // secrets have become unreadable.
    let key = Key::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    let kept = "mk1:89d0a96c2a221c50:6dKyuE5Ptr0g1ZJsEaeJSpzjoEwdeDY2QirVX3OuwsY8TT6O2lc54W8LsN2HB7DPSyxQ0F7sx4sBUOT2GDpGwqdXAACo4jM9";
    let vault = Vault::new(Keys::new(key));
    assert_eq!(vault.open_text(&row("7"), &kept.parse().unwrap()).unwrap().expose(), PLAIN);
    let derived: String = vault.derive("epochs").expose().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(derived, "8b946a4e3e726dcf6588322ea9346b75621d5467eec76870a081b81a0b936b56");
}

#[test]
fn every_single_bit_counts() {
    let (vault, sealed) = sealed();
    let text = sealed.to_string().into_bytes();
    for bit in 0..text.len() * 8 {
        let mut changed = text.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        // A database gives text; what is none is not even given.
        if let Ok(changed) = String::from_utf8(changed) {
            assert_eq!(refused(&vault, &row("7"), &changed).kind(), ErrorKind::Sealed, "bit {bit}: {changed}");
        }
    }
    for length in 0..text.len() {
        let cut = String::from_utf8(text[..length].to_vec()).unwrap();
        assert_eq!(refused(&vault, &row("7"), &cut).kind(), ErrorKind::Sealed, "{cut}");
    }
}

#[test]
fn each_cause_has_its_own_text() {
    let (vault, sealed) = sealed();
    let text = sealed.to_string();
    let prefix = Sealed::prefix(vault.fingerprint());
    let mut damaged = text.clone();
    damaged.replace_range(30..31, if &text[30..31] == "A" { "B" } else { "A" });
    let cases = [
        (row("7"), damaged, "it was damaged"),
        (row("8"), text.clone(), "made for another row"),
        (RowIdentity::new("vmware_credentials", "username", "7"), text.clone(), "made for another row"),
        (row("7"), text.replacen("mk1", "mk2", 1), "a newer version"),
        (row("7"), text.replacen("mk1", "mkx", 1), "does not begin"),
        (row("7"), PLAIN.to_owned(), "is no sealed secret"),
        (row("7"), "mk1:0123".to_owned(), "was cut off: the part"),
        (row("7"), format!("mk1:xyz:{}", &text[21..]), "fingerprint in it is not"),
        (row("7"), format!("{prefix}?"), "not base64"),
        (row("7"), format!("{prefix}AAAA"), "data is too short"),
        (row("7"), format!("{prefix}{}", "A".repeat(100_000)), "longer than"),
    ];
    for (row, text, why) in cases {
        let error = refused(&vault, &row, &text);
        assert!(error.kind() == ErrorKind::Sealed && error.message().contains(why), "{why}: {error}");
    }
    let other = super::vault();
    let error = refused(&other, &row("7"), &text);
    assert!(error.message().contains("another key sealed it"), "{error}");
    assert_eq!(error.context_value("sealed with key"), Some(vault.fingerprint().to_string().as_str()));
    assert_eq!(error.context_value("this vault holds"), Some(other.fingerprint().to_string().as_str()));
}

#[test]
fn a_key_cannot_claim_what_another_sealed() {
    let (vault, sealed) = sealed();
    let other = super::vault();
    let claimed = sealed.to_string().replacen(&vault.fingerprint().to_string(), &other.fingerprint().to_string(), 1);
    assert!(refused(&other, &row("7"), &claimed).message().contains("it was damaged"));
}

#[test]
fn older_keys_open_and_the_current_one_seals() {
    let (first, sealed) = sealed();
    let keys = Keys::with_older(Key::generate().unwrap(), [first.keys().current().clone()]).unwrap();
    let both = Vault::new(keys);
    assert!(both.holds(first.fingerprint()) && both.fingerprint() != first.fingerprint());
    assert_eq!(both.open_text(&row("7"), &sealed).unwrap().expose(), PLAIN);
    assert_eq!(both.seal(&row("7"), &SecretString::from("x")).unwrap().fingerprint(), both.fingerprint());
}

#[test]
fn a_wrong_key_is_known_by_the_check_value() {
    let (vault, other) = (vault(), vault());
    let check = vault.check_value().unwrap();
    vault.verify(&check).unwrap();
    let error = other.verify(&check).unwrap_err();
    assert!(error.kind() == ErrorKind::Sealed && error.message().contains("not the key that the catalog's"), "{error}");
    assert_eq!(error.context_value("sealed with key"), Some(vault.fingerprint().to_string().as_str()));
    // Somebody's secret is no check value.
    let error = vault.verify(&vault.seal(&row("7"), &SecretString::from(PLAIN)).unwrap()).unwrap_err();
    assert!(error.message().contains("check value cannot be opened"), "{error}");
}

#[test]
fn derived_keys_follow_key_and_purpose() {
    let (a, b) = (vault(), vault());
    assert_eq!(a.derive("epochs"), a.clone().derive("epochs"));
    assert_ne!(a.derive("epochs"), a.derive("tokens"));
    assert_ne!(a.derive("epochs"), b.derive("epochs"));
}

#[test]
fn lengths_are_bounded_and_text_is_text() {
    let vault = vault();
    let seal = |length: usize| vault.seal(&row("7"), &Secret::new(vec![0xff; length]));
    for length in [0, 1, MAX_SECRET] {
        let sealed: Sealed = seal(length).unwrap().to_string().parse().unwrap();
        assert_eq!(vault.open(&row("7"), &sealed).unwrap().expose().len(), length);
    }
    assert_eq!(seal(MAX_SECRET + 1).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(vault.open_text(&row("7"), &seal(1).unwrap()).unwrap_err().message().contains("not text"));
}

/// The error and all that stands behind it, in both forms.
fn everything_of(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = std::error::Error::source(error);
    while let Some(e) = source {
        text.push_str(&format!("{e} {e:?}"));
        source = e.source();
    }
    text
}

proptest! {
    #[test]
    fn a_row_opens_its_own_secrets_only(
        parts in proptest::array::uniform3("[a-z.]{0,3}"), others in proptest::array::uniform3("[a-z.]{0,3}"),
        secret in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let identity = |[table, column, key]: &[String; 3]| RowIdentity::new(table.clone(), column.clone(), key);
        let vault = vault();
        let secret = SecretBytes::new(secret);
        let sealed = vault.seal(&identity(&parts), &secret).unwrap();
        prop_assert_eq!(vault.open(&identity(&parts), &sealed).unwrap(), secret);
        prop_assert_eq!(vault.open(&identity(&others), &sealed).is_ok(), parts == others);
    }

    #[test]
    fn any_changed_byte_is_refused(secret in "[ -~]{0,100}", at in any::<prop::sample::Index>(), by in 1_u8..=255) {
        let vault = vault();
        let mut text = vault.seal(&row("7"), &SecretString::from(secret.as_str())).unwrap().to_string().into_bytes();
        let at = at.index(text.len());
        text[at] ^= by;
        if let Ok(text) = String::from_utf8(text) {
            prop_assert_eq!(refused(&vault, &row("7"), &text).kind(), ErrorKind::Sealed);
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic_and_the_form_is_canonical(text in "(mk[0-9]:)?[0-9a-f]{0,17}:?[A-Za-z0-9+/]{0,80}={0,2}") {
        if let Ok(sealed) = text.parse::<Sealed>() {
            prop_assert_eq!(sealed.to_string(), text);
        }
    }

    #[test]
    fn nothing_shows_the_secret(secret in "[!-~]{12,40}") {
        let (vault, other) = (vault(), super::vault());
        let kept = SecretString::from(secret.as_str());
        let sealed = vault.seal(&row("7"), &kept).unwrap();
        let opened = vault.open(&row("7"), &sealed).unwrap();
        let mut shown = format!("{kept:?} {opened:?} {sealed} {sealed:?} {vault:?} {:?} {:?}", vault.keys(), vault.derive("x"));
        let damaged = format!("{}A", &sealed.to_string()[..sealed.to_string().len() - 1]);
        for error in [
            other.open(&row("7"), &sealed).unwrap_err(),
            vault.open(&row("8"), &sealed).unwrap_err(),
            other.verify(&sealed).unwrap_err(),
            vault.verify(&sealed).unwrap_err(),
            secret.parse::<Sealed>().unwrap_err(),
            format!("mk1:{secret}").parse::<Sealed>().unwrap_err(),
            format!("mk1:0123456789abcdef:{secret}").parse::<Sealed>().unwrap_err(),
            Key::parse(&secret).unwrap_err(),
            Keys::parse(&secret).unwrap_err(),
        ].into_iter().chain(damaged.parse::<Sealed>().err()) {
            shown.push_str(&everything_of(&error.with("operation", "test")));
        }
        let key = vault.keys().current().to_text();
        prop_assert!(!shown.contains(&secret) && !shown.contains(key.expose().as_str()), "{}", shown);
    }
}
