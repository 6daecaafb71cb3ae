//! What `nbd info` tells: the export as the server offers it, in both forms, to readers who stop early too.

use crate::run::{Served, command, succeed};

#[test]
fn the_export_is_shown_as_the_server_offers_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    for (more, writable) in [(&[][..], true), (&["--read-only"][..], false)] {
        let server = Served::start(&path, more);
        let info: serde_json::Value = serde_json::from_str(&succeed(&["nbd", "info", &server.uri(), "--output", "json"])).unwrap();
        assert_eq!(info["size"], 1 << 20);
        assert_eq!(info["read_only"], !writable);
        for can in ["zero", "discard", "fast_zero"] {
            assert_eq!(info["can"][can], writable, "{can}: {info}");
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let out = command(&["nbd", "info", "--limits"]).stdout(writer).output().unwrap();
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).as_ref()), (Some(0), ""));
}
