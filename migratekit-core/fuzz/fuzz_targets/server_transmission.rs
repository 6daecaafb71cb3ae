//! libFuzzer harness of `nbd::fuzz::fuzz_server_transmission`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| migratekit_core::nbd::fuzz::fuzz_server_transmission(data));
