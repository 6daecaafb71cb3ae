//! libFuzzer harness of `nbd::client::fuzz::fuzz_client_handshake`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| migratekit_core::nbd::client::fuzz::fuzz_client_handshake(data));
