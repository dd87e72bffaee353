//! Work on a pool of threads, while the thread that asked for it watches.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use crossbeam_channel::{RecvTimeoutError, bounded};

use crate::{Error, Result};

/// How often the watching thread looks.
const TICK: Duration = Duration::from_millis(20);

/// How often a thread looks for work before it offers its core to others.
const SPINS: usize = 1_000;

/// Runs `work` on so many threads, which share what [`super::candidates::on_each`] is given there. `work` tells how many are
/// made, and ends with the error that it gets then. `watch` is told on this thread; its error stops the work and is returned.
///
/// # Errors
/// Those of both; [`Error::Argument`] where the system gives no more threads.
pub(super) fn on_pool<R: Send>(
    threads: usize,
    watch: &mut dyn FnMut(usize) -> Result<()>,
    work: impl FnOnce(&mut dyn FnMut(usize) -> Result<()>) -> Result<R> + Send,
) -> Result<R> {
    if threads <= 1 {
        return work(watch);
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|number| format!("extend-{number}"))
        .build()
        .map_err(|error| Error::Argument(format!("{threads} threads: {error}; ask for fewer").into()))?;
    let (made, stopped) = (&AtomicUsize::new(0), &AtomicBool::new(false));
    let (to_give, given) = bounded(1);
    pool.in_place_scope(|scope| {
        scope.spawn(move |_| {
            let done = awake(|| {
                work(&mut |so_far| {
                    made.store(so_far, Relaxed);
                    if stopped.load(Relaxed) { Err(Error::Stopped) } else { Ok(()) }
                })
            });
            let _ = to_give.send(done);
        });
        loop {
            match given.recv_timeout(TICK) {
                Ok(done) => return done,
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Stopped), // by a panic, which the scope passes on
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Err(error) = watch(made.load(Relaxed)) {
                stopped.store(true, Relaxed);
                return Err(error);
            }
        }
    })
}

/// Does some work while the other threads of the pool look for parts of it without a pause: waking one takes longer than
/// most parts do.
fn awake<R>(work: impl FnOnce() -> R) -> R {
    let (ended, here) = (AtomicBool::new(false), rayon::current_thread_index());
    rayon::in_place_scope(|scope| {
        scope.spawn_broadcast(|_, there| {
            if Some(there.index()) != here {
                stand_by(&ended);
            }
        });
        let _ended = SetOnDrop(&ended);
        work()
    })
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Does what there is to do until the end.
fn stand_by(ended: &AtomicBool) {
    let mut idle = 0;
    while !ended.load(Relaxed) {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            idle = 0;
        } else if idle < SPINS {
            idle += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}
