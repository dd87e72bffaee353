//! Cuts the inputs into tasks at record boundaries.

use crate::{
    Result,
    corpus::{
        listing::Listing,
        options::{EncodeOptions, Split},
        read::{cut, parquet::row_groups, rows::check_arrow},
        source::{Format, Packing, Source, Span},
        store::{config::Config, plan::Plan, records::Task},
    },
};

/// Assumed ratio of unpacked to compressed bytes. Only how even the tasks are depends on it.
const UNPACKED: u64 = 4;

/// A new plan for these inputs, cut into tasks.
///
/// # Errors
/// [`crate::Error::Argument`] if a parquet or Arrow file lacks a column; [`crate::Error::Io`].
pub fn new_plan(config: Config, listing: Listing) -> Result<Plan> {
    let tasks = cut_tasks(&listing.sources, 0, &config.options)?;
    Ok(Plan::new(config, listing, tasks))
}

/// Cuts the sources from number `first` on into tasks of about `shard_bytes` unpacked bytes.
pub fn cut_tasks(sources: &[Source], first: usize, options: &EncodeOptions) -> Result<Vec<Task>> {
    let want = options.shard_bytes;
    let mut tasks = Vec::new();
    let mut spans: Vec<Span> = Vec::new();
    let mut filled = 0;
    let mut close = |spans: &mut Vec<Span>, filled: &mut u64| {
        *filled = 0;
        if !spans.is_empty() {
            tasks.push(Task { spans: std::mem::take(spans) });
        }
    };
    for (source, file) in sources.iter().enumerate().skip(first) {
        let span = |start, end| Span { source, start, end };
        if file.is_stdin() {
            close(&mut spans, &mut filled);
            spans.push(span(0, 0));
            close(&mut spans, &mut filled);
        } else if file.format == Format::Parquet {
            for (number, bytes) in row_groups(file, &options.fields)?.into_iter().enumerate() {
                let number = number as u64;
                match spans.last_mut() {
                    Some(last) if last.source == source && last.end == number => last.end += 1,
                    _ => spans.push(span(number, number + 1)),
                }
                filled += bytes;
                if filled >= want {
                    close(&mut spans, &mut filled);
                }
            }
        } else if !file.is_cuttable() {
            if file.format == Format::Arrow {
                check_arrow(file, &options.fields)?;
            }
            let packed = file.packing != Packing::Plain;
            let bytes = file.bytes.saturating_mul(if packed { UNPACKED } else { 1 });
            if bytes >= want {
                close(&mut spans, &mut filled);
            }
            if file.bytes > 0 {
                spans.push(span(0, file.bytes));
                filled += bytes;
            }
            if filled >= want {
                close(&mut spans, &mut filled);
            }
        } else {
            let mut start = 0;
            while start < file.bytes {
                let aim = start.saturating_add(want - filled).min(file.bytes);
                // A JSON array can only be read from its start, so it is one span.
                let is_array = start == 0
                    && aim < file.bytes
                    && file.format == Format::Jsonl
                    && cut::starts_array(&file.path)?;
                let end = if is_array { file.bytes } else { cut_at(file, options, aim)? };
                spans.push(span(start, end));
                filled += end - start;
                start = end;
                if filled >= want {
                    close(&mut spans, &mut filled);
                }
            }
        }
    }
    close(&mut spans, &mut filled);
    Ok(tasks)
}

fn cut_at(file: &Source, options: &EncodeOptions, aim: u64) -> Result<u64> {
    let line = Split::Line;
    let split = if file.format == Format::Txt { &options.split } else { &line };
    cut::next_start(split, &file.path, aim, file.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(bytes: u64) -> Source {
        Source { path: "x.txt.gz".into(), format: Format::Txt, packing: Packing::Gz, bytes, mtime_ns: 0 }
    }

    #[test]
    fn small_compressed_files_share_a_task_and_large_ones_do_not() {
        let options = EncodeOptions { shard_bytes: 4000, ..Default::default() };
        let sources: Vec<_> = [100, 100, 5000, 0, 900, 200, 1].map(compressed).into();
        let tasks = cut_tasks(&sources, 0, &options).unwrap();
        let numbers: Vec<Vec<usize>> =
            tasks.iter().map(|t| t.spans.iter().map(|p| p.source).collect()).collect();
        assert_eq!(numbers, [vec![0, 1], vec![2], vec![4, 5], vec![6]]);
    }
}
