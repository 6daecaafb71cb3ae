//! libFuzzer harness of `tunnels::fuzz::fuzz_compressed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| migratekit_core::tunnels::fuzz::fuzz_compressed(data));
