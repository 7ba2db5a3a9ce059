//! Memory that the allocator keeps for later. The only place that knows which allocator `main.rs` has chosen.

use std::ptr::null_mut;

/// jemalloc's name for giving back what all arenas keep (`MALLCTL_ARENAS_ALL` is 4096).
const PURGE_ALL: &std::ffi::CStr = c"arena.4096.purge";

/// Gives memory that nobody uses back to the kernel. jemalloc does so by itself, but only as it is used: a gateway that
/// turns everybody away would wait for that for ever.
pub(super) fn shrink() {
    if let Err(number) = purge() {
        tracing::debug!(number, "the allocator did not give memory back");
    }
}

fn purge() -> Result<(), i32> {
    // SAFETY: the name ends with a zero; this control takes no value and gives none.
    match unsafe { tikv_jemalloc_sys::mallctl(PURGE_ALL.as_ptr(), null_mut(), null_mut(), null_mut(), 0) } {
        0 => Ok(()),
        number => Err(number),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_allocator_knows_the_control() {
        assert_eq!(super::purge(), Ok(()));
    }
}
