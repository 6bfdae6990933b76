//! Threads. The calling thread works too; helpers are started at the first parallel call. Each thread has a range
//! of the tasks, so that from call to call it finds in its caches what it left there, and helps with the others'
//! ranges when its own is done. Which thread runs a task never changes a result: tasks write disjoint outputs and
//! never share a reduction.
//!
//! A [`Session`] spans a call from outside (a fit, a prediction). Between its parallel calls helpers spin, so that
//! handing them work costs a fraction of a microsecond; when it ends they go to sleep. Waking them takes tens of
//! microseconds, so a session whose work is not worth that stays on its thread.
//!
//! A pool belongs to the process that started it. After a fork the child finds another process id,
//! leaves the parent's pool alone (its threads do not exist there) and starts its own. Nothing starts
//! at import.

#![allow(
    unsafe_code,
    reason = "a borrowed task crosses threads; a pool outlives its process"
)]

use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread;

use crate::error::{Error, Result};

/// Work (multiply-adds) of a call below which it stays on the calling thread while helpers spin.
const HOT_WORK: usize = 1 << 16;
/// The same where helpers may have to be woken, and for the rounds of a session (a training step, a prediction).
const COLD_WORK: usize = 1 << 22;
/// Ranges that tasks are divided into at most.
const RANGES: usize = 64;
/// Turns a helper spins in a session before it sleeps: about a millisecond.
const SPINS: usize = 1 << 18;

static CHOSEN: AtomicUsize = AtomicUsize::new(0);
static DETECTED: OnceLock<Result<usize>> = OnceLock::new();
static POOL: AtomicPtr<Pool> = AtomicPtr::new(std::ptr::null_mut());

/// Number of threads that a call may use: what [`set_threads`] said, else `RANVIER_NUM_THREADS`, else
/// `OMP_NUM_THREADS`, else the cores that affinity and quota leave to this process.
pub fn threads() -> Result<usize> {
    match CHOSEN.load(Ordering::Relaxed) {
        0 => DETECTED.get_or_init(detect).clone(),
        chosen => Ok(chosen),
    }
}

/// Sets the number of threads from the next call on.
pub fn set_threads(count: usize) -> Result<()> {
    if count == 0 || count > 4096 {
        return Err(Error::argument(
            "num_threads",
            "an integer from 1 to 4096",
            count,
        ));
    }
    CHOSEN.store(count, Ordering::Relaxed);
    Ok(())
}

fn detect() -> Result<usize> {
    if let Some(value) = std::env::var_os("RANVIER_NUM_THREADS") {
        return match value.to_str().map(str::trim).map(str::parse::<usize>) {
            Some(Ok(count @ 1..=4096)) => Ok(count),
            _ => Err(Error::argument(
                "RANVIER_NUM_THREADS",
                "an integer from 1 to 4096",
                value.display(),
            )),
        };
    }
    // OpenMP's variable belongs to others too: a list ("4,2") gives its first entry, junk is ignored.
    let openmp = std::env::var("OMP_NUM_THREADS").ok();
    let openmp = openmp.and_then(|value| value.split(',').next()?.trim().parse().ok());
    match openmp {
        Some(count @ 1..=4096) => Ok(count),
        _ => Ok(thread::available_parallelism().map_or(1, usize::from)),
    }
}

/// What a spinning thread does between two looks: mostly nothing. Virtual machines take a processor that executes
/// one pause instruction after the other away from its thread for microseconds.
fn pause(turn: usize) {
    if turn % 64 == 63 {
        std::hint::spin_loop();
    }
}

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// A call in progress: the task with its lifetime erased, and how far it has been claimed.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    tasks: usize,
    ranges: usize,
}

/// A counter in cache lines of its own.
#[repr(align(128))]
struct Counter(AtomicUsize);

struct Pool {
    process: u32,
    /// Held by the thread whose call is running.
    turn: Mutex<()>,
    /// The job of the running call. Written only while `open` is false and no helper that saw it open is
    /// still active.
    job: std::cell::UnsafeCell<Job>,
    open: AtomicBool,
    /// The next task of each thread's range; the caller's is the first.
    next: [Counter; RANGES],
    /// Helpers that may be looking at `job`.
    active: AtomicUsize,
    /// Helpers that take part in the running call.
    wanted: AtomicUsize,
    started: AtomicUsize,
    calls: AtomicUsize,
    /// Sessions in progress.
    sessions: AtomicUsize,
    /// Helpers that sleep or are about to.
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    wake: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only field that is not Sync; its protocol is written at the field and in `run`.
unsafe impl Sync for Pool {}
// SAFETY: as above.
unsafe impl Send for Pool {}

thread_local! {
    /// Work from which on a call of this thread is parallel.
    static THRESHOLD: Cell<usize> = const { Cell::new(COLD_WORK) };
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, calls and sessions of this thread stay on it.
pub struct Alone {
    before: bool,
    stays: PhantomData<*const ()>,
}

impl Alone {
    pub fn begin() -> Self {
        Self {
            before: ALONE.replace(true),
            stays: PhantomData,
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        ALONE.set(self.before);
    }
}

/// Number of threads that a call of so much work gets.
pub fn team(work: usize) -> usize {
    if work < THRESHOLD.get() || ALONE.get() {
        1
    } else {
        threads().unwrap_or(1)
    }
}

/// A call from outside, in which this thread will run parallel calls one after the other.
pub struct Session {
    before: usize,
    pool: Option<&'static Pool>,
    /// The threshold is this thread's.
    stays: PhantomData<*const ()>,
}

impl Session {
    /// A session whose rounds (training steps, predictions) do so much work each.
    pub fn new(work: usize) -> Self {
        let hot = work >= COLD_WORK && !ALONE.get() && threads().unwrap_or(1) > 1;
        let pool = hot.then(Pool::of_this_process);
        if let Some(pool) = pool {
            pool.sessions.fetch_add(1, Ordering::Relaxed);
        }
        let threshold = if hot { HOT_WORK } else { usize::MAX };
        Self {
            before: THRESHOLD.replace(threshold),
            pool,
            stays: PhantomData,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        THRESHOLD.set(self.before);
        if let Some(pool) = self.pool {
            pool.sessions.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Runs `task(0..tasks)`, each index once, in any order and on any thread; returns when all are done. A
/// panic of a task is raised here.
pub fn run(tasks: usize, work: usize, task: &Task<'_>) {
    let threads = if tasks < 2 { 1 } else { team(work).min(tasks) };
    if threads > 1 && Pool::of_this_process().run(threads - 1, tasks, task) {
        return;
    }
    for index in 0..tasks {
        task(index);
    }
}

impl Pool {
    fn of_this_process() -> &'static Self {
        let process = std::process::id();
        loop {
            let current = POOL.load(Ordering::Acquire);
            // SAFETY: pools are leaked, so a pointer that was stored once stays valid.
            if let Some(pool) = unsafe { current.as_ref() }
                && pool.process == process
            {
                return pool;
            }
            let fresh = Box::into_raw(Box::new(Self::new(process)));
            if POOL
                .compare_exchange(current, fresh, Ordering::AcqRel, Ordering::Acquire)
                .is_err()
            {
                // SAFETY: nobody else has seen `fresh`.
                drop(unsafe { Box::from_raw(fresh) });
            }
        }
    }

    fn new(process: u32) -> Self {
        let task: &'static Task<'static> = &|_| {};
        Self {
            process,
            turn: Mutex::new(()),
            job: std::cell::UnsafeCell::new(Job {
                task,
                tasks: 0,
                ranges: 1,
            }),
            open: AtomicBool::new(false),
            next: [const { Counter(AtomicUsize::new(0)) }; RANGES],
            active: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            wake: Condvar::new(),
            panic: Mutex::new(None),
        }
    }

    #[allow(
        clippy::transmute_ptr_to_ptr,
        reason = "a cast cannot extend a lifetime"
    )]
    /// False when the pool is serving another thread's call: then the caller works alone.
    fn run(&'static self, helpers: usize, tasks: usize, task: &Task<'_>) -> bool {
        let Ok(turn) = self.turn.try_lock() else {
            return false;
        };
        self.start(helpers);
        // SAFETY: only the lifetime changes. Helpers use the task only while `open`, and this
        // function does not return (or unwind) before `open` is false and `active` is 0.
        let erased = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        let ranges = (helpers + 1).min(RANGES);
        // SAFETY: `open` is false, and every helper that saw it open had left when the previous call
        // ended; a helper reads `job` only after it has seen `open`, which is set below.
        unsafe {
            *self.job.get() = Job {
                task: erased,
                tasks,
                ranges,
            }
        };
        for (range, next) in self.next[..ranges].iter().enumerate() {
            next.0.store(tasks * range / ranges, Ordering::Relaxed);
        }
        self.wanted.store(helpers, Ordering::Relaxed);
        self.open.store(true, Ordering::SeqCst);
        self.calls.fetch_add(1, Ordering::SeqCst);
        // Either this sees a helper that is about to sleep, or that helper sees the new call.
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| self.claim(task, tasks, 0, ranges)));
        self.open.store(false, Ordering::SeqCst);
        let mut look = 0;
        while self.active.load(Ordering::SeqCst) > 0 {
            pause(look);
            look += 1;
        }
        let helper = self
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(turn);
        if let Some(panic) = own.err().or(helper) {
            resume_unwind(panic);
        }
        true
    }

    /// Runs the tasks of range `first`, then what is left of the others.
    fn claim(&self, task: &Task<'_>, tasks: usize, first: usize, ranges: usize) {
        for turn in 0..ranges {
            let range = (first + turn) % ranges;
            let end = tasks * (range + 1) / ranges;
            let next = &self.next[range].0;
            // Looking first spares the others' cache lines.
            while next.load(Ordering::Relaxed) < end {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index < end {
                    task(index);
                }
            }
        }
    }

    /// Starts helpers up to `count`; fewer when the system refuses threads.
    fn start(&'static self, count: usize) {
        while self.started.load(Ordering::Relaxed) < count {
            let number = self.started.load(Ordering::Relaxed);
            let builder = thread::Builder::new().name(format!("ranvier-{number}"));
            if builder.spawn(move || self.help(number)).is_err() {
                return;
            }
            self.started.store(number + 1, Ordering::Relaxed);
        }
    }

    /// The life of a helper.
    fn help(&self, number: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            self.active.fetch_add(1, Ordering::SeqCst);
            if self.open.load(Ordering::SeqCst) && number < self.wanted.load(Ordering::Relaxed) {
                // SAFETY: `active` was raised before `open` was seen, and the caller waits for
                // `active` to fall to 0 after closing, so the job and its task are alive.
                let (task, job) = unsafe {
                    let job = *self.job.get();
                    (&*job.task, job)
                };
                let first = (number + 1) % job.ranges;
                let claim = AssertUnwindSafe(|| self.claim(task, job.tasks, first, job.ranges));
                if let Err(panic) = catch_unwind(claim) {
                    *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                }
            }
            self.active.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Spins during a session, then sleeps, until a call other than number `seen` has begun.
    fn wait(&self, seen: usize) -> usize {
        for turn in 0..SPINS {
            let calls = self.calls.load(Ordering::Acquire);
            if calls != seen {
                return calls;
            }
            if self.sessions.load(Ordering::Relaxed) == 0 {
                break;
            }
            pause(turn);
        }
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            let calls = self.calls.load(Ordering::SeqCst);
            if calls != seen {
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
                return calls;
            }
            bed = self.wake.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_task_runs_once_and_a_panic_comes_back() {
        set_threads(3).unwrap();
        for tasks in [1, 2, 7, 1000] {
            let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
            run(tasks, usize::MAX, &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
        let panicked = catch_unwind(|| {
            run(100, usize::MAX, &|i| assert!(i != 57, "task {i}"));
        });
        assert!(panicked.is_err());
        // The pool still serves: a panic must not leave it locked.
        assert!(Pool::of_this_process().run(2, 10, &|_| {}));
        run(10, usize::MAX, &|_| {});
        let nested = AtomicU32::new(0);
        run(4, usize::MAX, &|_| {
            run(4, usize::MAX, &|_| {
                nested.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(nested.load(Ordering::Relaxed), 16);
    }
}
