//! getaddrinfo_a(3): lookups that go on while the program does something else.
//!
//! libc's own calls its internal getaddrinfo, past every hook. Here each call with something to look up gets a few threads
//! (pthread_create, as in libc) that last as long as it does; nothing exists before the first call. gai_error() only reads
//! the request, where the result stands as libc has it, and stays libc's. A request is taken up as it comes, so
//! gai_cancel() never finds one that waits.
//!
//! Invariants: a request is not touched after its result is in it, since the program may free it then; helping threads take
//! no signals of the program's; without memory or threads the lookups are done before the call returns.

use super::addrinfo::getaddrinfo;
use super::set_errno;
use crate::sys::{self, Signals};
use crate::{config, real};
use core::ffi::{c_char, c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use libc::{addrinfo, sigval, timespec};

/// netdb.h; the libc crate has none of these.
const WAIT: c_int = 0;
const NOWAIT: c_int = 1;
const IN_PROGRESS: c_int = -100;
const NOT_CANCELED: c_int = -102;
const ALL_DONE: c_int = -103;
const INTERRUPTED: c_int = -104;
/// signal.h: the `si_code` of a finished getaddrinfo_a().
const SI_ASYNCNL: c_int = -60;
/// Threads of one call at the most.
const THREADS: usize = 16;

/// `struct gaicb`.
#[repr(C)]
pub(crate) struct Request {
    name: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    result: *mut addrinfo,
    outcome: AtomicI32,
    reserved: [c_int; 5],
}

/// `struct sigevent` of sigevent(7), with `SIGEV_THREAD`'s part of its union.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Event {
    value: sigval,
    signal: c_int,
    notify: c_int,
    function: Option<unsafe extern "C" fn(sigval)>,
    attributes: *const c_void,
}

const NO_EVENT: Event = Event {
    value: sigval { sival_ptr: ptr::null_mut() },
    signal: 0,
    notify: libc::SIGEV_NONE,
    function: None,
    attributes: ptr::null(),
};

/// Counts requests that are done; who waits for one sleeps on it (futex(2)).
static DONE: AtomicU32 = AtomicU32::new(0);

/// One call: in memory of libc's, with its requests behind it.
#[repr(C)]
struct Batch {
    /// The next request to take.
    next: AtomicUsize,
    /// Requests without a result.
    open: AtomicUsize,
    /// Who holds a pointer to this.
    holders: AtomicUsize,
    count: usize,
    event: Event,
}

/// A pointer to a batch, counted.
struct Held(NonNull<Batch>);

impl Drop for Held {
    fn drop(&mut self) {
        if self.holders.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: malloc's, and this was the last pointer to it.
            unsafe { libc::free(self.0.as_ptr().cast()) }
        }
    }
}

impl core::ops::Deref for Held {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        // SAFETY: it is freed with its last holder; all that changes in it is atomic.
        unsafe { self.0.as_ref() }
    }
}

impl Held {
    /// A batch of the requests in `list` that are there; [`None`] if there is no memory.
    ///
    /// # Safety
    /// `list` must have `count` pointers, each null or a request.
    unsafe fn new(list: *const *mut Request, count: usize, event: Event) -> Option<Self> {
        let size = count.checked_mul(size_of::<*mut Request>())?.checked_add(size_of::<Batch>())?;
        // SAFETY: malloc takes a size.
        let batch = NonNull::new(unsafe { libc::malloc(size) }.cast::<Batch>())?;
        let mut used = 0_usize;
        for place in 0..count {
            // SAFETY: the caller's promise about `list`; there is room for `count` pointers behind the batch.
            unsafe {
                if let Some(request) = list.add(place).read().as_ref() {
                    request.outcome.store(IN_PROGRESS, Ordering::Release);
                    batch.add(1).cast::<*const Request>().add(used).write(request);
                    used = used.saturating_add(1);
                }
            }
        }
        let whole = Batch {
            next: AtomicUsize::new(0),
            open: AtomicUsize::new(used),
            holders: AtomicUsize::new(1),
            count: used,
            event,
        };
        // SAFETY: just allocated.
        unsafe { batch.write(whole) }
        Some(Self(batch))
    }

    fn again(&self) -> Self {
        self.holders.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }

    /// Takes requests until there are no more, and tells the program when the last one is done.
    fn work(&self) {
        loop {
            let place = self.next.fetch_add(1, Ordering::Relaxed);
            if place >= self.count {
                return;
            }
            // SAFETY: `count` pointers stand behind the batch, and this one is taken by nobody else.
            unsafe { look_up(self.0.add(1).cast::<*mut Request>().add(place).read()) }
            if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
                tell(&self.event);
            }
            DONE.fetch_add(1, Ordering::Release);
            sys::wake_all(&DONE);
        }
    }

    /// Waits until all its requests are done.
    fn wait(&self) {
        loop {
            let seen = DONE.load(Ordering::Acquire);
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
            let _ = sys::wait(&DONE, seen, None);
        }
    }

    /// Starts up to so many threads that work on it.
    fn share(&self, threads: usize) {
        for _ in 0..threads {
            let theirs = self.again();
            if start(ptr::null(), working, theirs.0.as_ptr().cast()) {
                core::mem::forget(theirs);
            }
        }
    }
}

extern "C" fn working(batch: *mut c_void) -> *mut c_void {
    if let Some(batch) = NonNull::new(batch.cast()) {
        Held(batch).work();
    }
    ptr::null_mut()
}

/// # Safety
/// `request` must be one that the program has handed over.
unsafe fn look_up(request: *mut Request) {
    // SAFETY: the caller's promise; after the store it is the program's again.
    unsafe {
        let mut found = ptr::null_mut();
        let outcome = getaddrinfo((*request).name, (*request).service, (*request).hints, &raw mut found);
        (*request).result = found;
        (*request).outcome.store(outcome, Ordering::Release);
    }
}

/// Starts a thread that nobody waits for and that takes no signals.
fn start(
    attributes: *const c_void,
    run: extern "C" fn(*mut c_void) -> *mut c_void,
    with: *mut c_void,
) -> bool {
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    let _blocked = Signals::block();
    // SAFETY: `run` takes what `with` is; the thread's name is read only if there is a thread.
    unsafe {
        let started = real::pthread_create(thread.as_mut_ptr(), attributes, run, with) == 0;
        if started && attributes.is_null() {
            real::pthread_detach(thread.assume_init());
        }
        started
    }
}

/// Does what sigevent(7) says.
fn tell(event: &Event) {
    match event.notify {
        libc::SIGEV_SIGNAL => {
            sys::queue_signal(event.signal, SI_ASYNCNL, event.value.sival_ptr);
        }
        libc::SIGEV_THREAD => {
            // SAFETY: malloc takes a size.
            let copy = unsafe { libc::malloc(size_of::<Event>()) }.cast::<Event>();
            if copy.is_null() {
                return;
            }
            // SAFETY: just allocated; freed by whoever has it at the end.
            unsafe {
                copy.write(*event);
                if !start(event.attributes, telling, copy.cast()) {
                    libc::free(copy.cast());
                }
            }
        }
        _ => {}
    }
}

extern "C" fn telling(event: *mut c_void) -> *mut c_void {
    // SAFETY: `tell` allocated it for this thread alone; the function is the program's.
    unsafe {
        let copy = event.cast::<Event>().read();
        libc::free(event);
        if let Some(function) = copy.function {
            function(copy.value);
        }
    }
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getaddrinfo_a(
    mode: c_int,
    list: *const *mut Request,
    count: c_int,
    event: *const Event,
) -> c_int {
    if config::get().is_none() {
        // SAFETY: the caller's promise, that of getaddrinfo_a(3).
        return unsafe { real::getaddrinfo_a(mode, list, count, event) };
    }
    if mode != WAIT && mode != NOWAIT {
        set_errno(libc::EINVAL);
        return libc::EAI_SYSTEM;
    }
    // SAFETY: the caller's promise: null or readable.
    let event = unsafe { event.as_ref() }.filter(|_| mode == NOWAIT).copied().unwrap_or(NO_EVENT);
    // SAFETY: the caller's promise.
    let Some(batch) = (unsafe { Held::new(list, usize::try_from(count).unwrap_or(0), event) }) else {
        return libc::EAI_MEMORY;
    };
    if batch.count == 0 {
        tell(&batch.event);
        return 0;
    }
    let here = usize::from(mode == WAIT);
    batch.share(batch.count.min(THREADS).saturating_sub(here));
    // Alone, or where there is no other thread.
    if mode == WAIT || batch.holders.load(Ordering::Acquire) == 1 && batch.next.load(Ordering::Acquire) == 0 {
        batch.work();
    }
    if mode == WAIT {
        batch.wait();
    }
    0
}

/// Waits until one of the requests is done (gai_suspend(3)).
#[unsafe(no_mangle)]
unsafe extern "C" fn gai_suspend(
    list: *const *const Request,
    count: c_int,
    patience: *const timespec,
) -> c_int {
    if config::get().is_none() {
        // SAFETY: the caller's promise, that of gai_suspend(3).
        return unsafe { real::gai_suspend(list, count, patience) };
    }
    // SAFETY: the caller's promise: null or readable.
    let deadline = unsafe { patience.as_ref() }.map(sys::deadline);
    let mut first = true;
    loop {
        let seen = DONE.load(Ordering::Acquire);
        let (mut waiting, mut done) = (false, false);
        for place in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: the caller's promise: `count` pointers, each null or a request.
            if let Some(request) = unsafe { list.add(place).read().as_ref() } {
                let open = request.outcome.load(Ordering::Acquire) == IN_PROGRESS;
                waiting |= open;
                done |= !open;
            }
        }
        match (waiting, done) {
            (false, _) if first => return ALL_DONE,
            (_, true) => return 0,
            _ => first = false,
        }
        match sys::wait(&DONE, seen, deadline.as_ref()) {
            // EAGAIN: something was done meanwhile.
            Ok(()) | Err(sys::Errno(libc::EAGAIN)) => {}
            Err(sys::Errno(libc::ETIMEDOUT)) => return libc::EAI_AGAIN,
            Err(sys::Errno(libc::EINTR)) => return INTERRUPTED,
            Err(sys::Errno(errno)) => {
                set_errno(errno);
                return libc::EAI_SYSTEM;
            }
        }
    }
}

/// Says whether a request is done: one that is not is being looked up (gai_cancel(3)).
#[unsafe(no_mangle)]
unsafe extern "C" fn gai_cancel(request: *mut Request) -> c_int {
    if config::get().is_none() {
        // SAFETY: the caller's promise, that of gai_cancel(3).
        return unsafe { real::gai_cancel(request) };
    }
    // SAFETY: the caller's promise.
    match unsafe { (*request).outcome.load(Ordering::Acquire) } {
        IN_PROGRESS => NOT_CANCELED,
        _ => ALL_DONE,
    }
}
