//! Every pair of cause and step, and hostile text wherever text can come in.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::step::STEPS;
use super::*;
use crate::error::ErrorKind;
use crate::model::recovery::Lost;

#[test]
fn no_two_causes_share_a_text() {
    let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).chain(["anything else"]).collect();
    let texts: BTreeSet<String> = Cause::ALL.iter().flat_map(|cause| names.iter().map(|step| message(*cause, Some(step)).text)).collect();
    assert_eq!(texts.len(), Cause::ALL.len() * names.len());
    assert!(STEPS.len() >= 45, "{} steps", STEPS.len());
    let classes: BTreeSet<_> = STEPS.iter().map(|(_, words)| words.class).collect();
    assert_eq!(classes.len(), StepClass::ALL.len());
}

#[test]
fn everything_we_say_is_clean_and_says_what_to_do() {
    for cause in Cause::ALL {
        for (name, words) in STEPS {
            let said = message(*cause, Some(name));
            assert!(is_clean(&said.text), "{}", said.text);
            assert_eq!(said.step, words.friendly);
            assert!(!said.actions.is_empty());
        }
    }
    let (mut codes, mut texts) = (BTreeSet::new(), BTreeSet::new());
    for action in Action::ALL {
        let (Target::Setting(place) | Target::Command(place) | Target::Page(place)) = action.target();
        assert!(!place.is_empty() && !action.text().to_lowercase().contains("support"), "{action}");
        assert!(is_clean(action.text()), "{action}");
        assert!(codes.insert(action.code()) && texts.insert(action.text()), "{action}");
        assert_eq!(action.code().parse::<Action>().unwrap(), *action);
        let json = serde_json::to_string(action).unwrap();
        assert_eq!(serde_json::from_str::<Action>(&json).unwrap(), *action, "{json}");
        assert!(
            Cause::ALL.iter().any(|cause| cause.actions().contains(action)) || TOLD_ELSEWHERE.contains(action),
            "{action} is never told"
        );
    }
}

/// Actions that preflight checks and sagas name, not a cause.
const TOLD_ELSEWHERE: [Action; 2] = [Action::MapNetworks, Action::CheckCloud];

#[test]
fn every_kind_of_error_and_every_finding_of_recovery_has_a_cause_of_its_own() {
    for kind in ErrorKind::ALL {
        assert_eq!(Cause::of(Some(kind.code()), Some("quota")).code(), kind.code());
        assert_eq!(Cause::of(Some(kind.code()), None).kind(), *kind);
    }
    for lost in [Lost::NoProof, Lost::JobLost, Lost::Reported("no space left".into())] {
        assert_eq!(Cause::of(Some(lost.code()), None).code(), lost.code());
    }
}

#[test]
fn text_betrays_a_cause_only_when_no_code_does() {
    for (text, cause) in [
        ("write: No space left on device", Cause::NoSpace),
        ("ssh: Connection refused", Cause::Unreachable),
        ("Permission denied (publickey)", Cause::Denied),
        ("operation timed out", Cause::Timeout),
        ("virt-v2v: error: /dev/vdb", Cause::Unknown),
        ("", Cause::Unknown),
    ] {
        assert_eq!(Cause::of(None, Some(text)), cause, "{text}");
        assert_eq!(Cause::of(Some("nonsense"), Some(text)), cause, "{text}");
        assert_eq!(Cause::of(Some("io"), Some(text)), Cause::Io);
    }
}

#[test]
fn steps_say_what_an_unclear_failure_has_to_do_with() {
    assert_eq!(message(Cause::Unknown, Some("virtio-driver-injection")).category, Category::Compatibility);
    assert_eq!(message(Cause::NoSpace, Some("virtio-driver-injection")).category, Category::Storage);
    assert_eq!(message(Cause::Unknown, None).category, Category::Platform);
}

#[test]
fn what_must_show_is_kept_and_what_must_not_is_hidden() {
    assert_eq!(scrub("web-01 (production)"), "web-01 (production)");
    assert_eq!(scrub("failed at /dev/vdb now"), "failed at (detail in the log) now");
    for text in [
        "virt-v2v failed",
        "VirtIO",
        "VIRTIO-WIN.ISO",
        "C:\\Windows\\x",
        "/opt/a.sh",
        "inject.ps1:",
        "\"/dev/sda\"",
        "(run.py)",
        "a\u{200b}/dev/x",
        "vir\u{ad}tio",
        "nbd://host/x",
    ] {
        assert!(!is_clean(text), "{text:?}");
        assert!(is_clean(&scrub(text)), "{text:?}: {}", scrub(text));
    }
}

/// Text as a failing tool may print it: pieces that must not show, in any case, joined by anything.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("virt-v2v".to_owned()),
        Just("VirtIO".to_owned()),
        Just("virtio-win.iso".to_owned()),
        Just("/dev/vdb1".to_owned()),
        Just("/usr/share/inject-drivers.sh".to_owned()),
        Just("cleanup.py".to_owned()),
        Just("C:\\Temp\\a.ps1".to_owned()),
        Just("\u{202e}\u{200b}".to_owned()),
        Just("\n\r\t\u{1b}[31m".to_owned()),
        "[a-zA-Z/._ -]{0,12}",
        ".{0,20}",
    ];
    prop::collection::vec((piece, prop_oneof![Just(""), Just(" "), Just("/"), Just(":")]), 0..12)
        .prop_map(|pieces| pieces.into_iter().map(|(piece, joint)| piece + joint).collect())
}

proptest! {
    #[test]
    fn no_technical_text_ever_shows(code in hostile(), technical in hostile(), step in hostile()) {
        let said = message(Cause::of(Some(&code), Some(&technical)), Some(&step));
        prop_assert!(is_clean(&said.text), "{}", said.text);
        prop_assert!(is_clean(&said.step));
        let scrubbed = scrub(&technical);
        prop_assert!(is_clean(&scrubbed), "{:?} became {:?}", technical, scrubbed);
    }
}
