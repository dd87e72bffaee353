//! Estimates what a plan would take, from the first blocks of some tasks.

use std::sync::{Arc, atomic::AtomicBool};

use super::{
    decide::{Decision, check_rejects, decide},
    encode::BlockEncoder,
    inputs::{check_request, list_inputs},
    progress::Clock,
    request::{Request, RunOptions},
    tasks::new_plan,
};
use crate::{
    Error, Result, Tokenizer,
    corpus::{
        listing::LeftOut,
        read::{block::Stop, blocks::Blocks, documents::Fate},
        store::{commit, config::Config},
    },
};

/// Number of samples, spread evenly over the tasks.
const SAMPLES: usize = 16;

/// A plan and an estimate of what it would take.
#[derive(Debug)]
pub struct Estimate {
    /// The files, in document order.
    pub sources: Vec<EstimatedSource>,
    /// Their bytes.
    pub bytes: u64,
    /// Tasks.
    pub tasks: usize,
    /// Bytes of the files when unpacked; estimated for compressed files.
    pub unpacked_bytes: u64,
    /// Shards, estimated.
    pub shards: u64,
    /// Documents, estimated.
    pub documents: u64,
    /// Tokens, estimated.
    pub tokens: u64,
    /// Bytes of all shards, estimated.
    pub disk_bytes: u64,
    /// Input bytes that the estimate was made from.
    pub sampled_bytes: u64,
    /// What folders and patterns contain that is not read.
    pub left_out: LeftOut,
    /// Number of files and folders that cannot be accessed.
    pub unreadable: u64,
    /// Why the run would refuse to write its folder as it is now.
    pub refused: Option<Error>,
}

/// One file of a plan.
#[derive(Clone, Debug)]
pub struct EstimatedSource {
    /// Its path.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// Plans `request` as if nothing were done yet, and estimates what it would take; nothing is written.
///
/// Deduplication and limits are ignored: with them the estimate is an upper bound. Standard input counts as
/// empty. With an empty `out`, no folder is checked.
///
/// # Errors
/// The errors that a run would have for these inputs.
pub fn estimate(tokenizer: &Tokenizer, request: &Request, run: &RunOptions) -> Result<Estimate> {
    let config = Config::new(tokenizer, request.fingerprint.clone(), request.options.clone())?;
    let inputs = list_inputs(request, run)?;
    let mut refused = None;
    if !request.out.as_os_str().is_empty() {
        check_request(request, run, &inputs.listing)?;
        let decision = decide(request, run, &config, &inputs).and_then(|decision| {
            let (Decision::Resume(plan) | Decision::Append(plan)) = decision else { return Ok(()) };
            check_rejects(&request.out, run, &commit::load_all(&request.out, &plan)?)
        });
        match decision {
            Err(error @ Error::Occupied(_)) => refused = Some(error),
            other => other?,
        }
    }
    let plan = new_plan(config, inputs.listing)?;
    let options = &plan.config.options;
    let mut encoder = BlockEncoder::new(tokenizer, options);
    let stop = Arc::new(AtomicBool::new(false));
    let (mut packed, mut unpacked, mut tokens, mut documents) = (0_u64, 0_u64, 0_u64, 0_u64);
    let step = plan.tasks.len().div_ceil(SAMPLES).max(1);
    for task in plan.tasks.iter().step_by(step) {
        let Some(&span) = task.spans.first() else { continue };
        let source = Arc::new(plan.sources[span.source].clone());
        if source.is_stdin() {
            continue;
        }
        let mut blocks = Blocks::open(source, span, options, Stop::Flag(stop.clone()))?;
        // Two blocks, since decompressors read ahead: the more is read, the less that matters.
        for _ in 0..2 {
            let Some(block) = blocks.next_block()? else { break };
            let Some(encoded) = encoder.encode(&block, &plan, &stop, &Clock::default()) else { break };
            packed += block.packed;
            unpacked += encoded.bytes;
            tokens += encoded.records.iter().map(|record| u64::from(record.tokens)).sum::<u64>();
            documents += encoded.records.iter().filter(|r| r.fate == Fate::Kept).count() as u64;
        }
    }
    let bytes = plan.bytes();
    let scaled = |count: u64, of: u64| (u128::from(bytes) * u128::from(count) / u128::from(of.max(1))) as u64;
    let width = plan.config.width().bytes() as u64;
    let (all_tokens, all_documents) = (scaled(tokens, packed), scaled(documents, packed));
    let unpacked_bytes = scaled(unpacked, packed);
    Ok(Estimate {
        bytes,
        tasks: plan.tasks.len(),
        unpacked_bytes,
        shards: unpacked_bytes.div_ceil(options.shard_bytes).max(plan.tasks.len() as u64),
        documents: all_documents,
        tokens: all_tokens,
        disk_bytes: all_tokens * width + all_documents * 20,
        sampled_bytes: unpacked,
        left_out: plan.left_out.clone(),
        unreadable: plan.unreadable.len() as u64,
        refused,
        sources: plan
            .sources
            .iter()
            .map(|s| EstimatedSource { path: s.path.display().to_string(), bytes: s.bytes })
            .collect(),
    })
}
