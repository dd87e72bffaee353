//! Which characters are Han, which are the punctuation of Chinese text, and which Han are common.

use std::ops::RangeInclusive;

/// The characters whose Unicode script is Han (Scripts.txt of Unicode 17.0), by code point.
const HAN: [RangeInclusive<char>; 23] = [
    '\u{2E80}'..='\u{2E99}',
    '\u{2E9B}'..='\u{2EF3}',
    '\u{2F00}'..='\u{2FD5}',
    '\u{3005}'..='\u{3005}',
    '\u{3007}'..='\u{3007}',
    '\u{3021}'..='\u{3029}',
    '\u{3038}'..='\u{303B}',
    '\u{3400}'..='\u{4DBF}',
    '\u{4E00}'..='\u{9FFF}',
    '\u{F900}'..='\u{FA6D}',
    '\u{FA70}'..='\u{FAD9}',
    '\u{16FE2}'..='\u{16FE3}',
    '\u{16FF0}'..='\u{16FF1}',
    '\u{20000}'..='\u{2A6DF}',
    '\u{2A700}'..='\u{2B739}',
    '\u{2B740}'..='\u{2B81D}',
    '\u{2B820}'..='\u{2CEA1}',
    '\u{2CEB0}'..='\u{2EBE0}',
    '\u{2EBF0}'..='\u{2EE5D}',
    '\u{2F800}'..='\u{2FA1D}',
    '\u{30000}'..='\u{3134A}',
    '\u{31350}'..='\u{323AF}',
    '\u{323B0}'..='\u{33479}',
];

/// The table of the common characters, with comments.
const COMMON: &str = include_str!("common_han.txt");

/// True for Chinese characters: those whose Unicode script is Han, 々 and 〇 among them.
pub fn is_han(character: char) -> bool {
    match character {
        '\u{4E00}'..='\u{9FFF}' => true,
        ..'\u{2E80}' => false,
        _ => HAN.iter().any(|range| range.contains(&character)),
    }
}

/// True for the punctuation of Chinese text: CJK, full-width, small and vertical forms, and the marks of GB/T 15834
/// that Unicode keeps among the general ones (`“ ” ‘ ’ — … ·`). Spaces are none.
pub fn is_cjk_punctuation(character: char) -> bool {
    matches!(character,
        '\u{B7}' | '\u{2014}' | '\u{2018}' | '\u{2019}' | '\u{201C}' | '\u{201D}' | '\u{2026}'
        | '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}' | '\u{3014}'..='\u{301F}' | '\u{3030}' | '\u{303D}'
        | '\u{30FB}' | '\u{FE10}'..='\u{FE19}' | '\u{FE30}'..='\u{FE6B}'
        | '\u{FF01}'..='\u{FF0F}' | '\u{FF1A}'..='\u{FF20}' | '\u{FF3B}'..='\u{FF40}' | '\u{FF5B}'..='\u{FF65}')
}

/// The 8,105 common characters of the Table of General Standard Chinese Characters (2013), the most common first
/// (3,500 of primary use, 3,000 more, 1,605 of names and trades), by Unihan's field kTGH.
pub fn common_han() -> impl Iterator<Item = char> {
    COMMON.lines().filter(|line| !line.starts_with('#')).flat_map(str::chars)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn han_are_told_from_their_neighbours() {
        for (character, han, punctuation) in [
            ('中', true, false),
            ('國', true, false),
            ('〇', true, false),
            ('々', true, false),
            ('㐀', true, false),
            ('𠀀', true, false),
            ('\u{9FFF}', true, false),
            ('\u{A000}', false, false),
            ('、', false, true),
            ('“', false, true),
            ('，', false, true),
            ('︰', false, true),
            ('·', false, true),
            ('の', false, false),
            ('한', false, false),
            ('１', false, false),
            ('Ａ', false, false),
            ('\u{3000}', false, false),
            (',', false, false),
            ('a', false, false),
            ('▁', false, false),
        ] {
            assert_eq!((is_han(character), is_cjk_punctuation(character)), (han, punctuation), "{character}");
        }
    }

    #[test]
    fn the_common_characters_are_8105_different_han() {
        let mut common: Vec<char> = common_han().collect();
        assert_eq!(common[..3], ['一', '乙', '二']);
        assert!(common.iter().all(|&character| is_han(character)));
        common.sort_unstable();
        common.dedup();
        assert_eq!(common.len(), 8105);
    }
}
