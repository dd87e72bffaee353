//! Counted runs as symbols: what the learner starts from.

use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;

use super::{
    count::{Runs, on_threads},
    cut::{SPACE, Scripts, for_each_run},
    options::ExtendOptions,
    slots::{END, Slots},
    symbols::{Symbols, hash_of},
};
use crate::{
    Error, Result,
    bpe::{Encoder, Scratch},
    message::{ALL_SCRIPTS, Message},
    spm::{PieceKind, SpmModel},
    vocab::script::{is_cjk_punctuation, is_han},
};

/// Where the new pieces' scores lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Above the base's: an encoder makes new merges first, so that they are learned from single characters.
    Above,
    /// Below the base's (but for those of white space): an encoder makes them from what the base's merges leave.
    Below,
}

impl Placement {
    /// Above only where no old piece could become unreachable by it: where every piece that is made by a merge is without
    /// what all new pieces hold, a Han character.
    pub(super) fn of(base: &SpmModel, scripts: Scripts) -> Self {
        let is_in_the_way = |text: &str, kind: PieceKind| match kind {
            PieceKind::Normal | PieceKind::Unused => text.chars().nth(1).is_some() && text.contains(is_han),
            PieceKind::UserDefined => text.chars().any(|c| is_han(c) || is_cjk_punctuation(c) || c == SPACE),
            _ => false,
        };
        let below = base.pieces().iter().any(|piece| is_in_the_way(&piece.text, piece.kind));
        if scripts == Scripts::All || below { Self::Below } else { Self::Above }
    }
}

/// Runs that a thread takes at a time.
const BLOCK: usize = 4096;

/// What the learner starts from.
pub(super) struct Start {
    pub symbols: Symbols,
    pub slots: Slots,
    /// Where the protected pieces begin.
    pub protected: usize,
    /// The symbols of the characters that come first.
    pub characters: Vec<u32>,
    /// How many of them are in no run.
    pub unseen: usize,
}

/// What writing runs as symbols needs to know.
struct Table<'a> {
    base: &'a SpmModel,
    /// What the base makes of runs; `None` where new merges come before its own.
    encoder: Option<Encoder>,
    /// The symbols of single characters by code point; [`END`] for those that no merge may touch.
    of_character: Vec<u32>,
    symbols: &'a Symbols,
}

/// Writes runs as symbols of one model.
struct Writer<'a> {
    table: &'a Table<'a>,
    scratch: Scratch,
    ids: Vec<u32>,
    slots: Slots,
}

impl Start {
    pub fn new(base: &SpmModel, placement: Placement, runs: Runs, options: &ExtendOptions) -> Result<Self> {
        let beside = options.beside.iter().chain(&options.forbidden).map(|text| hash_of(text));
        let is_merged = |text: &str, kind: PieceKind| {
            kind == PieceKind::Normal && (placement == Placement::Below || text.chars().nth(1).is_none())
        };
        let other = base.pieces().iter().filter(|piece| !is_merged(&piece.text, piece.kind));
        let forbidden = beside.chain(other.map(|piece| hash_of(&piece.text)));
        let mut symbols = Symbols::new(options.scripts, options.max_length, forbidden);
        let mut single = FxHashMap::default();
        for piece in base.pieces() {
            let id = symbols.add(&piece.text, is_merged(&piece.text, piece.kind));
            let mut characters = piece.text.chars();
            if let (Some(character), None) = (characters.next(), characters.next()) {
                single.insert(character, id);
            }
        }
        let mut seen = vec![false; char::MAX as usize + 1];
        for (run, _) in runs.iter() {
            run.chars().for_each(|c| seen[c as usize] = true);
        }
        let all = ('\0'..=char::MAX)
            .filter(|&c| seen[c as usize])
            .chain(options.characters.iter().copied())
            .chain(options.protected.iter().flat_map(|p| p.chars()));
        let mut all: Vec<char> = all.filter(|character| !single.contains_key(character)).collect();
        all.sort_unstable();
        all.dedup();
        let mut buffer = [0; 4];
        let missing: FxHashMap<char, u32> = all
            .iter()
            .map(|&character| (character, symbols.add(character.encode_utf8(&mut buffer), false)))
            .collect();
        let mut characters = Vec::new();
        for character in &options.characters {
            if options.scripts == Scripts::Han && !is_han(*character) {
                let reason = Message::from(format!("character `{character}` is not Han: only with "))
                    .option(ALL_SCRIPTS)
                    .text(" can it be a piece");
                return Err(Error::Argument(reason));
            }
            if let Some(&symbol) = missing.get(character)
                && !symbols.get(symbol).is_piece
                && symbols.is_free(symbols.text(symbol))
            {
                symbols.activate(symbol);
                characters.push(symbol);
            }
        }
        let encoder = (placement == Placement::Below).then(|| Encoder::new(base)).transpose()?;
        let unseen = characters
            .iter()
            .filter(|&&symbol| !symbols.text(symbol).chars().any(|c| seen[c as usize]))
            .count();
        let mut of_character = vec![END; char::MAX as usize + 1];
        let is_normal = |id: u32| base.pieces()[id as usize].kind == PieceKind::Normal;
        let known = single.into_iter().filter(|&(_, id)| is_normal(id));
        known.chain(missing).for_each(|(character, symbol)| of_character[character as usize] = symbol);
        let table = Table { base, encoder, of_character, symbols: &symbols };
        let parts = table.write_all(&runs, options.threads);
        drop(runs);
        let mut writer = Writer::new(&table);
        writer.slots = Slots::join(parts);
        let protected = writer.slots.len();
        for piece in &options.protected {
            check_protected(piece, options)?;
            writer.write_whole(piece)?;
        }
        let slots = writer.slots;
        Ok(Self { symbols, slots, protected, characters, unseen })
    }
}

impl Table<'_> {
    /// Writes all runs on several threads; the parts are in order.
    fn write_all(&self, runs: &Runs, threads: usize) -> Vec<Slots> {
        let blocks = Mutex::new((0, runs.iter()));
        let parts = Mutex::new(Vec::new());
        on_threads(threads, || {
            let mut writer = Writer::new(self);
            let mut block = Vec::with_capacity(BLOCK);
            loop {
                let number = {
                    let (number, runs) = &mut *blocks.lock().unwrap_or_else(PoisonError::into_inner);
                    block.extend(runs.by_ref().take(BLOCK));
                    *number += 1;
                    *number
                };
                if block.is_empty() {
                    break;
                }
                for (run, count) in block.drain(..) {
                    writer.write(run, count);
                }
                let slots = std::mem::replace(&mut writer.slots, Slots::new());
                parts.lock().unwrap_or_else(PoisonError::into_inner).push((number, slots));
            }
        });
        let mut parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
        parts.sort_unstable_by_key(|&(number, _)| number);
        parts.into_iter().map(|(_, slots)| slots).collect()
    }
}

impl<'a> Writer<'a> {
    fn new(table: &'a Table<'a>) -> Self {
        Self { table, scratch: Scratch::default(), ids: Vec::new(), slots: Slots::new() }
    }

    /// Adds a protected piece.
    fn write_whole(&mut self, piece: &str) -> Result<()> {
        let start = self.slots.len();
        self.slots.begin(0);
        let (symbols, last) = self.put(piece);
        if self.slots.has_end(start) {
            let reason =
                format!("a protected piece must be `{piece}`, and a user-defined piece of the base is in it");
            return Err(Error::Argument(reason.into()));
        }
        self.finish(start, symbols, last);
        Ok(())
    }

    /// Adds a run.
    fn write(&mut self, run: &str, count: u64) {
        let start = self.slots.len();
        self.slots.begin(count);
        let (symbols, last) = self.put(run);
        self.finish(start, symbols, last);
    }

    /// Ends a run, or leaves it out if it is one piece already.
    fn finish(&mut self, start: usize, symbols: usize, last: Option<u32>) {
        if symbols == 1 && last.is_some_and(|symbol| self.table.symbols.get(symbol).is_piece) {
            self.slots.drop_from(start);
        } else {
            self.slots.end();
        }
    }

    /// Adds the symbols of a run; returns how many there are, cuts among them, and the last unless it is a cut.
    fn put(&mut self, run: &str) -> (usize, Option<u32>) {
        let Self { table, scratch, ids, slots } = self;
        let Table { base, encoder, of_character, symbols: all } = table;
        let mut symbols = 0;
        let mut last = None;
        let mut put = |symbol: Option<u32>| {
            match symbol {
                Some(symbol) => slots.push(symbol, all.length(symbol)),
                None => slots.end(),
            }
            symbols += 1;
            last = symbol;
        };
        let of_character = |c: char| Some(of_character[c as usize]).filter(|&symbol| symbol != END);
        if let Some(encoder) = encoder {
            ids.clear();
            encoder.encode(run, false, scratch, ids);
            let (mut rest, mut ids) = (run, ids.iter());
            while let Some(&id) = ids.next() {
                let piece = &base.pieces()[id as usize];
                match piece.kind {
                    PieceKind::Normal => {
                        put(Some(id));
                        rest = rest.get(piece.text.len()..).unwrap_or_default();
                    }
                    PieceKind::Byte | PieceKind::Unknown => {
                        let Some(character) = rest.chars().next() else { break };
                        let bytes = character.len_utf8();
                        if piece.kind == PieceKind::Byte {
                            ids.by_ref().take(bytes - 1).for_each(drop);
                        }
                        put(of_character(character));
                        rest = &rest[bytes..];
                    }
                    _ => {
                        put(None);
                        rest = rest.get(piece.text.len()..).unwrap_or_default();
                    }
                }
            }
        } else {
            run.chars().for_each(|c| put(of_character(c)));
        }
        (symbols, last)
    }
}

/// Refuses a piece that the chosen scripts do not allow.
fn check_protected(piece: &str, options: &ExtendOptions) -> Result<()> {
    let mut runs = Vec::new();
    for_each_run(piece, options.scripts, |run| runs.push(run));
    if runs == [piece] {
        return Ok(());
    }
    let reason = Message::from(format!("`{piece}` cannot be protected: a new piece holds "));
    Err(Error::Argument(match options.scripts {
        Scripts::Han => reason
            .text("Han and the punctuation of Chinese text, with `▁` at the start alone; ")
            .option(ALL_SCRIPTS)
            .text(" allows more"),
        Scripts::All => reason
            .text("characters of one kind (Han, others), with `▁` at the start alone and without digits"),
    }))
}
