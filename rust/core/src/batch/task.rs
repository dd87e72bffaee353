//! What a thread encodes at a time: some documents, or a part of a long one.

use crate::{
    bpe::ShortTexts,
    normalize::Part,
    text::{Document, RawText, Text},
    tokenizer::{Scratch, Tokenizer},
};

/// Units of text in a task: so few that its ids and all that it reads stay in the second-level cache.
pub const TASK_UNITS: usize = 1 << 15;

/// What a thread takes at a time.
#[derive(Debug)]
pub struct Task<'a, D> {
    work: Work<'a, D>,
    /// For each document that ends in the task: where it ends, in ids.
    pub ends: &'a mut [i64],
}

#[derive(Debug)]
enum Work<'a, D> {
    /// Whole documents.
    Documents(&'a [D]),
    /// A part of a long document.
    Part { text: Text<'a>, part: Part },
}

impl<D: Document> Task<'_, D> {
    /// Appends the ids to `ids`, and notes in `self.ends` where in it each document ends.
    pub fn encode(&mut self, tokenizer: &Tokenizer, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        match self.work {
            Work::Documents(documents) => encode_documents(tokenizer, documents, scratch, ids, self.ends),
            Work::Part { text, part } => {
                tokenizer.encode_part(text.into(), part, scratch, ids);
                self.ends.fill(ids.len() as i64);
            }
        }
    }
}

/// Appends the ids of documents, and notes in `ends` where in `ids` each ends. Short ones that follow each other are
/// encoded together, where the tokenizer can.
fn encode_documents<D: Document>(
    tokenizer: &Tokenizer,
    documents: &[D],
    scratch: &mut Scratch,
    ids: &mut Vec<u32>,
    ends: &mut [i64],
) {
    let mut short = ShortTexts::default();
    // The first document whose end is not known.
    let mut first = 0;
    for (i, document) in documents.iter().enumerate() {
        // The processor does not foresee where in memory the next one is.
        if let Some(next) = documents.get(i + 1) {
            scratch.expect(next.raw());
        }
        let raw = if document.is_valid() { document.raw() } else { RawText::Bytes(&[]) };
        let text = tokenizer.short_text(raw);
        if text.is_some_and(|text| short.push(text)) {
            continue;
        }
        tokenizer.encode_short(&mut short, scratch, ids, &mut ends[first..i]);
        first = i;
        if text.is_none_or(|text| !short.push(text)) {
            tokenizer.encode_part(raw, Part::WHOLE, scratch, ids);
            ends[i] = ids.len() as i64;
            first = i + 1;
        }
    }
    tokenizer.encode_short(&mut short, scratch, ids, &mut ends[first..]);
}

/// Tasks of about [`TASK_UNITS`] each, in order, with their share of `ends`, which has one for each document. A document
/// longer than two tasks is cut, where its model allows it.
pub fn cut_batch<'a, D: Document>(
    tokenizer: &Tokenizer,
    documents: &'a [D],
    mut ends: &'a mut [i64],
) -> Vec<Task<'a, D>> {
    let mut tasks = Vec::new();
    let mut add = |work: Work<'a, D>| {
        let n = match &work {
            Work::Documents(documents) => documents.len(),
            Work::Part { part, .. } => usize::from(part.is_last),
        };
        let (own, rest) = std::mem::take(&mut ends).split_at_mut(n);
        ends = rest;
        tasks.push(Task { work, ends: own });
    };
    let (mut start, mut units) = (0, 0);
    for (i, document) in documents.iter().enumerate() {
        let raw = document.raw();
        if raw.len() > 2 * TASK_UNITS
            && document.is_valid()
            && let Some(text) = raw.to_text()
        {
            if start < i {
                add(Work::Documents(&documents[start..i]));
            }
            cut_document(tokenizer, text, &mut add);
            (start, units) = (i + 1, 0);
            continue;
        }
        units += raw.len();
        if units >= TASK_UNITS {
            add(Work::Documents(&documents[start..=i]));
            (start, units) = (i + 1, 0);
        }
    }
    add(Work::Documents(&documents[start..]));
    tasks
}

/// Cuts a document into parts of about [`TASK_UNITS`].
fn cut_document<'a, D: Document + 'a>(
    tokenizer: &Tokenizer,
    text: Text<'a>,
    add: &mut impl FnMut(Work<'a, D>),
) {
    let mut start = 0;
    loop {
        let end = tokenizer.next_cut(text, start + TASK_UNITS);
        let part = Part { is_first: start == 0, is_last: end.is_none() };
        add(Work::Part { text: text.slice(start, end.unwrap_or(text.len())), part });
        match end {
            Some(end) => start = end,
            None => return,
        }
    }
}
