//! No decoder allocates for a length that the input only claims.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use meshos_core::testing::fuzz::FUZZERS;
use meshos_core::testing::samples;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The allocator of the system, noting the largest request of each thread.
struct Noting;

// SAFETY: every call goes to the allocator of the system as it came.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Noting = Noting;

#[test]
fn hostile_lengths_allocate_no_more_than_the_input() {
    let fuzzers: std::collections::BTreeMap<_, _> = FUZZERS.iter().copied().collect();
    for (name, bytes) in samples::golden() {
        // Signatures are checked before anything large could be read; the curve needs tables of its own.
        if name == "fork_record" {
            continue;
        }
        // Files of records of every kind have one decoder.
        let fuzzer = if name.ends_with("_records") { "records" } else { name };
        for at in 0..bytes.len() - 7 {
            for edge in [u64::MAX, u64::from(u32::MAX), 1 << 40, 0x7fff_ffff] {
                let mut hostile = bytes.clone();
                hostile[at..at + 8].copy_from_slice(&edge.to_le_bytes());
                LARGEST.set(0);
                fuzzers[fuzzer](&hostile);
                let largest = LARGEST.get();
                assert!(
                    largest <= 4 * bytes.len() + 4096,
                    "{name}: {largest} bytes after a change at {at}"
                );
            }
        }
    }
}
