//! Hints to the processor and the system, none of which changes a result, and zeroed memory that follows them.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    mem::MaybeUninit,
    ops::{Deref, DerefMut, Range},
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Asks the processor to load what is at `address` into its caches.
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

/// Memory that will be read soon, prefetched a little at a time during other work: prefetched all at once, it would delay
/// that work's own loads.
#[derive(Debug, Default)]
pub struct Ahead {
    next: usize,
    left: usize,
}

/// Bytes of a line of the processor's caches.
const LINE: usize = 64;

impl Ahead {
    /// So many bytes from `start` on, which need not all be the program's own: prefetching others does nothing.
    pub fn new(start: *const u8, bytes: usize) -> Self {
        Self { next: start.addr(), left: bytes }
    }

    /// True once all is prefetched.
    #[inline(always)]
    pub fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Prefetches the next two lines: as much as 64 characters of two bytes take.
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

/// Values of all bits zero, whose pages stay untouched until they are used. Much of it gets large pages: a thousand
/// small ones cost a new thread 2 ms, two large ones 0.4.
///
/// (An allocator from which more than the usual alignment is requested writes the zeros itself, and so touches every page.)
#[derive(Debug)]
pub struct Zeroed<T> {
    values: NonNull<T>,
    len: usize,
    /// What was allocated: the values, and room to align them.
    block: NonNull<u8>,
    layout: Layout,
}

/// Alignment for which an allocator need not write zeros itself.
const USUAL_ALIGN: usize = 16;

impl<T> Zeroed<T> {
    /// So many of them.
    ///
    /// # Safety
    /// All bits zero must be a valid `T`, and `T` must need no drop.
    pub unsafe fn new(len: usize) -> Self {
        let bytes = len.saturating_mul(size_of::<T>());
        let is_large = bytes >= LARGE_MEMORY;
        let align = if is_large { LARGE_PAGE } else { align_of::<T>() };
        let Ok(layout) = Layout::from_size_align(bytes.saturating_add(align), USUAL_ALIGN) else {
            handle_alloc_error(Layout::new::<T>())
        };
        // SAFETY: there is at least the room to align.
        let Some(block) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        // SAFETY: aligning takes fewer bytes than there are beyond those of the values.
        let values = unsafe { block.add(block.align_offset(align)) }.cast();
        if is_large {
            let start = values.addr().get();
            advise(start..start + bytes, Advice::LargePages);
        }
        Self { values, len, block, layout }
    }
}

impl<T> Drop for Zeroed<T> {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and the values need no drop.
        unsafe { dealloc(self.block.as_ptr(), self.layout) };
    }
}

impl<T> Deref for Zeroed<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: there are so many values, aligned. They began as zeros, which are valid ones, and nothing else has
        // access.
        unsafe { slice::from_raw_parts(self.values.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Zeroed<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.values.as_ptr(), self.len) }
    }
}

// SAFETY: it owns its values, as a box does.
unsafe impl<T: Send> Send for Zeroed<T> {}
// SAFETY: likewise.
unsafe impl<T: Sync> Sync for Zeroed<T> {}

/// The fresh memory of a result, which the system has not backed with pages yet.
///
/// Large pages cost a fourth of what as many small ones do, and small ones a third of the time of a large batch of Han
/// text. But on a virtual machine whose host has taken free memory back, a large page waits until the host has provided
/// all of it, and then costs six times as much as small ones, which mostly come from memory that is still there. So
/// once a large page was slow, the rest gets small ones.
#[derive(Debug)]
pub struct FreshMemory {
    /// Addresses of all of it.
    range: Range<usize>,
    /// Up to where pages have been requested.
    asked: AtomicUsize,
    /// True while large pages are requested.
    is_large: AtomicBool,
}

/// Memory that is worth large pages.
const LARGE_MEMORY: usize = 4 << 20;
/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;
/// How far ahead of its use a large page is requested where several threads fill the memory: as much as they fill
/// while it is made. If two touch the same new page, the system clears two and throws one away.
const LEAD: usize = 1 << 19;
/// A large page takes some 0.25 ms to clear, and 4 to 5 where the host has to provide it.
const SLOW: Duration = Duration::from_micros(1500);

impl FreshMemory {
    /// All of the memory that will be filled, from front to back. Where it is much, it gets large pages.
    pub fn new<T>(memory: &mut [MaybeUninit<T>]) -> Self {
        let range = addresses(memory);
        let is_large = range.len() >= LARGE_MEMORY;
        if is_large {
            advise(range.clone(), Advice::LargePages);
        }
        Self { asked: range.start.into(), range, is_large: is_large.into() }
    }

    /// Has the system back a part of it with pages all at once. One by one, as they are first written, they took a sixth of
    /// the time of a large batch.
    pub fn populate<T>(&self, part: &mut [MaybeUninit<T>]) {
        self.ask(addresses(part));
    }

    /// [`Self::populate`] where several threads fill parts that follow each other.
    pub fn populate_together<T>(&self, part: &mut [MaybeUninit<T>]) {
        if !self.is_large() {
            return self.populate(part);
        }
        let end = addresses(part).end;
        while let asked = self.asked.load(Relaxed)
            && asked < self.range.end.min(end + LEAD)
        {
            let next = (asked + 1).next_multiple_of(LARGE_PAGE).min(self.range.end);
            if self.asked.compare_exchange(asked, next, Relaxed, Relaxed).is_ok() {
                self.ask(asked..next);
            }
        }
    }

    fn is_large(&self) -> bool {
        self.is_large.load(Relaxed)
    }

    fn ask(&self, part: Range<usize>) {
        let begun = Instant::now();
        advise(part.clone(), Advice::Populate);
        if self.is_large() && begun.elapsed() > SLOW && self.is_large.swap(false, Relaxed) {
            self.shrink_pages(part.end);
        }
    }

    /// Has the system back what begins at `from` with small pages, except where there is a large one already.
    fn shrink_pages(&self, from: usize) {
        // Elsewhere, should the result have moved, nothing may be changed.
        if self.range.contains(&from) {
            advise(from.next_multiple_of(LARGE_PAGE)..self.range.end, Advice::SmallPages);
        }
    }
}

fn addresses<T>(memory: &[T]) -> Range<usize> {
    let Range { start, end } = memory.as_ptr_range();
    start.addr()..end.addr()
}

#[derive(Clone, Copy, Debug)]
enum Advice {
    Populate,
    LargePages,
    SmallPages,
}

/// Advises the system about the whole pages of a range of addresses. No advice changes what is there.
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
    fn zeroed_memory_is_zero_aligned_and_can_be_written() {
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[repr(align(64))]
        struct Wide(u64);
        for len in [1, 3, 1 << 17] {
            // SAFETY: zero is a valid integer.
            let mut values = unsafe { Zeroed::<Wide>::new(len) };
            assert_eq!((values.len(), values.as_ptr().addr() % 64), (len, 0));
            assert!(values.iter().all(|&value| value == Wide(0)));
            values.iter_mut().zip(1..).for_each(|(value, i)| value.0 = i);
            assert!(values.iter().map(|value| value.0).eq(1..=len as u64));
        }
    }

    #[test]
    fn memory_can_be_filled_whatever_its_pages() {
        let mut memory: Vec<u8> = Vec::with_capacity(16 << 20);
        let room = memory.spare_capacity_mut();
        let fresh = FreshMemory::new(room);
        for (i, part) in room.chunks_mut(300_000).enumerate() {
            if i % 2 == 0 {
                fresh.populate(part)
            } else {
                fresh.populate_together(part)
            }
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
