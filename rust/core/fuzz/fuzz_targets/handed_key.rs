//! `meshos_core::testing::fuzz::handed_key` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshos_core::testing::fuzz::handed_key(bytes));
