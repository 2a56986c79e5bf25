//! `meshos_core::testing::fuzz::store_head` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshos_core::testing::fuzz::store_head(bytes));
