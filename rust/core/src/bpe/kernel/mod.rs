//! The inner loops, written plainly, for AVX2, and some for AVX-512. Which ones run is chosen at run time; tests
//! hold them to the plain ones.
//!
//! The engine is generic over [`Kernel`] and compiled once for each: a kernel's methods inline into a caller that has the
//! instructions switched on.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod loops;
mod portable;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

#[cfg(target_arch = "x86_64")]
pub use self::{avx2::Avx2, avx512::Avx512};
pub use self::{
    loops::{CHUNK, CHUNK_TAIL, Kernel, Key, LinkMasks, MAX_POSITIONS, PairKeys, ROOM, WINDOW, pair_key},
    portable::Portable,
};
