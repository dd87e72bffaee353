//! A block of text: decoded to codes, its neighbours looked up, cut into segments.
//!
//! All of it works on bit masks, one bit per character. Segments of one and of two characters, nine of ten in
//! Chinese, are encoded by the masks alone; the longer ones go to lists.

use super::lists::{BLOCK, Lists, Segment};
use crate::{
    bpe::{
        kernel::{CHUNK, CHUNK_TAIL, Kernel, LinkMasks},
        symbol::Symbol,
        tables::{
            codes::{ASTRAL, Codes, from_bmp},
            pairs::{LookUps, Pairs},
        },
    },
    memory::Ahead,
    text::Text,
};

const WORDS: usize = BLOCK / 64;
/// Codes and tokens after the block that vector loads may touch.
const SLACK: usize = 80;

/// Working memory of one block.
#[derive(Debug)]
pub struct Block {
    /// The characters; the first `held` count.
    pub codes: Box<[u16; BLOCK + SLACK]>,
    /// Characters in the block.
    pub held: usize,
    /// For each character: the token that starts there. Only those whose `keep` bit is set are written.
    pub tokens: Box<[Symbol; BLOCK + SLACK]>,
    look_ups: Box<LookUps>,
    links: [LinkMasks; WORDS + 2],
    keep: [u64; WORDS + 2],
    /// The characters that the [`ASTRAL`] codes stand for, in order, and how many of them are already written.
    astral: Vec<char>,
    astral_done: usize,
    /// Where short texts that share the block end; once they are written, the number of ids up to there.
    pub ends: Vec<usize>,
}

impl Default for Block {
    fn default() -> Self {
        Self {
            codes: Box::new([0; BLOCK + SLACK]),
            held: 0,
            tokens: Box::new([0; BLOCK + SLACK]),
            look_ups: Box::default(),
            links: [LinkMasks::default(); WORDS + 2],
            keep: [0; WORDS + 2],
            astral: Vec::new(),
            astral_done: 0,
            ends: Vec::new(),
        }
    }
}

impl Block {
    /// Forgets the block.
    pub fn clear(&mut self) {
        self.held = 0;
        self.astral.clear();
        self.astral_done = 0;
        self.ends.clear();
    }

    /// Adds one code; there must be room.
    #[inline(always)]
    pub fn push(&mut self, code: u16) {
        self.codes[self.held] = code;
        self.held += 1;
    }

    /// Ends a text, so that another can follow in the block.
    #[inline(always)]
    pub fn end_text(&mut self) {
        self.ends.push(self.held);
        // Nothing is linked to this code, and it is not written.
        self.push(ASTRAL);
    }

    /// Decodes more of `text` from unit `at` on, until the text ends or the block is full; returns where it
    /// stopped.
    #[inline(always)]
    pub fn fill<K: Kernel>(&mut self, codes: &Codes, text: Text<'_>, at: usize) -> usize {
        let room = BLOCK - self.held;
        let end = text.len().min(at + room);
        let to = &mut self.codes[self.held..];
        match text {
            Text::Utf8(text) => return self.fill_utf8::<K>(codes, text, at),
            Text::Latin1(text) => to.iter_mut().zip(&text[at..end]).for_each(|(to, &c)| *to = c.into()),
            Text::Ucs2(text) => to.iter_mut().zip(&text[at..end]).for_each(|(to, &c)| *to = from_bmp(c)),
            Text::Ucs4(text) => {
                self.fill_ucs4(codes, &text[at..end]);
                return end;
            }
        }
        self.held += end - at;
        end
    }

    /// Adds characters; there must be room. One astral character makes a whole string this wide, so most chunks have none.
    #[inline(always)]
    fn fill_ucs4(&mut self, codes: &Codes, text: &[u32]) {
        for chunk in text.chunks(CHUNK) {
            if chunk.iter().fold(0, |all, c| all | c) >> 16 == 0 {
                let to = self.codes[self.held..].iter_mut();
                to.zip(chunk).for_each(|(to, &c)| *to = from_bmp(c as u16));
                self.held += chunk.len();
            } else {
                let chars = chunk.iter().map(|&c| char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER));
                chars.for_each(|c| self.push_char(codes, c));
            }
        }
    }

    /// Adds one character; there must be room.
    #[inline(always)]
    fn push_char(&mut self, codes: &Codes, c: char) {
        let code = codes.code(c);
        if code == ASTRAL {
            self.astral.push(c);
        }
        self.push(code);
    }

    #[inline(always)]
    fn fill_utf8<K: Kernel>(&mut self, codes: &Codes, text: &str, mut at: usize) -> usize {
        let bytes = text.as_bytes();
        while at < bytes.len() && self.held + CHUNK <= BLOCK {
            let mut copy = [0; CHUNK + CHUNK_TAIL];
            let rest = &bytes[at..];
            let chunk = rest.first_chunk::<{ CHUNK + CHUNK_TAIL }>().unwrap_or_else(|| {
                copy[..rest.len()].copy_from_slice(rest);
                &copy
            });
            let Some(head) = chunk.first_chunk::<CHUNK>() else { return at };
            let (mut starts, astral) = K::starts(head);
            if rest.len() < CHUNK {
                starts &= (1 << rest.len()) - 1;
            }
            if astral {
                self.decode_slowly(codes, text, at, starts);
            } else if let Some(out) = self.codes[self.held..].first_chunk_mut::<CHUNK>() {
                K::decode(chunk, starts, out);
                self.held += starts.count_ones() as usize;
            }
            at += CHUNK.min(rest.len());
        }
        at
    }

    /// Decodes the characters that start in 64 bytes some of which are astral.
    #[inline(never)]
    fn decode_slowly(&mut self, codes: &Codes, text: &str, at: usize, starts: u64) {
        if starts == 0 {
            return;
        }
        let first = at + starts.trailing_zeros() as usize;
        let chars = text[first..].chars().take(starts.count_ones() as usize);
        chars.for_each(|c| self.push_char(codes, c));
    }

    /// Looks all neighbours up; the last character counts as linked to nothing. Meanwhile prefetches what is `ahead`.
    #[inline(always)]
    pub fn link<K: Kernel>(&mut self, pairs: &Pairs, ahead: &mut Ahead) {
        // Nothing is linked to this code.
        self.codes[self.held] = ASTRAL;
        let words = self.held.div_ceil(64);
        for word in 0..words {
            ahead.step();
            let (at, found) = (64 * word, &mut *self.look_ups);
            let (codes, tokens) = (self.codes[at..].first_chunk(), self.tokens[at..].first_chunk_mut());
            if let (Some(codes), Some(tokens)) = (codes, tokens) {
                pairs.look_up(codes, self.held - at, found);
                self.links[word] = K::link(found, self.held - at, tokens);
            }
        }
        let over = (64 * words - self.held) as u32;
        if over != 0 {
            // What follows the last character is left over from an earlier block.
            let last = &mut self.links[words - 1];
            let mask = u64::MAX >> over;
            *last = LinkMasks {
                linked: last.linked & mask,
                pieces: last.pieces & mask,
                mixed: last.mixed & mask,
            };
        }
        self.links[words] = LinkMasks::default();
    }

    /// Characters up to the last point before the end where the text may be cut; 0 if there is none.
    pub fn last_cut(&self) -> usize {
        let words = self.held.div_ceil(64);
        for word in (0..words).rev() {
            let mut open = !self.links[word].linked;
            if word == (self.held - 1) / 64 {
                open &= (1 << ((self.held - 1) % 64)) - 1;
            }
            if open != 0 {
                return 64 * word + 64 - open.leading_zeros() as usize;
            }
        }
        0
    }

    /// Encodes the segments of one and two characters among the first `cut`, and lists the longer ones.
    #[inline(always)]
    pub fn cut_segments<K: Kernel>(&mut self, cut: usize, lists: &mut Lists) {
        lists.clear();
        let (mut before_linked, mut before_pair) = (0, 0);
        for word in 0..cut.div_ceil(64) {
            let LinkMasks { linked, pieces, mixed } = self.links[word];
            let next = self.links[word + 1];
            let next_linked = (linked >> 1) | (next.linked << 63);
            let mut starts = !((linked << 1) | before_linked);
            let mut all = u64::MAX;
            if cut - 64 * word < 64 {
                all = (1 << (cut - 64 * word)) - 1;
                starts &= all;
            }
            before_linked = linked >> 63;
            // Pairs that are a piece: the second character is gone.
            let pair = starts & linked & !next_linked & pieces;
            self.keep[word] = all & !((pair << 1) | before_pair);
            before_pair = pair >> 63;

            let long = starts & linked & next_linked;
            let third_linked = (linked >> 2) | (next.linked << 62);
            let fourth_linked = (linked >> 3) | (next.linked << 61);
            let next_mixed = mixed | (mixed >> 1) | (next.mixed << 63);
            let three = long & !(third_linked | next_mixed);
            lists.three.push_positions::<K>(three, 64 * word as u32);
            let third_mixed = (mixed >> 2) | (next.mixed << 62);
            let four = long & third_linked & !(fourth_linked | next_mixed | third_mixed);
            lists.four.push_positions::<K>(four, 64 * word as u32);
            let mut long = long & !(three | four);
            while long != 0 {
                let start = 64 * word + long.trailing_zeros() as usize;
                long &= long - 1;
                let (len, is_mixed) = self.measure(start);
                let segment = Segment { start: start as u32, len: len as u32 };
                lists.mixed.push_if(is_mixed, segment);
                lists.one_score.push_if(!is_mixed, segment);
            }
        }
        for &end in &self.ends {
            self.keep[end / 64] &= !(1 << (end % 64));
        }
        // `shorten` may touch the next word.
        self.keep[cut.div_ceil(64)] = 0;
    }

    /// Characters of the segment that starts at `start`, and whether one of its pairs has another score.
    #[inline(always)]
    fn measure(&self, start: usize) -> (usize, bool) {
        let (mut word, bit) = (start / 64, start % 64);
        let open = !self.links[word].linked >> bit;
        // The shift brings in zeros: no end is found by mistake.
        if open != 0 {
            let pairs = open.trailing_zeros();
            let mixed = (self.links[word].mixed >> bit) & ((1 << pairs) - 1);
            return (pairs as usize + 1, mixed != 0);
        }
        let mut mixed = self.links[word].mixed >> bit != 0;
        loop {
            // The last character is linked to nothing, so an end comes.
            word += 1;
            let open = !self.links[word].linked;
            if open != 0 {
                let pairs = open.trailing_zeros();
                mixed |= self.links[word].mixed & ((1 << pairs) - 1) != 0;
                return (64 * word + pairs as usize + 1 - start, mixed);
            }
            mixed |= self.links[word].mixed != 0;
        }
    }

    /// One bit for each of the 64 pairs from `at` on: is it a piece?
    #[inline(always)]
    pub fn pieces_from(&self, at: usize) -> u64 {
        let (word, bit) = (at / 64, at % 64);
        self.links[word].pieces >> bit | self.links[word + 1].pieces << 1 << (63 - bit)
    }

    /// True if the pair that starts at `at` is a piece.
    #[inline(always)]
    pub fn is_piece(&self, at: usize) -> bool {
        self.links[at / 64].pieces >> (at % 64) & 1 != 0
    }

    /// Notes that a segment has become its first `n` tokens.
    #[inline(always)]
    pub fn shorten(&mut self, segment: Segment, n: usize) {
        let (from, to) = (segment.start as usize + n, (segment.start + segment.len) as usize);
        let (word, bit) = (from / 64, from % 64);
        let gone = to - from;
        if gone < 64 {
            let mask = (1u64 << gone) - 1;
            self.keep[word] &= !(mask << bit);
            self.keep[word + 1] &= !(mask >> 1 >> (63 - bit));
            return;
        }
        for at in from..to {
            self.keep[at / 64] &= !(1 << (at % 64));
        }
    }

    /// The 64 tokens from character `at` on.
    #[inline(always)]
    pub fn tokens_at(&self, at: usize) -> &[Symbol; 64] {
        self.tokens[at..].first_chunk().unwrap_or(&[0; 64])
    }

    /// Which of the 64 tokens from `at` on, a multiple of 64, are written.
    #[inline(always)]
    pub fn keep_at(&self, at: usize) -> u64 {
        self.keep[at / 64]
    }

    /// The next of the characters that share a code.
    pub fn next_astral(&mut self) -> char {
        let c = self.astral.get(self.astral_done).copied().unwrap_or(char::REPLACEMENT_CHARACTER);
        self.astral_done += 1;
        c
    }

    /// Removes the first `cut` characters.
    pub fn advance(&mut self, cut: usize) {
        self.codes.copy_within(cut..self.held, 0);
        self.held -= cut;
        if self.astral_done == self.astral.len() {
            self.astral.clear();
            self.astral_done = 0;
        }
    }
}
