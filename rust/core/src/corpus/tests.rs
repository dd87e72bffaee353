//! Whole runs, on a model made here. Wherever a run fails or stops, running it again gives the same bytes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    store::{disk::faults, folder},
    *,
};
use crate::{
    Error, SpmModel, Tokenizer,
    spm::{NormalizerOptions, Piece, PieceKind},
};

/// A model of bytes and a few pieces.
fn tokenizer() -> Tokenizer {
    let piece = |text: &str, score, kind| Piece { text: text.into(), score, kind };
    let mut pieces = vec![piece("<unk>", 0.0, PieceKind::Unknown)];
    pieces.extend(["<s>", "</s>"].map(|text| piece(text, 0.0, PieceKind::Control)));
    pieces.extend((0..=255).map(|byte| piece(&format!("<0x{byte:02X}>"), 0.0, PieceKind::Byte)));
    let texts = ["铸字", "字", "铸", "▁", "a", "b", "ab"];
    pieces.extend((0..).zip(texts).map(|(rank, text)| piece(text, -(rank as f32), PieceKind::Normal)));
    let options = NormalizerOptions {
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        escape_whitespaces: true,
        ..Default::default()
    };
    Tokenizer::new(&SpmModel::from_pieces(&pieces, true, &options, "test").unwrap(), &[]).unwrap()
}

/// A folder that is removed when the test passes.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Hundreds of runs with a dozen fsyncs each: in memory if the system has a file system for that.
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let path = base.join(format!("zhuzi-corpus-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Lines of which some are equal and two are bad.
fn inputs(folder: &Folder) -> Vec<PathBuf> {
    let line = |n: usize| format!("{{\"text\": \"铸字 {} ab\"}}\n", n % 70);
    let many: String = (0..100).map(line).collect();
    let bad = format!("{}broken\n{}", line(200), line(201));
    vec![
        folder.write("a.jsonl", &many),
        folder.write("b.jsonl", &bad),
        folder.write("c.txt", "一\n\n二\n"),
        folder.write("d.jsonl", &format!("{many}{{}}\n")),
    ]
}

fn request(inputs: Vec<PathBuf>, out: &Path) -> Request {
    let options = EncodeOptions { shard_bytes: 900, dedup: true, ..Default::default() };
    Request { inputs, out: out.into(), fingerprint: "f".into(), options }
}

/// With dedup, tasks depend on each other: one lane, and no parts.
fn without_dedup(inputs: Vec<PathBuf>, out: &Path) -> Request {
    let mut request = request(inputs, out);
    request.options.dedup = false;
    request
}

fn options(threads: usize) -> RunOptions {
    RunOptions { threads, overwrite: false, append: false, skip_bad: true, part: None, plan_only: false }
}

fn encode(tokenizer: &Tokenizer, request: &Request, run: &RunOptions) -> crate::Result<Report> {
    encode_corpus(tokenizer, request, run, |_, _| true)
}

/// All files except those that differ from run to run; temporary files are included.
fn files(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = folder::names(out).unwrap();
    let kept = names.into_iter().filter(|n| !n.starts_with(folder::LOCK_FILE) && n != RUN_FILE);
    kept.filter(|n| n != folder::COMMITS_FOLDER)
        .map(|n| (n.clone(), fs::read(out.join(n)).unwrap()))
        .collect()
}

#[test]
fn a_fault_at_any_write_fsync_or_rename_loses_nothing() {
    let tokenizer = tokenizer();
    let folder = Folder::new();
    let inputs = inputs(&folder);
    let whole = folder.0.join("whole");
    faults::arm(&whole, usize::MAX, false);
    let report = encode(&tokenizer, &request(inputs.clone(), &whole), &options(2)).unwrap();
    let operations = faults::disarm(&whole);
    assert_eq!(report.outcome, Outcome::Finished);
    assert_eq!((report.counts.bad_records, report.counts.empty_documents), (2, 1));
    let Counts { duplicate_documents, .. } = report.counts;
    assert!(duplicate_documents > 20 && report.shards > 2 && operations > 50, "{report:?} {operations}");
    let wanted = files(&whole);

    let mut stopped = 0;
    for at in 0..operations {
        for dead in [false, true] {
            let out = folder.0.join(format!("out-{at}-{dead}"));
            let request = request(inputs.clone(), &out);
            faults::arm(&out, at, dead);
            let first = encode(&tokenizer, &request, &options(1 + at % 3));
            faults::disarm(&out);
            match first {
                Err(Error::Io { .. }) => stopped += 1,
                Err(e) => panic!("operation {at}: {e}"),
                Ok(_) => {}
            }
            assert!(first.is_ok() || !out.join(MANIFEST_FILE).exists() || at + 2 >= operations);
            let again = encode(&tokenizer, &request, &options(2)).unwrap();
            assert!(again.outcome == Outcome::Finished || (again.outcome == Outcome::Already), "{at}");
            assert!(files(&out) == wanted, "operation {at} of {operations}, dead: {dead}");
            fs::remove_dir_all(&out).unwrap();
        }
    }
    assert!(stopped > operations, "most of them stop a run: {stopped} of {}", 2 * operations);
}

/// Nine threads encode for three lanes.
#[test]
fn several_lanes_make_the_same_corpus_and_lose_nothing_at_a_fault() {
    let tokenizer = tokenizer();
    let folder = Folder::new();
    let inputs = inputs(&folder);
    let plain = |out: &Path| without_dedup(inputs.clone(), out);
    let (whole, lanes) = (folder.0.join("whole"), folder.0.join("lanes"));
    let report = encode(&tokenizer, &plain(&whole), &options(1)).unwrap();
    assert!(report.tasks > 5, "{report:?}");
    let wanted = files(&whole);
    faults::arm(&lanes, usize::MAX, false);
    let mut last = 0;
    encode_corpus(&tokenizer, &plain(&lanes), &options(9), |at, _| {
        assert!(at.documents >= last);
        last = at.documents;
        true
    })
    .unwrap();
    let operations = faults::disarm(&lanes);
    assert!(files(&lanes) == wanted && last <= report.counts.documents);
    for at in 0..operations {
        let out = folder.0.join(format!("out-{at}"));
        faults::arm(&out, at, at % 2 == 0);
        let first = encode(&tokenizer, &plain(&out), &options(9));
        faults::disarm(&out);
        assert!(matches!(first, Ok(_) | Err(Error::Io { .. })), "operation {at}: {first:?}");
        encode(&tokenizer, &plain(&out), &options(9)).unwrap();
        assert!(files(&out) == wanted, "operation {at} of {operations}");
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn the_first_bad_record_is_reported_whatever_the_number_of_threads() {
    let tokenizer = tokenizer();
    let folder = Folder::new();
    let fail = |threads| {
        let out = folder.0.join("out");
        let _ = fs::remove_dir_all(&out);
        let mut request = request(inputs(&folder), &out);
        request.options.dedup = false;
        let run = RunOptions { skip_bad: false, ..options(threads) };
        encode(&tokenizer, &request, &run).unwrap_err().to_string()
    };
    let wanted = fail(1);
    assert!(wanted.contains("b.jsonl: line 2"), "{wanted}");
    for threads in [2, 5, 9, 17, 33] {
        (0..5).for_each(|_| assert_eq!(fail(threads), wanted));
    }
}

#[test]
fn a_stop_at_any_time_loses_nothing() {
    let tokenizer = tokenizer();
    let folder = Folder::new();
    let inputs = inputs(&folder);
    let whole = folder.0.join("whole");
    encode(&tokenizer, &request(inputs.clone(), &whole), &options(5)).unwrap();
    let out = folder.0.join("out");
    let request = request(inputs, &out);
    for calls in 0.. {
        let mut left = calls;
        let progress = |_, _| {
            left -= 1;
            left >= 0
        };
        match encode_corpus(&tokenizer, &request, &options(2), progress) {
            Err(Error::Stopped) => assert!(!out.join(MANIFEST_FILE).exists()),
            Ok(report) => {
                assert_eq!(report.outcome, Outcome::Finished);
                break;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(files(&out) == files(&whole));
    assert_eq!(encode(&tokenizer, &request, &options(1)).unwrap().outcome, Outcome::Already);
}

#[test]
fn parts_and_workers_make_the_same_corpus() {
    let tokenizer = tokenizer();
    let folder = Folder::new();
    let inputs = inputs(&folder);
    let plain = |out: &Path| without_dedup(inputs.clone(), out);
    let (whole, out, cluster) = (folder.0.join("whole"), folder.0.join("out"), folder.0.join("cluster"));
    encode(&tokenizer, &plain(&whole), &options(2)).unwrap();

    for part in [2, 0] {
        let run = RunOptions { part: Some((part, 3)), ..options(1) };
        let report = encode(&tokenizer, &plain(&out), &run).unwrap();
        assert!(report.outcome == Outcome::Unsealed && !report.missing.is_empty());
    }
    assert!(!out.join(MANIFEST_FILE).exists());
    let report = encode(&tokenizer, &plain(&out), &options(2)).unwrap();
    assert!(report.outcome == Outcome::Finished && report.resumed > 0);
    assert!(files(&out) == files(&whole));

    let run = RunOptions { plan_only: true, ..options(1) };
    let report = encode(&tokenizer, &plain(&cluster), &run).unwrap();
    for task in report.missing.iter().rev().skip(1) {
        let before = progress_of(&cluster).unwrap();
        let made = encode_tasks(&tokenizer, "f", &cluster, &[*task], 1, true, |_| true).unwrap();
        let after = progress_of(&cluster).unwrap();
        assert_eq!(after.committed, before.committed + 1);
        assert_eq!(after.done.bytes, before.done.bytes + made.bytes);
        assert_eq!(after.done.documents, before.done.documents + made.documents);
        assert_eq!(after.done.tokens, before.done.tokens + made.tokens);
    }
    let now = progress_of(&cluster).unwrap();
    assert_eq!((now.committed + 1, now.tasks), (report.tasks, report.tasks));
    assert!(now.done.bytes > 0 && now.done.bytes < now.total_bytes);
    assert!(matches!(progress_of(&folder.0.join("none")), Err(Error::Argument(_))));
    let other = encode_tasks(&tokenizer, "g", &cluster, &[0], 1, true, |_| true);
    assert!(matches!(other, Err(Error::Argument(e)) if e.to_string().contains("the tokenizer")));
    let report = encode(&tokenizer, &plain(&cluster), &options(2)).unwrap();
    assert_eq!(report.resumed, report.tasks - 1);
    assert!(files(&cluster) == files(&whole));

    let dedup = RunOptions { part: Some((0, 2)), ..options(1) };
    let refused = encode(&tokenizer, &request(inputs, &folder.0.join("x")), &dedup);
    assert!(matches!(refused, Err(Error::Argument(e)) if e.to_string().contains("duplicates")));
}

#[test]
fn two_runs_on_one_folder() {
    let tokenizer = tokenizer();
    let folder = Folder::new();
    let out = folder.0.join("out");
    let mut request = request(inputs(&folder), &out);
    request.options.dedup = false;
    let part = |part| RunOptions { part: Some((part, 2)), ..options(1) };
    let occupied = |run: &RunOptions| {
        let result = encode(&tokenizer, &request, run);
        matches!(result, Err(Error::Occupied(e)) if e.to_string().contains("another run"))
    };
    let mut looked = false;
    encode_corpus(&tokenizer, &request, &options(1), |_, _| {
        looked = looked || (occupied(&options(1)) && occupied(&part(0)));
        true
    })
    .unwrap();
    assert!(looked);
    fs::remove_dir_all(&out).unwrap();
    let mut looked = false;
    encode_corpus(&tokenizer, &request, &part(0), |_, _| {
        looked = looked
            || (occupied(&options(1))
                && occupied(&part(0))
                && encode(&tokenizer, &request, &part(1)).is_ok());
        true
    })
    .unwrap();
    assert!(looked);
    let report = encode(&tokenizer, &request, &options(1)).unwrap();
    assert_eq!(report.resumed, report.tasks);
}
