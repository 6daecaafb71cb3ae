//! libFuzzer harness of `nbd::client::fuzz::fuzz_client_replies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| migratekit_core::nbd::client::fuzz::fuzz_client_replies(data));
