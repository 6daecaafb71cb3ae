//! Saved credentials by the command line: sealed, shown without secrets, changed, refused.

use std::fs;

use crate::engine_rig::{Home, shown};

const PASSWORD: &str = "hunter2-not-to-be-seen";

fn add_vmware(home: &Home, name: &str) -> std::process::Output {
    let args = ["credential", "add", "vmware", name, "--host", "vc.example.org", "--username", "svc@vsphere.local"];
    home.run_with_input(&args, &format!("{PASSWORD}\n"))
}

#[test]
fn each_kind_is_saved_listed_changed_and_removed_and_no_secret_is_ever_shown() {
    let home = Home::new();
    let mut all_said = String::new();
    let mut keep = |text: String| all_said.push_str(&text);
    let out = add_vmware(&home, "vc1");
    assert!(out.status.success(), "{}", shown(&out));
    keep(shown(&out));
    let keys = home.path("keys");
    fs::write(&keys, "api-key-not-to-be-seen\nsecret-key-not-to-be-seen\n").unwrap();
    let url = "https://cloud.example.org:8443/client/api";
    keep(home.succeed(&["credential", "add", "cloudstack", "cs1", "--url", url, "--keys-file", keys.to_str().unwrap(), "--zone", "z1"]));
    fs::create_dir(home.path("site")).unwrap();
    keep(home.succeed(&["credential", "add", "local", "lab", "--path", home.path("site").to_str().unwrap()]));
    assert!(home.path("site/machines").is_dir(), "an empty folder becomes a site");

    let list = home.json(&["credential", "list"]);
    let short: Vec<_> = list.as_array().unwrap().iter().map(|c| (c["kind"].as_str().unwrap(), c["name"].as_str().unwrap())).collect();
    assert_eq!(short, [("vmware", "vc1"), ("cloudstack", "cs1"), ("local", "lab")]);
    keep(list.to_string());
    let text = home.succeed(&["credential", "list"]);
    assert!(text.starts_with("NAME  KIND        PLACE") && text.contains("vc.example.org") && text.contains(url), "{text}");
    keep(text);

    keep(home.succeed(&["credential", "update", "vc1", "--datacenter", "DC1", "--rename", "vc-main"]));
    let one = home.json(&["credential", "show", "vc-main"]);
    assert_eq!((one["host"].as_str(), one["datacenter"].as_str()), (Some("vc.example.org"), Some("DC1")));
    keep(one.to_string());
    assert_eq!(home.json(&["credential", "set-default", "vc-main"])["is_default"], true);
    fs::create_dir(home.path("site/machines/broken")).unwrap();
    fs::write(home.path("site/machines/broken/machine.toml"), "name = 1").unwrap();
    for (name, found, reached) in [
        ("vc-main", "the saved password opens", false),
        ("cs1", "secret key open with the present key", false),
        ("lab", "0 of 1 machines can be read", true),
    ] {
        let text = home.succeed(&["credential", "test", name]);
        assert!(text.contains(found), "{text}");
        // What was not asked is not called good.
        assert_eq!(!reached, text.contains("not tried") && text.contains("whether it works there is not known"), "{text}");
        assert_eq!(reached, text.contains("problem ") && text.contains("broken"), "{text}");
        assert_eq!(home.json(&["credential", "test", name])["reached"], reached);
        keep(text);
    }
    keep(home.succeed(&["credential", "remove", "cs1"]));
    keep(home.refuse(&["credential", "show", "cs1"], 4, &["no credential of this name", "cs1", " next: "]));

    for secret in [PASSWORD, "api-key-not-to-be-seen", "secret-key-not-to-be-seen"] {
        assert!(!all_said.contains(secret), "{secret} was shown");
        for entry in fs::read_dir(home.path("migratekit")).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{secret} lies in {}", path.display());
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_each_with_its_reason() {
    let home = Home::new();
    assert!(add_vmware(&home, "vc1").status.success());
    let again = add_vmware(&home, "vc1");
    assert_eq!(again.status.code(), Some(5), "{}", shown(&again));
    assert!(shown(&again).contains("saved already"), "{}", shown(&again));
    let site = home.path("not-there");
    home.refuse(&["credential", "add", "local", "lab", "--path", site.to_str().unwrap()], 4, &["not-there"]);
    fs::create_dir(home.path("other")).unwrap();
    fs::write(home.path("other/file"), "").unwrap();
    home.refuse(&["credential", "add", "local", "lab", "--path", home.path("other").to_str().unwrap()], 3, &["no folder `machines`"]);
    home.refuse(&["credential", "update", "vc1", "--zone", "z"], 3, &["no such value", "zone"]);
    home.refuse(&["credential", "update", "vc1"], 3, &["nothing is given"]);
    home.refuse(&["credential", "set-default", "nobody"], 4, &["nobody"]);
    let empty = ["credential", "add", "vmware", "vc2", "--host", "h", "--username", "u"];
    let out = home.run_with_input(&empty, "\n");
    assert_eq!(out.status.code(), Some(3), "{}", shown(&out));
    assert!(shown(&out).contains("its line is missing or empty"), "{}", shown(&out));
    let out = home.run_with_input(&["credential", "add", "cloudstack", "cs", "--url", "https://a:b@c/client/api"], "a\nb\n");
    assert!(out.status.code() == Some(3) && !shown(&out).contains("a:b"), "{}", shown(&out));
}
