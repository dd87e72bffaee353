//! A run from its arguments to the sealed manifest: plan, or go on with a plan; run what is missing; seal.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use serde_json::json;

use super::{
    commit::{self, Commit},
    disk,
    folder::{
        self, COMMITS_FOLDER, LOCK_FILE, MANIFEST_FILE, PLAN_FILE, PLAN_LOCK_FILE, REJECTS_FILE, RUN_FILE,
        temporary,
    },
    input::{Listing, Rules, list_sources},
    kinds::LeftOut,
    lock::Lock,
    manifest::{Counts, Manifest},
    options::{Config, EncodeOptions},
    pipeline::{Clock, Progress, Work, run_tasks},
    plan::Plan,
    write::Before,
};
use crate::{Error, Result, Tokenizer};

/// The inputs and how to encode them.
#[derive(Clone, Debug)]
pub struct Request {
    /// Files, folders, patterns, `-`.
    pub inputs: Vec<PathBuf>,
    /// The corpus folder.
    pub out: PathBuf,
    /// The tokenizer's fingerprint.
    pub fingerprint: String,
    /// What decides the bytes.
    pub options: EncodeOptions,
}

impl Request {
    /// How its inputs are listed.
    pub fn rules(&self, skip: bool) -> Rules<'_> {
        Rules { stdin: self.options.stdin, skip, out: Some(&self.out), first_version: false }
    }
}

/// How to run; nothing of it changes a byte of shards or manifest.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Threads that encode.
    pub threads: usize,
    /// Replace what the folder holds, unless it is an unfinished run of this very request.
    pub overwrite: bool,
    /// Add files that a finished corpus does not know yet.
    pub append: bool,
    /// Put bad records aside, and pass over what cannot be looked at.
    pub skip_bad: bool,
    /// Do part I of N only, and leave the sealing to a run without it.
    pub part: Option<(usize, usize)>,
    /// Prepare only: plan, and tell which tasks are missing.
    pub plan_only: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything is encoded and sealed.
    Finished,
    /// It was before this run: nothing was done.
    Already,
    /// The part, or the planning, is done; the corpus is not sealed.
    Unsealed,
}

/// What a run did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What the corpus (or, unsealed, what is committed of it) holds.
    #[serde(flatten)]
    pub counts: Counts,
    /// Its shards.
    pub shards: usize,
    /// Tasks of the plan.
    pub tasks: usize,
    /// Tasks that were committed before this run.
    pub resumed: usize,
    /// Tasks that nobody has done yet.
    pub missing: Vec<usize>,
    /// Unpacked bytes that this run itself read.
    pub read_bytes: u64,
    /// Bytes of text that this run itself encoded.
    pub encoded_bytes: u64,
    /// Input files.
    pub files: usize,
    /// What folders and patterns hold and is no document.
    pub left_out: LeftOut,
}

/// Encodes a corpus, or goes on with it.
///
/// `progress` gets the state of the whole corpus and the bytes of all inputs; false stops the run. A run that
/// stops early leaves what is committed for the next one, and nothing at all if nothing is.
///
/// # Errors
/// [`Error::Occupied`] if the folder holds something else, or inputs, tokenizer or options differ from those
/// it was planned with (it says which); [`Error::Argument`] if there is no document at all; else as
/// [`run_tasks`].
pub fn encode_corpus(
    tokenizer: &Tokenizer,
    request: &Request,
    run: &RunOptions,
    mut progress: impl FnMut(Progress, u64) -> bool,
) -> Result<Report> {
    let config = Config::new(tokenizer, request.fingerprint.clone(), request.options.clone())?;
    let inputs = list_inputs(request, run)?;
    check_request(request, run, &inputs.listing)?;
    let existed = request.out.exists();
    disk::create_folder(&request.out)?;
    let tag = match run.part {
        Some((part, of)) => format!("{part}-of-{of}"),
        None => "all".into(),
    };
    let lock = match run.part {
        Some(_) => Lock::part(&request.out, &tag),
        None => Lock::whole(&request.out),
    };
    let lock = lock.inspect_err(|_| drop_if_empty(&request.out, existed))?;
    let mut session = Session { request, run, tag: &tag, existed, started: Instant::now() };
    let result = session.run(tokenizer, config, inputs, &mut progress);
    if let Err(error) = &result {
        session.tidy(error);
    }
    drop(lock);
    result
}

/// What the inputs stand for.
struct Inputs {
    /// For a new plan, or for what is appended.
    listing: Listing,
    /// For comparison with the plan of the first version that the folder has.
    then: Option<Listing>,
}

/// Lists the inputs. For the first version they stood for other files: what was begun then is ended so.
fn list_inputs(request: &Request, run: &RunOptions) -> Result<Inputs> {
    let rules = request.rules(run.skip_bad);
    let now = list_sources(&request.inputs, rules);
    // What is wrong with the folder is said once it is locked.
    let plan = Plan::load(&request.out).ok().flatten();
    let Some(plan) = plan.filter(|plan| plan.is_of_first_version() && !run.append) else {
        return Ok(Inputs { listing: now?, then: None });
    };
    let Ok(mut then) = list_sources(&request.inputs, Rules { first_version: true, ..rules }) else {
        return Ok(Inputs { listing: now?, then: None });
    };
    let now = match now {
        Ok(now) => now,
        Err(e) if run.overwrite || plan.appended > 0 => return Err(e),
        // For what goes on as it began, the rules of now do not matter.
        Err(_) => return Ok(Inputs { listing: then.clone(), then: Some(then) }),
    };
    if plan.appended > 0 {
        // What was appended was listed as now; what only the first version would read was known before.
        let is: HashSet<_> = now.sources.iter().map(|source| &source.path).collect();
        let was: HashSet<_> = plan.sources.iter().map(|source| &source.path).collect();
        then.sources.retain(|source| was.contains(&source.path) && !is.contains(&source.path));
        then.sources.extend(now.sources.iter().cloned());
    }
    Ok(Inputs { listing: now, then: Some(then) })
}

/// Refuses what cannot go together, before anything is written.
fn check_request(request: &Request, run: &RunOptions, listing: &Listing) -> Result<()> {
    let refuse = |reason: String| Err(Error::Argument(reason));
    if let Some((part, of)) = run.part {
        if part >= of {
            return refuse(format!(
                "--task {part}/{of}: parts are numbered from 0 to {}",
                of.saturating_sub(1)
            ));
        }
        if run.overwrite {
            return refuse(
                "--overwrite with --task: a part may come later than others, and would remove their work; \
                 remove the folder yourself"
                    .into(),
            );
        }
    }
    if run.part.is_some() || run.plan_only {
        check_side_by_side(&request.options, listing)?;
    }
    let out = fs::canonicalize(&request.out).unwrap_or_else(|_| request.out.clone());
    for source in listing.sources.iter().filter(|source| !source.is_stdin()) {
        let path = fs::canonicalize(&source.path).map_err(Error::io(&source.path))?;
        if path.starts_with(&out) {
            return refuse(format!(
                "{}: the input lies in the output folder {}; choose another --out",
                source.path.display(),
                request.out.display()
            ));
        }
    }
    Ok(())
}

/// Refuses what tasks that run side by side cannot do.
pub fn check_side_by_side(options: &EncodeOptions, listing: &Listing) -> Result<()> {
    let reason = if options.dedup {
        "dropping duplicates needs to know all documents before"
    } else if options.limit.is_some() {
        "a limit counts all documents before"
    } else if listing.sources.iter().any(super::input::Source::is_stdin) {
        "standard input can be read by one process only"
    } else {
        return Ok(());
    };
    Err(Error::Argument(format!(
        "{reason}, which parts that run side by side (--task, --engine ray) do not; leave it out, or run in one \
         process"
    )))
}

struct Session<'a> {
    request: &'a Request,
    run: &'a RunOptions,
    tag: &'a str,
    existed: bool,
    started: Instant,
}

impl Session<'_> {
    fn run(
        &mut self,
        tokenizer: &Tokenizer,
        config: Config,
        inputs: Inputs,
        progress: &mut impl FnMut(Progress, u64) -> bool,
    ) -> Result<Report> {
        let out = self.request.out.as_path();
        let plan_lock = Lock::plan(out)?;
        let plan = self.make_plan(config, inputs)?;
        drop(plan_lock);
        // Behind the plan: a folder with anything in it but no plan is not known as ours.
        disk::create_folder(&out.join(COMMITS_FOLDER))?;
        let mut commits = commit::load_all(out, &plan)?;
        self.check_rejects(&commits)?;
        if let Some(manifest) = Manifest::load(out)?.filter(|manifest| manifest.seals(&plan))
            && manifest.counts.documents == total(&commits).documents
        {
            return Ok(Report::new(Outcome::Already, &plan, &commits, commits.len(), Vec::new()));
        }
        if self.run.part.is_none() {
            commit::remove_uncommitted(out, &commits)?;
        } else {
            commit::remove_temporary(out, self.tag)?;
        }
        let mut before = Before::default();
        for commit in commits.values() {
            before.add_commit(out, commit, plan.config.options.dedup)?;
        }
        let base = Progress::of(commits.values());
        let resumed = commits.len();
        let limit = plan.config.options.limit;
        let is_missing = |task: &usize, commits: &BTreeMap<usize, Commit>| !commits.contains_key(task);
        let wanted = |task: &usize| self.run.part.is_none_or(|(part, of)| task % of == part);
        let tasks: Vec<usize> =
            (0..plan.tasks.len()).filter(|t| is_missing(t, &commits) && wanted(t)).collect();
        if self.run.plan_only {
            return Ok(Report::new(Outcome::Unsealed, &plan, &commits, resumed, tasks));
        }
        let clock = Clock::default();
        if !before.is_full(limit) {
            let threads = self.run.threads;
            let work =
                Work { tokenizer, plan: &plan, out, tag: self.tag, threads, skip_bad: self.run.skip_bad };
            let bytes = plan.bytes();
            let done = run_tasks(&work, &tasks, &mut before, &clock, |at| {
                let at = Progress {
                    bytes: base.bytes + at.bytes,
                    documents: base.documents + at.documents,
                    tokens: base.tokens + at.tokens,
                };
                progress(at, bytes)
            })?;
            commits.extend(done.into_iter().map(|commit| (commit.task, commit)));
        }
        let missing: Vec<usize> = if before.is_full(limit) {
            Vec::new()
        } else {
            (0..plan.tasks.len()).filter(|t| is_missing(t, &commits)).collect()
        };
        let outcome = if self.run.part.is_some() { Outcome::Unsealed } else { Outcome::Finished };
        let mut report = Report::new(outcome, &plan, &commits, resumed, missing);
        for commit in commits.values().filter(|commit| tasks.contains(&commit.task)) {
            report.read_bytes += commit.counts.input_bytes;
            report.encoded_bytes += commit.counts.text_bytes;
        }
        if outcome == Outcome::Finished {
            self.seal(&plan, commits, &report, &clock)?;
        }
        Ok(report)
    }

    /// The plan of the folder if it is for this request, else a new one; an unfinished run is gone on with.
    fn make_plan(&self, config: Config, inputs: Inputs) -> Result<Plan> {
        let out = self.request.out.as_path();
        let (overwrite, append) = (self.run.overwrite, self.run.append);
        let Inputs { listing, then } = inputs;
        if let Some(mut plan) = Plan::load(out).or_else(|e| if overwrite { Ok(None) } else { Err(e) })? {
            let now = then.as_ref().filter(|_| plan.is_of_first_version()).unwrap_or(&listing);
            let sealed = out.join(MANIFEST_FILE).exists();
            let differences =
                if append { plan.append_differences(&config, now) } else { plan.differences(&config, now) };
            let of_stdin = plan.sources.iter().any(super::input::Source::is_stdin);
            let shown = out.display();
            if append && differences.is_empty() {
                if of_stdin && listing.sources.iter().any(super::input::Source::is_stdin) {
                    return Err(Error::Occupied(format!(
                        "{shown}: holds text of standard input already, and more of it cannot be told from that; \
                         write it to a file and append the file"
                    )));
                }
                let before = plan.sources.len();
                plan.append(listing)?;
                if plan.sources.len() > before {
                    plan.save(out, self.tag)?;
                }
                return Ok(plan);
            }
            if differences.is_empty() && !of_stdin && !(overwrite && sealed) {
                return Ok(plan);
            }
            if !overwrite && of_stdin {
                return Err(Error::Occupied(format!(
                    "{shown}: holds a run on standard input, which cannot be resumed; start anew with --overwrite"
                )));
            }
            if !overwrite {
                let state = if sealed { "corpus" } else { "unfinished run" };
                return Err(Error::Occupied(format!(
                    "{shown}: holds the {state} of another command; what differs: {}. Give the same as then, \
                     start anew with --overwrite, or choose another --out",
                    differences.join("; ")
                )));
            }
        } else if !overwrite && let Some(name) = folder::names(out)?.iter().find(|n| !folder::is_passing(n)) {
            return Err(Error::Occupied(format!(
                "{}: already holds something ({name}); choose another folder, or replace it with --overwrite",
                out.display()
            )));
        }
        let plan = Plan::new(config, listing)?;
        if overwrite {
            folder::wipe(out)?;
        }
        disk::sync_folder(out.canonicalize().map_err(Error::io(out))?.parent().unwrap_or(Path::new("/")))?;
        plan.save(out, self.tag)?;
        Ok(plan)
    }

    /// Under `--on-error stop` a committed task holds no rejects.
    fn check_rejects(&self, commits: &BTreeMap<usize, Commit>) -> Result<()> {
        match commits.values().find(|commit| commit.counts.bad_records > 0) {
            Some(commit) if !self.run.skip_bad => Err(Error::Occupied(format!(
                "{}: holds a run that put {} bad records aside so far; what differs: the option on-error. Go on \
                 with --on-error skip, or start anew with --overwrite",
                self.request.out.display(),
                commit.counts.bad_records
            ))),
            _ => Ok(()),
        }
    }

    /// Writes what lies beside the shards; the manifest last.
    fn seal(
        &self,
        plan: &Plan,
        commits: BTreeMap<usize, Commit>,
        report: &Report,
        clock: &Clock,
    ) -> Result<()> {
        let out = self.request.out.as_path();
        let manifest = Manifest::new(plan, commits.into_values());
        if manifest.shards.is_empty() {
            let Counts { empty_documents, bad_records, .. } = manifest.counts;
            return Err(Error::Argument(format!(
                "the input holds no document that is kept ({empty_documents} empty ones, {bad_records} bad \
                 records); nothing was written"
            )));
        }
        self.write_rejects(plan, manifest.counts.bad_records)?;
        let mut json = serde_json::to_vec_pretty(&self.run_record(report, clock))
            .map_err(|e| Error::io(out.join(RUN_FILE))(e.into()))?;
        json.push(b'\n');
        disk::write_whole(&out.join(RUN_FILE), &temporary(out, self.tag, RUN_FILE), &json)?;
        disk::write_whole(
            &out.join(MANIFEST_FILE),
            &temporary(out, self.tag, MANIFEST_FILE),
            &manifest.to_json()?,
        )
    }

    /// Joins the rejects of all tasks in document order, behind what could not be looked at.
    fn write_rejects(&self, plan: &Plan, bad_records: u64) -> Result<()> {
        let out = self.request.out.as_path();
        if bad_records == 0 {
            return Ok(());
        }
        let mut file = disk::NewFile::create(temporary(out, self.tag, REJECTS_FILE))?;
        for passed in &plan.unreadable {
            let line = json!({"path": passed.path.display().to_string(), "reason": passed.reason});
            file.write(format!("{line}\n").as_bytes())?;
        }
        let mut buffer = vec![0; 1 << 16];
        for task in 0..plan.tasks.len() {
            let path = folder::rejects_path(out, task);
            let mut part = match fs::File::open(&path) {
                Ok(part) => part,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io(path)(e)),
            };
            loop {
                let read = part.read(&mut buffer).map_err(Error::io(&path))?;
                if read == 0 {
                    break;
                }
                file.write(&buffer[..read])?;
            }
        }
        file.publish(&out.join(REJECTS_FILE))
    }

    fn run_record(&self, report: &Report, clock: &Clock) -> serde_json::Value {
        let seconds = self.started.elapsed().as_secs_f64();
        let of = |nanos: &std::sync::atomic::AtomicU64| {
            (Duration::from_nanos(nanos.load(Ordering::Relaxed)).as_secs_f64() * 1e3).round() / 1e3
        };
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        json!({
            "finished_unix": now,
            "host": host.trim(),
            "threads": self.run.threads,
            "seconds": (seconds * 1e3).round() / 1e3,
            "tasks": report.tasks,
            "tasks_resumed": report.resumed,
            "input_bytes_this_run": report.read_bytes,
            "megabytes_a_second": (report.read_bytes as f64 / 1e6 / seconds.max(1e-9) * 10.0).round() / 10.0,
            "thread_seconds": {
                "read": of(&clock.read),
                "parse": of(&clock.parse),
                "encode": of(&clock.encode),
                "write": of(&clock.write),
                "commit": of(&clock.commit),
            },
        })
    }

    /// After a failure: temporary files go, and all of ours if nothing is committed. What fails here, the next
    /// run puts right.
    fn tidy(&self, error: &Error) {
        let out = self.request.out.as_path();
        let _ = commit::remove_temporary(out, self.tag);
        if self.run.part.is_some() || matches!(error, Error::Occupied(_)) {
            return drop_if_empty(out, self.existed);
        }
        let of_stdin = || self.request.inputs.iter().any(|input| input.as_os_str() == super::input::STDIN);
        let nothing_kept = matches!(error, Error::Argument(_)) && !out.join(MANIFEST_FILE).exists();
        let committed = folder::names(&out.join(COMMITS_FOLDER)).map_or(1, |names| names.len());
        if out.join(PLAN_FILE).exists() && (committed == 0 || of_stdin() || nothing_kept) {
            let _ = folder::wipe(out);
        }
        drop_if_empty(out, self.existed);
    }
}

/// Removes a folder that holds nothing but locks, and was not there before.
fn drop_if_empty(out: &Path, existed: bool) {
    let Ok(names) = folder::names(out) else { return };
    if !existed && names.iter().all(|name| name.starts_with(LOCK_FILE)) {
        for name in names.iter().filter(|name| *name != PLAN_LOCK_FILE) {
            let _ = disk::remove(&out.join(name));
        }
        let _ = disk::remove(&out.join(PLAN_LOCK_FILE));
        let _ = fs::remove_dir(out);
    }
}

fn total(commits: &BTreeMap<usize, Commit>) -> Counts {
    let mut counts = Counts::default();
    commits.values().for_each(|commit| counts.add(&commit.counts));
    counts
}

impl Report {
    fn new(
        outcome: Outcome,
        plan: &Plan,
        commits: &BTreeMap<usize, Commit>,
        resumed: usize,
        missing: Vec<usize>,
    ) -> Self {
        let mut counts = total(commits);
        counts.bad_records += plan.unreadable.len() as u64;
        let shards = commits.values().map(|commit| commit.shards.len()).sum();
        Self {
            outcome,
            counts,
            shards,
            tasks: plan.tasks.len(),
            resumed,
            missing,
            read_bytes: 0,
            encoded_bytes: 0,
            files: plan.sources.len(),
            left_out: plan.left_out.clone(),
        }
    }
}

/// Runs some tasks of the plan in `out`, whatever else runs there, and returns what they have read and written;
/// for workers of a cluster.
///
/// # Errors
/// [`Error::Argument`] if there is no plan, it was made for another tokenizer, or by another version.
pub fn encode_tasks(
    tokenizer: &Tokenizer,
    fingerprint: &str,
    out: &Path,
    tasks: &[usize],
    threads: usize,
    skip_bad: bool,
    mut progress: impl FnMut(Progress) -> bool,
) -> Result<Progress> {
    let refuse = |reason: String| Err(Error::Argument(format!("{}: {reason}", out.display())));
    let Some(plan) = Plan::load(out)? else {
        return refuse("holds no plan; is this a shared file system, seen under the same path here?".into());
    };
    let config = Config::new(tokenizer, fingerprint.into(), plan.config.options.clone())?;
    let differences = config.differences(&plan.config);
    if !differences.is_empty() {
        return refuse(format!("the worker differs from the planner: {}", differences.join("; ")));
    }
    if let Some(task) = tasks.iter().find(|task| **task >= plan.tasks.len()) {
        return refuse(format!("task {task} of {}", plan.tasks.len()));
    }
    check_side_by_side(
        &plan.config.options,
        &Listing { sources: plan.sources.clone(), ..Listing::default() },
    )?;
    // Names of temporary files that no other process has, on whatever machine.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_alphanumeric).collect();
    let tag = format!("{host}-{}", std::process::id());
    let work = Work { tokenizer, plan: &plan, out, tag: &tag, threads, skip_bad };
    let result = run_tasks(&work, tasks, &mut Before::default(), &Clock::default(), &mut progress);
    if result.is_err() {
        let _ = commit::remove_temporary(out, &tag);
    }
    result.map(|commits| Progress::of(&commits))
}
