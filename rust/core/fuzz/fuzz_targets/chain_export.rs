//! `meshos_core::testing::fuzz::chain_export` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshos_core::testing::fuzz::chain_export(bytes));
