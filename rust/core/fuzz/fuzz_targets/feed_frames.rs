//! `meshos_core::testing::fuzz::feed_frames` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshos_core::testing::fuzz::feed_frames(bytes));
