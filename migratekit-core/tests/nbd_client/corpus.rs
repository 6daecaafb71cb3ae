//! The corpus of the client's fuzz targets (`tests/fuzz.rs` runs them): right conversations, kept true to the tests' own.

use std::fs;
use std::path::Path;

use migratekit_core::nbd::wire::chunk;

use crate::fake;

/// The corpus is what these conversations are; `MIGRATEKIT_CORPUS=write` writes it anew.
#[test]
fn the_corpus_holds_the_conversations_of_the_tests() {
    let done = chunk::FLAG_DONE;
    let reads = [fake::data(0, 0, &[7; 256]), fake::hole(0, 256, 256), fake::piece(done, chunk::NONE, fake::FIRST, b"")].concat();
    let extents = [fake::piece(done, chunk::BLOCK_STATUS, (4 << 16) | 3, &[0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 3])].concat();
    let error = fake::piece(done, chunk::ERROR_OFFSET, (2 << 16) | 1, &[0, 0, 0, 5, 0, 2, b'n', b'o', 0, 0, 0, 0, 0, 0, 16, 0]);
    let list = [
        fake::greeting(),
        migratekit_core::nbd::wire::encode_option_reply(3, 2, b"\0\0\0\x04diskfor people"),
        migratekit_core::nbd::wire::encode_option_reply(3, 1, b""),
    ]
    .concat();
    let files = [
        ("client_handshake", "structured", [vec![0], fake::handshake()].concat()),
        ("client_handshake", "simple", [vec![0], fake::simple_handshake()].concat()),
        ("client_handshake", "list", [vec![1], list].concat()),
        ("client_replies", "read", [vec![1], reads].concat()),
        ("client_replies", "extents", [vec![1], extents].concat()),
        ("client_replies", "error", [vec![1], error].concat()),
        ("client_replies", "simple", [vec![0], fake::simple(0, fake::FIRST), vec![9; 512], fake::simple(5, (5 << 16) | 4)].concat()),
    ];
    for (target, name, bytes) in files {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target).join(name);
        if std::env::var("MIGRATEKIT_CORPUS").is_ok_and(|v| v == "write") {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), bytes, "{}", path.display());
    }
}
