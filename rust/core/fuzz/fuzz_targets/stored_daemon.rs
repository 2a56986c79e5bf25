//! `meshos_core::testing::fuzz::stored_daemon` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshos_core::testing::fuzz::stored_daemon(bytes));
