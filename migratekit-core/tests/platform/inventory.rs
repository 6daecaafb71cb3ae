//! Machine files, good and bad: each bad one is refused with a text of its own, and hides no other.

use migratekit_core::model::{OsFamily, PowerState};
use migratekit_core::platform::{Firmware, Inventory, Source};

use crate::site::{Site, toml};

#[tokio::test]
async fn a_machine_is_described_as_its_file_says() {
    let site = Site::new().await;
    let machine = site.site.describe(&site.machine()).await.unwrap();
    assert_eq!((machine.name.as_str(), machine.cpus, machine.memory_bytes), ("Web 01", 2, 2 << 30));
    assert_eq!((machine.os, machine.firmware, machine.power), (OsFamily::Linux, Firmware::Bios, PowerState::Off));
    assert_eq!(machine.disks.iter().map(|d| d.key.to_string()).collect::<Vec<_>>(), ["disk-2000", "disk-2001", "disk-2002"]);
    assert_eq!(machine.disks[1].unit_number, Some(1));
    assert_eq!(machine.networks[0].mac.as_deref(), Some("00:50:56:00:00:0a"));
}

#[tokio::test]
async fn each_bad_machine_is_told_singly_and_by_a_text_of_its_own() {
    let site = Site::new().await;
    let good = toml("off");
    let cases: &[(&str, String, &str)] = &[
        ("a-toml", "name = ".to_owned(), "cannot be understood"),
        ("b-field", format!("colour = \"red\"\n{good}"), "unknown field"),
        ("c-missing", good.replace("cpus = 2\n", ""), "missing field"),
        ("d-cpus", good.replace("cpus = 2", "cpus = 0"), "no processor"),
        ("e-memory", good.replace("2G", "0"), "no memory"),
        ("f-memory", good.replace("2G", "two"), "whole number with K, M, G or T"),
        ("g-power", good.replace("\"off\"", "\"asleep\""), "on off suspended"),
        ("h-name", good.replace("Web 01", ""), "its name is empty"),
        ("i-mac", good.replace("00:50:56:00:00:0A", "00:50"), "six pairs"),
        ("j-key", good.replace("2001", "2000"), "two disks have the same key"),
        ("k-unit", good.replace("key = 2001\n", "key = 2001\nunit = 0\n"), "two disks have the same unit"),
        ("l-file", good.replace("1.img", "0.img"), "two disks are the same file"),
        ("m-gone", good.replace("2.img", "none.img"), "the file of a disk does not exist"),
        ("n-folder", good.replace("2.img", "."), "neither a file nor a block device"),
        ("o-qcow2", good.replace("2.img", "disk.qcow2"), "qemu-img convert"),
        ("p-empty", good.replace("2.img", "empty.img"), "a disk is empty"),
    ];
    for (name, text, _) in cases {
        let folder = site.folder.path().join("machines").join(name);
        std::fs::create_dir(&folder).unwrap();
        for disk in ["0.img", "1.img", "2.img"] {
            std::fs::write(folder.join(disk), "disk").unwrap();
        }
        std::fs::write(folder.join("disk.qcow2"), b"QFI\xfb\0\0\0\x03").unwrap();
        std::fs::write(folder.join("empty.img"), "").unwrap();
        std::fs::write(folder.join("machine.toml"), text.replace("564d-1", name)).unwrap();
    }
    std::fs::create_dir(site.folder.path().join("machines/q-nothing")).unwrap();
    let latin = site.folder.path().join("machines/r-latin");
    std::fs::create_dir(&latin).unwrap();
    std::fs::write(latin.join("machine.toml"), b"name = \"caf\xe9\"").unwrap();

    let listed = site.site.machines().await.unwrap();
    assert_eq!(listed.len(), cases.len() + 3);
    let said = |name: &str| listed.iter().find(|l| l.place.ends_with(name)).unwrap().machine.as_ref().unwrap_err().to_string();
    for (name, _, expected) in cases {
        assert!(said(name).contains(expected), "{name}: {}", said(name));
        assert!(said(name).contains(name), "the place is named: {}", said(name));
    }
    assert!(said("q-nothing").contains("no machine.toml"));
    assert!(said("r-latin").contains("not text"));
    let good: Vec<_> = listed.iter().filter_map(|l| l.machine.as_ref().ok()).map(|m| m.reference.as_str()).collect();
    assert_eq!(good, ["web"]);
}

#[tokio::test]
async fn twins_are_both_refused_and_name_each_other() {
    let site = Site::new().await;
    let twin = site.folder.path().join("machines/web-copy");
    std::fs::create_dir(&twin).unwrap();
    std::fs::write(twin.join("machine.toml"), toml("off").split("[[disk]]").next().unwrap()).unwrap();
    let listed = site.site.machines().await.unwrap();
    for entry in &listed {
        let text = entry.machine.as_ref().unwrap_err().to_string();
        assert!(text.contains("web") && text.contains("web-copy") && text.contains("same uuid"), "{text}");
    }
    assert_eq!(listed.len(), 2);
}

#[tokio::test]
async fn a_machine_is_not_a_path() {
    let site = Site::new().await;
    for name in ["../machines/web", ".", "..", ".migratekit"] {
        let error = site.site.describe(&name.parse().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("by the name of its folder"), "{error}");
    }
}
