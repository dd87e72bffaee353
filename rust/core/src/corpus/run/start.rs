//! A run from its arguments to the manifest: make or resume a plan, run the missing tasks, write the
//! manifest.

use std::{collections::BTreeMap, fs, path::Path, time::Instant};

use super::{
    decide::{Decision, check_rejects, decide},
    inputs::{Inputs, check_request, list_inputs},
    pipeline::run_tasks,
    progress::{Clock, Progress},
    request::{Outcome, Report, Request, RunOptions, total},
    seal::Seal,
    tasks::{cut_tasks, new_plan},
    work::Work,
    write::History,
};
use crate::{
    Error, Result, Tokenizer,
    corpus::{
        source::STDIN,
        store::{
            commit,
            config::Config,
            disk,
            folder::{self, COMMITS_FOLDER, LOCK_FILE, MANIFEST_FILE, PLAN_FILE, PLAN_LOCK_FILE},
            lock::Lock,
            manifest::Manifest,
            plan::Plan,
            records::Commit,
        },
    },
};

/// Encodes a corpus, or resumes it.
///
/// `progress` gets the state of the whole corpus and the bytes of all inputs; returning false stops the run.
/// A run that stops early leaves its committed tasks for the next one; without any, it leaves nothing.
///
/// # Errors
/// [`Error::Occupied`] if the folder contains something else, or inputs, tokenizer or options differ from
/// those it was planned with (the message says which); [`Error::Argument`] if no document is kept; otherwise
/// as [`run_tasks`].
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
        // After the plan: a folder that contains anything but no plan is not recognised as Zhuzi's.
        disk::create_folder(&out.join(COMMITS_FOLDER))?;
        let mut commits = commit::load_all(out, &plan)?;
        check_rejects(out, self.run, &commits)?;
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
        let mut before = History::default();
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
            let Self { run, tag, started, .. } = *self;
            Seal { out, tag, threads: run.threads, started }.write(&plan, commits, &report, &clock)?;
        }
        Ok(report)
    }

    /// The plan to follow, written if it is new.
    fn make_plan(&self, config: Config, inputs: Inputs) -> Result<Plan> {
        let out = self.request.out.as_path();
        match decide(self.request, self.run, &config, &inputs)? {
            Decision::Resume(plan) => Ok(plan),
            Decision::Append(mut plan) => {
                if let Some(first) = plan.append(inputs.listing) {
                    let tasks = cut_tasks(&plan.sources, first, &plan.config.options)?;
                    plan.tasks.extend(tasks);
                    plan.save(out, self.tag)?;
                }
                Ok(plan)
            }
            Decision::Begin => {
                let plan = new_plan(config, inputs.listing)?;
                if self.run.overwrite {
                    folder::wipe(out)?;
                }
                let place = out.canonicalize().map_err(Error::io(out))?;
                disk::sync_folder(place.parent().unwrap_or(Path::new("/")))?;
                plan.save(out, self.tag)?;
                Ok(plan)
            }
        }
    }

    /// After a failure, removes temporary files, and everything if nothing is committed. What cannot be
    /// removed here, the next run removes.
    fn tidy(&self, error: &Error) {
        let out = self.request.out.as_path();
        let _ = commit::remove_temporary(out, self.tag);
        if self.run.part.is_some() || matches!(error, Error::Occupied(_)) {
            return drop_if_empty(out, self.existed);
        }
        let of_stdin = || self.request.inputs.iter().any(|input| input.as_os_str() == STDIN);
        let nothing_kept = matches!(error, Error::Argument(_)) && !out.join(MANIFEST_FILE).exists();
        let committed = folder::names(&out.join(COMMITS_FOLDER)).map_or(1, |names| names.len());
        if out.join(PLAN_FILE).exists() && (committed == 0 || of_stdin() || nothing_kept) {
            let _ = folder::wipe(out);
        }
        drop_if_empty(out, self.existed);
    }
}

/// Removes a folder that contains only locks and did not exist before.
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
