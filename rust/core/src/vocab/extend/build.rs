//! Counted runs as symbols: what the learner starts from.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    count::Runs,
    cut::{SPACE, Scripts, for_each_run},
    options::ExtendOptions,
    slots::Slots,
    symbols::{Symbols, hash_of},
};
use crate::{
    Error, Result,
    bpe::{Encoder, Scratch},
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

/// Writes runs as symbols of one model.
struct Writer<'a> {
    base: &'a SpmModel,
    /// What the base makes of runs; `None` where new merges come before its own.
    encoder: Option<Encoder>,
    scratch: Scratch,
    ids: Vec<u32>,
    /// The base's single characters.
    single: FxHashMap<char, u32>,
    /// Characters that are no piece of the base.
    missing: FxHashMap<char, u32>,
    symbols: Symbols,
    slots: Slots,
}

impl Start {
    pub fn new(base: &SpmModel, placement: Placement, runs: &Runs, options: &ExtendOptions) -> Result<Self> {
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
        let mut seen: FxHashSet<char> = FxHashSet::default();
        for (run, _) in runs.iter() {
            seen.extend(run.chars());
        }
        let all = seen
            .iter()
            .chain(&options.characters)
            .copied()
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
                let reason =
                    format!("character `{character}` is not Han: only with all scripts can it be a piece");
                return Err(Error::Argument(reason.into()));
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
            .filter(|&&symbol| !symbols.text(symbol).chars().any(|c| seen.contains(&c)))
            .count();
        let (scratch, ids, slots) = (Scratch::default(), Vec::new(), Slots::new());
        let mut writer = Writer { base, encoder, scratch, ids, single, missing, symbols, slots };
        for (run, count) in runs.iter() {
            writer.write(run, count, false)?;
        }
        let protected = writer.slots.len();
        for piece in &options.protected {
            check_protected(piece, options)?;
            writer.write(piece, 0, true)?;
        }
        let Writer { symbols, mut slots, .. } = writer;
        slots.shrink();
        Ok(Self { symbols, slots, protected, characters, unseen })
    }
}

impl Writer<'_> {
    /// Adds a run, unless it is one piece already; `whole` raises an error where it would be cut.
    fn write(&mut self, run: &str, count: u64, whole: bool) -> Result<()> {
        self.slots.begin(count);
        let start = self.slots.len();
        let mut symbols = 0;
        let mut last = None;
        let Self { base, encoder, scratch, ids, single, missing, symbols: table, slots } = self;
        let mut put = |symbol: Option<u32>| match symbol {
            Some(symbol) => {
                slots.push(symbol, table.get(symbol).length);
                symbols += 1;
                last = Some(symbol);
            }
            None => {
                slots.end();
                symbols += 1 + usize::from(whole);
                last = None;
            }
        };
        let of_character = |c: char| {
            let is_normal = |&id: &u32| base.pieces()[id as usize].kind == PieceKind::Normal;
            single.get(&c).copied().filter(is_normal).or_else(|| missing.get(&c).copied())
        };
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
        let is_done = symbols == 1 && last.is_some_and(|symbol| table.get(symbol).is_piece);
        if whole && self.slots.has_end(start) {
            let reason =
                format!("a protected piece must be `{run}`, and a user-defined piece of the base is in it");
            return Err(Error::Argument(reason.into()));
        }
        if is_done {
            self.slots.drop_from(start);
        } else {
            self.slots.end();
        }
        Ok(())
    }
}

/// Refuses a piece that the chosen scripts do not allow.
fn check_protected(piece: &str, options: &ExtendOptions) -> Result<()> {
    let mut runs = Vec::new();
    for_each_run(piece, options.scripts, |run| runs.push(run));
    if runs == [piece] {
        return Ok(());
    }
    let allowed = match options.scripts {
        Scripts::Han => {
            "Han and the punctuation of Chinese text, with `▁` at the start alone; all scripts allow more"
        }
        Scripts::All => {
            "characters of one kind (Han, others), with `▁` at the start alone and without digits"
        }
    };
    Err(Error::Argument(format!("`{piece}` cannot be protected: a new piece holds {allowed}").into()))
}
