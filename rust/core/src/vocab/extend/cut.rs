//! Where a text is cut into runs. No new piece crosses a cut, so equal runs are counted and merged once.

use std::str::FromStr;

use crate::{
    Error, Result,
    vocab::script::{is_cjk_punctuation, is_han},
};

/// `▁`, which stands for a space.
pub(super) const SPACE: char = '\u{2581}';

/// Longer runs are cut, so that one that repeats nowhere (a base64 block) costs no more than others.
const MAX_RUN_BYTES: usize = 1024;

/// What the new pieces may be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scripts {
    /// Han in every piece; beside it only the punctuation of Chinese text, and `▁` at the start.
    Han,
    /// Any characters; `▁` at the start only, no digits, and Han (with its punctuation) apart from others.
    All,
}

impl FromStr for Scripts {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "han" => Ok(Self::Han),
            "all" => Ok(Self::All),
            _ => Err(Error::Argument(format!("scripts `{name}` is unknown; give han or all").into())),
        }
    }
}

/// What a character is to the cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// In no new piece.
    Outside,
    Space,
    Chinese,
    /// A mark that ends a sentence: what follows begins a new run.
    End,
    Other,
}

fn class_of(character: char, scripts: Scripts) -> Class {
    match character {
        SPACE => Class::Space,
        '。' | '！' | '？' | '；' | '…' => Class::End,
        _ if is_han(character) || is_cjk_punctuation(character) => Class::Chinese,
        _ if scripts == Scripts::Han => Class::Outside,
        // LLaMA has a token for each digit; pieces of several would cut a number otherwise than the base learned it.
        _ if character.is_control() || character.is_numeric() || character == ' ' => Class::Outside,
        _ => Class::Other,
    }
}

fn opens(character: char) -> bool {
    matches!(character, '“' | '‘' | '「' | '『' | '《' | '〈' | '【' | '（' | '［' | '〔')
}

/// Calls `found` with each run of a normalised text: its class does not change inside, except that one `▁` may
/// stand before it. A run of Chinese text ends after the marks that end a sentence, and holds a Han character.
pub(super) fn for_each_run<'a>(text: &'a str, scripts: Scripts, mut found: impl FnMut(&'a str)) {
    let bytes = text.as_bytes();
    let mut run = Run::new(scripts);
    let mut at = 0;
    while at < bytes.len() {
        if scripts == Scripts::Han && bytes[at].is_ascii() {
            run.end(text, at, &mut found);
            at += 1;
            while at < bytes.len() && bytes[at].is_ascii() {
                at += 1;
            }
            continue;
        }
        let Some(character) = text[at..].chars().next() else { break };
        run.take(text, at, character, &mut found);
        at += character.len_utf8();
    }
    run.end(text, bytes.len(), &mut found);
}

struct Run {
    scripts: Scripts,
    /// Where it begins; `None` between runs.
    start: Option<usize>,
    class: Class,
    /// The class of the character before.
    last: Class,
    has_han: bool,
}

impl Run {
    fn new(scripts: Scripts) -> Self {
        Self { scripts, start: None, class: Class::Outside, last: Class::Outside, has_han: false }
    }

    fn take<'a>(&mut self, text: &'a str, at: usize, character: char, found: &mut impl FnMut(&'a str)) {
        let class = class_of(character, self.scripts);
        let kind = if class == Class::End { Class::Chinese } else { class };
        let is_new = match kind {
            Class::Outside | Class::Space => true,
            _ if self.start.is_some_and(|start| at - start >= MAX_RUN_BYTES) => true,
            // A `▁` takes the class of what follows it.
            _ if self.class == Class::Space => false,
            _ => kind != self.class || (self.last == Class::End && (is_han(character) || opens(character))),
        };
        if is_new {
            self.end(text, at, found);
        }
        if kind != Class::Outside {
            self.start.get_or_insert(at);
            self.class = kind;
            self.has_han |= kind == Class::Chinese && is_han(character);
        }
        // Closing quotes and further marks belong to the end of a sentence.
        let stays = self.last == Class::End && class == Class::Chinese && self.start != Some(at);
        self.last = if stays && !is_han(character) { Class::End } else { class };
    }

    fn end<'a>(&mut self, text: &'a str, at: usize, found: &mut impl FnMut(&'a str)) {
        if let Some(start) = self.start.take()
            && (self.has_han || self.class == Class::Other)
        {
            found(&text[start..at]);
        }
        (self.class, self.last, self.has_han) = (Class::Outside, Class::Outside, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(text: &str, scripts: Scripts) -> Vec<&str> {
        let mut found = Vec::new();
        for_each_run(text, scripts, |run| found.push(run));
        found
    }

    #[test]
    fn runs_end_where_no_piece_may_go_on() {
        for (text, han, all) in [
            ("", vec![], vec![]),
            ("abc▁def", vec![], vec!["abc", "▁def"]),
            ("▁中文abc", vec!["▁中文"], vec!["▁中文", "abc"]),
            ("他说：“好。”我走，", vec!["他说：“好。”", "我走，"], vec!["他说：“好。”", "我走，"]),
            ("a▁▁中1国", vec!["▁中", "国"], vec!["a", "▁中", "国"]),
            ("……！", vec![], vec![]),
            ("x2026年", vec!["年"], vec!["x", "年"]),
            ("テスト漢字\n行", vec!["漢字", "行"], vec!["テスト", "漢字", "行"]),
        ] {
            assert_eq!(runs(text, Scripts::Han), han, "{text}");
            assert_eq!(runs(text, Scripts::All), all, "{text}");
        }
        let long = "中".repeat(1000);
        assert_eq!(runs(&long, Scripts::Han).concat(), long);
        assert!(runs(&long, Scripts::Han).iter().all(|run| run.len() <= MAX_RUN_BYTES + 3));
    }
}
