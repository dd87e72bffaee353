//! Reads Python strings in place.
//!
//! Asking for a string's UTF-8 makes CPython write it (under the GIL, at some 0.5 GB/s, into memory that stays
//! with the string). The engine can read the string's own characters, of one, two or four bytes, instead. Where
//! they are is no part of the stable ABI, so nothing is taken for granted: each known layout is tried on
//! strings of every kind, and only one that reads all of them right is used. With none, UTF-8 it is.

use std::{slice, sync::OnceLock};

use pyo3::{prelude::*, types::PyString};
use zhuzi_core::{Text, prefetch};

/// Bytes from the start of a string object to its length, and to the word of state bits, in every layout.
const LENGTH: usize = 16;
const STATE: usize = 32;

/// Where a string object keeps what.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Lowest of the three bits of the character width.
    kind: u32,
    /// Bytes from the start to the characters of an ASCII string, and of another.
    ascii: usize,
    other: usize,
}

/// CPython 3.11; 3.12 and later; and the wider field for interning that free-threaded layouts have.
const LAYOUTS: [Layout; 4] = [
    Layout { kind: 2, ascii: 40, other: 56 },
    Layout { kind: 2, ascii: 48, other: 72 },
    Layout { kind: 8, ascii: 40, other: 56 },
    Layout { kind: 16, ascii: 40, other: 56 },
];

/// The header of a string object.
#[derive(Clone, Copy, Debug)]
struct Header {
    /// Bytes per character.
    width: u32,
    ascii: bool,
    /// Characters follow the header.
    compact: bool,
    length: usize,
}

impl Layout {
    /// # Safety
    /// `string` points to a string object.
    unsafe fn header(self, string: *const u8) -> Header {
        // SAFETY: every string object begins alike: reference count, type, length, hash, state.
        let (length, state) =
            unsafe { (string.add(LENGTH).cast::<usize>().read(), string.add(STATE).cast::<u32>().read()) };
        let bits = state >> self.kind;
        Header { width: bits & 7, compact: bits & 8 != 0, ascii: bits & 16 != 0, length }
    }

    /// The first `length` characters.
    ///
    /// # Safety
    /// `string` points to a string object with this header and at least `length` characters from where this
    /// layout has them, and outlives `'a`.
    unsafe fn characters<'a>(self, string: *const u8, header: Header, length: usize) -> Option<Text<'a>> {
        // SAFETY: as promised; strings never change. The characters are aligned to their width.
        unsafe {
            let data = string.add(if header.ascii { self.ascii } else { self.other });
            match header.width {
                1 => Some(Text::Latin1(slice::from_raw_parts(data, length))),
                2 => Some(Text::Ucs2(slice::from_raw_parts(data.cast(), length))),
                4 => Some(Text::Ucs4(slice::from_raw_parts(data.cast(), length))),
                _ => None,
            }
        }
    }

    /// True if the object reads as `text`, which has at least [`PROBE`] characters, the widest of `width` bytes.
    ///
    /// # Safety
    /// `string` points to the string object of `text`.
    unsafe fn agrees(self, string: *const u8, text: &str, width: u32) -> bool {
        // SAFETY: as promised.
        let header = unsafe { self.header(string) };
        if !header.compact
            || header.width != width
            || header.ascii != text.is_ascii()
            || header.length != text.chars().count()
        {
            return false;
        }
        // SAFETY: width and length are the true ones. At most the header's size is wrong, by 32 bytes or less,
        // and half of the characters, 32 bytes or more, are left unread.
        let Some(found) = (unsafe { self.characters(string, header, header.length / 2) }) else {
            return false;
        };
        let mut spelled = Vec::new();
        found.push_utf8(&mut spelled);
        text.as_bytes().starts_with(&spelled) && !spelled.is_empty()
    }
}

/// Characters of a string on which a layout is tried.
const PROBE: u8 = 90;

/// The layout of this interpreter, if it is a known one.
fn layout(py: Python<'_>) -> Option<Layout> {
    static FOUND: OnceLock<Option<Layout>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let is_cpython = || {
            let name = py.import("sys")?.getattr("implementation")?.getattr("name")?;
            PyResult::Ok(name.extract::<String>()? == "cpython")
        };
        if cfg!(not(all(target_pointer_width = "64", target_endian = "little"))) || !is_cpython().ok()? {
            return None;
        }
        let probes = [("", 1), ("é", 1), ("中", 2), ("\u{1F600}", 4)].map(|(last, width)| {
            // No two places look alike, so that a wrong start is seen.
            let text: String = (0..PROBE).map(|i| char::from(b'!' + i)).chain(last.chars()).collect();
            (PyString::new(py, &text), text, width)
        });
        LAYOUTS.into_iter().find(|layout| {
            probes.iter().all(|(object, text, width)| {
                // SAFETY: the object is alive and spells `text`.
                unsafe { layout.agrees(object.as_ptr().cast_const().cast(), text, *width) }
            })
        })
    })
}

/// Prefetches what [`in_place`] reads of a string.
pub fn expect(object: Borrowed<'_, '_, PyAny>) {
    prefetch(object.as_ptr().cast::<u8>().wrapping_add(STATE));
}

/// The characters of a string where they are, if they can be read there.
pub fn in_place<'a>(string: &'a Bound<'_, PyString>) -> Option<Text<'a>> {
    let layout = layout(string.py())?;
    let pointer = string.as_ptr().cast_const().cast();
    // SAFETY: the layout has been tried on strings of every kind, and the string outlives the borrow.
    unsafe {
        let header = layout.header(pointer);
        if header.compact { layout.characters(pointer, header, header.length) } else { None }
    }
}
