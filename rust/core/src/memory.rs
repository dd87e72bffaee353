//! Hints to the processor and the system. None of them changes a result.

use std::{
    mem::MaybeUninit,
    ops::Range,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Asks the processor to bring what stands at `address` nearer.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Memory that will be read soon, asked for a little at a time beside other work: asked for all at once, it would keep
/// that work's own loads waiting.
#[derive(Debug, Default)]
pub struct Ahead {
    next: usize,
    left: usize,
}

/// Bytes of a line of the processor's caches.
const LINE: usize = 64;

impl Ahead {
    /// So many bytes from `start` on, which need not all be the program's own: asking for others does nothing.
    pub fn new(start: *const u8, bytes: usize) -> Self {
        Self { next: start.addr(), left: bytes }
    }

    /// True once all has been asked for.
    #[inline(always)]
    pub fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Asks for the next two lines: as much as 64 characters of two bytes take.
    #[inline(always)]
    pub fn step(&mut self) {
        if !self.is_done() {
            prefetch(std::ptr::without_provenance::<u8>(self.next));
            prefetch(std::ptr::without_provenance::<u8>(self.next.wrapping_add(LINE)));
            self.next = self.next.wrapping_add(2 * LINE);
            self.left = self.left.saturating_sub(2 * LINE);
        }
    }
}

/// The fresh memory of a result, behind which the system has yet to put pages.
///
/// Large pages cost a fourth of what as many small ones do, and small ones a third of the time of a large batch of Han
/// text. But on a virtual machine whose host has taken free memory back, a large page waits until the host has brought
/// all of it, and then costs six times as much as small ones, which mostly come from memory that is still there. So
/// once a large page was slow, the rest gets small ones.
#[derive(Debug)]
pub struct FreshMemory {
    /// Addresses of all of it.
    range: Range<usize>,
    /// True while the system is asked for large pages.
    is_large: AtomicBool,
}

/// Memory that is worth large pages.
const LARGE_MEMORY: usize = 4 << 20;
/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;
/// A large page takes some 0.25 ms to clear, and 4 to 5 where the host has to bring it.
const SLOW: Duration = Duration::from_micros(1500);

impl FreshMemory {
    /// All of the memory that will be filled, from front to back. Where it is much, it gets large pages.
    pub fn new<T>(memory: &mut [MaybeUninit<T>]) -> Self {
        let start = memory.as_ptr().addr();
        let range = start..start + size_of_val(memory);
        let is_large = range.len() >= LARGE_MEMORY;
        if is_large {
            advise(range.clone(), Advice::LargePages);
        }
        Self { range, is_large: is_large.into() }
    }

    /// Has the system put pages behind a part of it all at once. One by one, as they are first written, they took a
    /// sixth of the time of a large batch.
    pub fn populate<T>(&self, part: &mut [MaybeUninit<T>]) {
        let start = part.as_ptr().addr();
        let end = start + size_of_val(part);
        let begun = Instant::now();
        advise(start..end, Advice::Populate);
        if self.is_large.load(Relaxed) && begun.elapsed() > SLOW && self.is_large.swap(false, Relaxed) {
            self.shrink_pages(end);
        }
    }

    /// Has the system put small pages behind what begins at `from`, but for what a large one has been put behind.
    fn shrink_pages(&self, from: usize) {
        // Elsewhere, should the result have moved, nothing may be changed.
        if self.range.contains(&from) {
            advise(from.next_multiple_of(LARGE_PAGE)..self.range.end, Advice::SmallPages);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Advice {
    Populate,
    LargePages,
    SmallPages,
}

/// Advises the system about the whole pages of a range of addresses. No advice changes what stands there.
#[cfg(target_os = "linux")]
fn advise(range: Range<usize>, advice: Advice) {
    const PAGE: usize = 4096;
    let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
    let advice = match advice {
        Advice::Populate => libc::MADV_POPULATE_WRITE,
        Advice::LargePages => libc::MADV_HUGEPAGE,
        Advice::SmallPages => libc::MADV_NOHUGEPAGE,
    };
    if start < end {
        // SAFETY: advice, of which none touches the bytes. A system that does not know it refuses, and nothing is lost.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(start), end - start, advice) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_: Range<usize>, _: Advice) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_can_be_filled_whatever_its_pages() {
        let mut memory: Vec<u8> = Vec::with_capacity(16 << 20);
        let room = memory.spare_capacity_mut();
        let fresh = FreshMemory::new(room);
        for (i, part) in room.chunks_mut(300_000).enumerate() {
            fresh.populate(part);
            part.fill(MaybeUninit::new(i as u8));
            if i == 20 {
                fresh.shrink_pages(part.as_ptr_range().end.addr());
            }
        }
        let holds = |(i, part): (usize, &[MaybeUninit<u8>])| {
            // SAFETY: all of it has been filled.
            part.iter().all(|byte| unsafe { byte.assume_init() } == i as u8)
        };
        assert!(room.chunks(300_000).enumerate().all(holds));
    }
}
