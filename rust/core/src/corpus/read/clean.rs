//! Optional changes to a text before it is encoded.

/// Replaces full-width letters and digits (Ａ, ｚ, ０) by ASCII ones. Punctuation stays: ，and ！ are the normal
/// Chinese forms, not variants of , and !.
pub fn fold_fullwidth(text: &str, out: &mut String) {
    out.extend(text.chars().map(|c| match c {
        '０'..='９' | 'Ａ'..='Ｚ' | 'ａ'..='ｚ' => char::from_u32(c as u32 - 0xFEE0).unwrap_or(c),
        _ => c,
    }));
}

/// Removes control characters and superfluous white space.
///
/// Removed are control characters other than tab and newline, the byte-order mark, the zero-width space and
/// the word joiner. Every line end becomes `\n`. A run of other white space (including the ideographic and
/// the no-break space) becomes one space, or nothing at the start or end of a line. Of consecutive empty
/// lines one stays, and none at the start or end of the text.
pub fn clean(text: &str, out: &mut String) {
    let start = out.len();
    let (mut space, mut newlines) = (false, 0);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => (space, newlines) = (false, newlines + 1),
            '\t' => space = true,
            '\u{FEFF}' | '\u{200B}' | '\u{2060}' => {}
            c if c.is_control() => {}
            c if c.is_whitespace() => space = true,
            c => {
                if out.len() > start {
                    match newlines {
                        0 if space => out.push(' '),
                        0 => {}
                        1 => out.push('\n'),
                        _ => out.push_str("\n\n"),
                    }
                }
                (space, newlines) = (false, 0);
                out.push(c);
            }
        }
    }
}

/// Counts Han characters, and all characters other than white space.
pub fn count_han(text: &str) -> (u64, u64) {
    let (mut han, mut all) = (0, 0);
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        all += 1;
        han += u64::from(is_han(c));
    }
    (han, all)
}

/// True for the characters of the Unicode script Han that are used in words.
fn is_han(c: char) -> bool {
    matches!(c,
        '\u{3005}' | '\u{3007}' // 々 〇
        | '\u{3400}'..='\u{4DBF}'
        | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{323AF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_spares_punctuation() {
        let mut out = String::new();
        fold_fullwidth("ＡＢｚ０９，！？（）：；．／～　￥あ", &mut out);
        assert_eq!(out, "ABz09，！？（）：；．／～　￥あ");
    }

    #[test]
    fn cleaning() {
        for (text, wanted) in [
            ("", ""),
            ("　　你好\u{a0} 世界\t\n", "你好 世界"),
            ("一\r\n二\r三\u{2028}四", "一\n二\n三\n四"),
            ("一\n \n\n\n二\n\n三\n\n", "一\n\n二\n\n三"),
            ("a\0b\u{7}\u{7f}\u{9c}c\u{200b}d\u{feff}", "abcd"),
            ("👨\u{200d}👩 x", "👨\u{200d}👩 x"),
            ("a \u{7} b", "a b"),
        ] {
            let mut out = String::from("kept");
            clean(text, &mut out);
            assert_eq!(out, format!("kept{wanted}"), "{text:?}");
        }
    }

    #[test]
    fn han() {
        assert_eq!(count_han("你好，ab 〇𠮷\n"), (4, 7));
        assert_eq!(count_han(" \n"), (0, 0));
    }
}
