//! What the core reports, as dicts; `_core.pyi` has their types.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use zhuzi_core::corpus::{self, Outcome};

use crate::errors::to_py;

/// What a run did.
#[derive(IntoPyObject)]
pub struct EncodeReport {
    outcome: &'static str,
    counts: Counts,
    shards: usize,
    tasks: usize,
    resumed: usize,
    missing: Vec<usize>,
    read_bytes: u64,
    encoded_bytes: u64,
    files: usize,
    left_out: LeftOut,
}

impl From<corpus::Report> for EncodeReport {
    fn from(report: corpus::Report) -> Self {
        Self {
            outcome: match report.outcome {
                Outcome::Finished => "finished",
                Outcome::Already => "already",
                Outcome::Unsealed => "unsealed",
            },
            counts: report.counts.into(),
            shards: report.shards,
            tasks: report.tasks,
            resumed: report.resumed,
            missing: report.missing,
            read_bytes: report.read_bytes,
            encoded_bytes: report.encoded_bytes,
            files: report.files,
            left_out: report.left_out.into(),
        }
    }
}

/// What a corpus holds, and what was left out of it.
#[derive(IntoPyObject)]
struct Counts {
    documents: u64,
    tokens: u64,
    characters: u64,
    text_bytes: u64,
    input_bytes: u64,
    empty_documents: u64,
    short_documents: u64,
    long_documents: u64,
    foreign_documents: u64,
    unsampled_documents: u64,
    duplicate_documents: u64,
    bad_records: u64,
}

impl From<corpus::Counts> for Counts {
    fn from(counts: corpus::Counts) -> Self {
        Self {
            documents: counts.documents,
            tokens: counts.tokens,
            characters: counts.characters,
            text_bytes: counts.text_bytes,
            input_bytes: counts.input_bytes,
            empty_documents: counts.empty_documents,
            short_documents: counts.short_documents,
            long_documents: counts.long_documents,
            foreign_documents: counts.foreign_documents,
            unsampled_documents: counts.unsampled_documents,
            duplicate_documents: counts.duplicate_documents,
            bad_records: counts.bad_records,
        }
    }
}

/// What folders and patterns hold besides documents.
#[derive(Clone, IntoPyObject)]
pub struct LeftOut {
    other_kinds: BTreeMap<String, u64>,
    hidden: u64,
    repeated: u64,
    records_of_tools: u64,
}

impl From<corpus::LeftOut> for LeftOut {
    fn from(left_out: corpus::LeftOut) -> Self {
        Self {
            other_kinds: left_out.other_kinds,
            hidden: left_out.hidden,
            repeated: left_out.repeated,
            records_of_tools: left_out.records_of_tools,
        }
    }
}

/// A plan and what it would take.
#[derive(IntoPyObject)]
pub struct Estimate {
    files: Vec<(String, u64)>,
    figures: Figures,
    unreadable: u64,
    left_out: LeftOut,
    refused: Option<PyErr>,
}

/// The figures of an estimate.
#[derive(IntoPyObject)]
struct Figures {
    bytes: u64,
    tasks: usize,
    unpacked_bytes: u64,
    shards: u64,
    documents: u64,
    tokens: u64,
    disk_bytes: u64,
    sampled_bytes: u64,
}

impl From<corpus::Estimate> for Estimate {
    fn from(estimate: corpus::Estimate) -> Self {
        Self {
            files: estimate.sources.into_iter().map(|source| (source.path, source.bytes)).collect(),
            figures: Figures {
                bytes: estimate.bytes,
                tasks: estimate.tasks,
                unpacked_bytes: estimate.unpacked_bytes,
                shards: estimate.shards,
                documents: estimate.documents,
                tokens: estimate.tokens,
                disk_bytes: estimate.disk_bytes,
                sampled_bytes: estimate.sampled_bytes,
            },
            unreadable: estimate.unreadable,
            left_out: estimate.left_out.into(),
            refused: estimate.refused.map(to_py),
        }
    }
}

/// What a corpus folder holds of its plan.
#[derive(IntoPyObject)]
pub struct FolderProgress {
    tasks: usize,
    committed: usize,
    total_bytes: u64,
    bytes: u64,
    documents: u64,
    tokens: u64,
}

impl From<corpus::FolderProgress> for FolderProgress {
    fn from(found: corpus::FolderProgress) -> Self {
        Self {
            tasks: found.tasks,
            committed: found.committed,
            total_bytes: found.total_bytes,
            bytes: found.done.bytes,
            documents: found.done.documents,
            tokens: found.done.tokens,
        }
    }
}

/// How much a reader of inputs has read.
#[derive(IntoPyObject)]
pub struct ReadCounts {
    bytes: u64,
    documents: u64,
    characters: u64,
    empty_documents: u64,
    bad_records: u64,
}

impl From<corpus::ReadCounts> for ReadCounts {
    fn from(counts: corpus::ReadCounts) -> Self {
        Self {
            bytes: counts.bytes,
            documents: counts.documents,
            characters: counts.characters,
            empty_documents: counts.empty_documents,
            bad_records: counts.bad_records,
        }
    }
}
