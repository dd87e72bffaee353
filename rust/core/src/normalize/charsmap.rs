//! A compiled character map, as `nmt_nfkc` and its kin carry one.

use crate::{Error, Result};

/// A compiled character map: `<trie bytes, u32><double-array trie><replacements, each ended by NUL>`.
#[derive(Debug)]
pub struct CharsMap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

/// Distance from a unit of the trie to its children.
fn trie_offset(unit: u32) -> u32 {
    (unit >> 10) << ((unit & (1 << 9)) >> 6)
}

impl CharsMap {
    /// Reads a map; `origin` names the model in errors.
    pub fn new(blob: &[u8], origin: &str) -> Result<Self> {
        let broken = || Error::model(origin, "the compiled character map is broken; copy the model again");
        let (size, rest) = blob.split_first_chunk::<4>().ok_or_else(broken)?;
        let size = u32::from_le_bytes(*size) as usize;
        if size >= blob.len() || size > rest.len() || !size.is_multiple_of(4) || size == 0 {
            return Err(broken());
        }
        let (trie, replacements) = rest.split_at(size);
        let units = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        // Replacements are copied into text that is promised to be UTF-8.
        std::str::from_utf8(replacements).map_err(|_| broken())?;
        Ok(Self { units, replacements: replacements.to_vec() })
    }

    /// The node that `text` leads to, if some key starts with it.
    pub fn node(&self, text: &[u8]) -> Option<u32> {
        let root = *self.units.first()?;
        text.iter().try_fold(trie_offset(root), |at, &byte| self.step(at, byte))
    }

    fn step(&self, at: u32, byte: u8) -> Option<u32> {
        let at = at ^ u32::from(byte);
        let unit = *self.units.get(at as usize)?;
        (unit & ((1 << 31) | 0xFF) == u32::from(byte)).then_some(at ^ trie_offset(unit))
    }

    /// True if keys continue after a node; the bytes with which they do are noted.
    pub fn continues(&self, node: u32, bytes: &mut [bool; 256]) -> bool {
        let mut any = false;
        for (byte, noted) in (0..=u8::MAX).zip(bytes).skip(1) {
            if self.step(node, byte).is_some() {
                (any, *noted) = (true, true);
            }
        }
        any
    }

    /// Notes each byte of a key but its first.
    pub fn note_inner(&self, bytes: &mut [bool; 256]) {
        let Some(&root) = self.units.first() else { return };
        let first = |byte: u8| self.step(trie_offset(root), byte);
        let mut nodes: Vec<u32> = (1..=u8::MAX).filter_map(first).collect();
        // The trie comes from a file, and might have a cycle.
        let mut seen = vec![false; self.units.len()];
        while let Some(node) = nodes.pop() {
            if seen.get_mut(node as usize).is_some_and(|seen| !std::mem::replace(seen, true)) {
                for byte in 1..=u8::MAX {
                    if let Some(next) = self.step(node, byte) {
                        bytes[usize::from(byte)] = true;
                        nodes.push(next);
                    }
                }
            }
        }
    }

    /// The replacement of the longest key that `text` starts with, and the length of that key.
    ///
    /// Walks the darts-clone layout: a unit holds a label (bits 0 to 7), whether a value follows (bit 8) and
    /// an offset (bits 10 and up, shifted by 8 more when bit 9 is set). Every step is bounds-checked: the
    /// trie comes from a file.
    pub fn longest(&self, text: &[u8]) -> Option<(&[u8], usize)> {
        let mut at = trie_offset(*self.units.first()?);
        let mut found = None;
        for (i, &byte) in text.iter().enumerate() {
            at ^= u32::from(byte);
            let Some(&unit) = self.units.get(at as usize) else { break };
            if unit & ((1 << 31) | 0xFF) != u32::from(byte) {
                break;
            }
            at ^= trie_offset(unit);
            if unit & (1 << 8) != 0 {
                let Some(&leaf) = self.units.get(at as usize) else { break };
                found = Some(((leaf & 0x7FFF_FFFF) as usize, i + 1));
            }
        }
        let (value, used) = found?;
        // A value in the middle of a character would break UTF-8 (a damaged map); it counts as no rule.
        let tail = self.replacements.get(value..)?;
        let text = tail.split(|&b| b == 0).next()?;
        std::str::from_utf8(text).ok().map(|t| (t.as_bytes(), used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_character_map_is_refused() {
        for blob in [&[1u8][..], &[255, 255, 255, 255, 0], &[4, 0, 0, 0, 0, 0, 0, 0, 0xFF]] {
            assert!(CharsMap::new(blob, "m").is_err(), "{blob:?}");
        }
    }
}
