//! The resolver functions below getaddrinfo (resolver(3)): raw DNS messages to the nameservers of `_res`.
//!
//! libc does all of it, the search list, EDNS, retries and the way to TCP; but it sends from inside, where no hook sees it.
//! So `_res` gets the pod's settings where libc has read the laptop's, and while libc asks, each nameserver is replaced
//! by a loopback address of the launcher that speaks for it. A nameserver that the program chose is treated alike.
//!
//! Invariants: without the pod's settings nothing is asked (`TRY_AGAIN`); the program sees real nameservers, never the
//! stand-ins; errno is kept on success.

use super::{errno, fail, set_errno, set_h_errno};
use crate::ask::ask;
use crate::config::{self, Config};
use crate::note::note;
use crate::real;
use crate::resolver::{NAMESERVERS, State};
use core::ffi::{c_char, c_int, c_ulong};
use tp_abi::errno::{LAUNCHER_GONE, host};
use tp_abi::wire::{Answer, Ip, Question};

/// Room for the pod's settings: 3 nameservers and 256 bytes of domains.
type Settings = [u8; 512];

/// Gives a state the pod's settings; `kept` are options that stay. [`None`] if nobody tells what they are.
fn settle(config: &Config, state: &mut State, kept: c_ulong) -> Option<()> {
    let mut room: Settings = [0; _];
    let Ok(Answer::Resolver(resolver)) = ask(config, &Question::Resolver, None, &mut room) else {
        note(config, |line| line.text(b"resolver: no settings"));
        return None;
    };
    state.fill(&resolver, kept)
}

/// Makes sure that a state has the pod's settings, or what the program made of them.
///
/// # Safety
/// `state` must be as resolver(3) has it.
unsafe fn prepare(config: &Config, state: *mut State) -> Option<()> {
    // SAFETY: the caller's promise.
    unsafe {
        if !(*state).is_ready() && real::__res_ninit(state) != 0 {
            return None;
        }
        if (*state).is_pods() { Some(()) } else { settle(config, &mut *state, 0) }
    }
}

/// Calls a resolver function with stand-ins for the nameservers of `state`.
///
/// # Safety
/// `state` must be as resolver(3) has it.
unsafe fn by_stand_ins(config: &Config, state: *mut State, call: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: the caller's promise; no reference is kept over the call.
    unsafe {
        if state.is_null() || prepare(config, state).is_none() {
            return refuse(state);
        }
        let aside = (*state).set_aside();
        for place in 0..NAMESERVERS {
            let Some(address) = (*state).nameserver(place) else { continue };
            let mut room = [0; 64];
            match ask(config, &Question::Nameserver { address }, None, &mut room) {
                Ok(Answer::Nameserver(here)) if matches!(here.ip, Ip::V4(_)) => (*state).ask_at(place, here),
                Ok(Answer::Pass) => {}
                _ => {
                    (*state).put_back(&aside);
                    return refuse(state);
                }
            }
        }
        let result = call();
        (*state).put_back(&aside);
        result
    }
}

/// # Safety
/// `state` must be null or as resolver(3) has it.
unsafe fn refuse(state: *mut State) -> c_int {
    // SAFETY: the caller's promise.
    if let Some(state) = unsafe { state.as_mut() } {
        state.set_h_errno(host::TRY_AGAIN);
    }
    set_h_errno(host::TRY_AGAIN);
    fail(LAUNCHER_GONE)
}

/// The thread's state, which `_res` stands for.
fn own() -> *mut State {
    // SAFETY: it takes nothing and gives a valid place for as long as the thread lives.
    unsafe { real::__res_state() }
}

macro_rules! by_stand_ins {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) of $state:expr;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) -> c_int {
                // SAFETY: the caller's promise, that of the function of that name.
                let original = || unsafe { real::$name($($arg),*) };
                let Some(config) = config::get() else { return original() };
                // SAFETY: the caller's promise, or the thread's own state.
                unsafe { by_stand_ins(config, $state, original) }
            }
        )*
    };
}

by_stand_ins! {
    fn res_query(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) of own();
    fn __res_query(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) of own();
    fn res_nquery(state: *mut State, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) of state;
    fn __res_nquery(state: *mut State, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) of state;
    fn res_search(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) of own();
    fn __res_search(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) of own();
    fn res_nsearch(state: *mut State, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) of state;
    fn __res_nsearch(state: *mut State, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) of state;
    fn res_querydomain(name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) of own();
    fn __res_querydomain(name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) of own();
    fn res_nquerydomain(state: *mut State, name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) of state;
    fn __res_nquerydomain(state: *mut State, name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) of state;
    fn res_send(question: *const u8, length: c_int, answer: *mut u8, size: c_int) of own();
    fn __res_send(question: *const u8, length: c_int, answer: *mut u8, size: c_int) of own();
    fn res_nsend(state: *mut State, question: *const u8, length: c_int, answer: *mut u8, size: c_int) of state;
    fn __res_nsend(state: *mut State, question: *const u8, length: c_int, answer: *mut u8, size: c_int) of state;
}

/// What programs spell `_res`: they see the pod's settings as soon as there are any.
#[unsafe(no_mangle)]
unsafe extern "C" fn __res_state() -> *mut State {
    let state = own();
    // SAFETY: as `own` says.
    let known = unsafe { state.as_mut() };
    if let (Some(config), Some(known)) = (config::get(), known)
        && known.is_ready()
        && !known.is_pods()
    {
        let before = errno();
        // Whoever asks without settings fails then.
        let _ = settle(config, known, 0);
        set_errno(before);
    }
    state
}

/// What programs spell `res_init`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __res_init() -> c_int {
    let state = own();
    // Options that the program set are to outlive this (resolver(3)).
    // SAFETY: as `own` says.
    let kept = unsafe { state.as_ref() }.filter(|state| state.is_pods()).map_or(0, State::file_options);
    // SAFETY: the caller's promise; the state is the thread's own.
    unsafe { settled(real::__res_init(), state, kept) }
}

/// What programs spell `res_ninit`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __res_ninit(state: *mut State) -> c_int {
    // SAFETY: the caller's promise, that of res_ninit(3).
    unsafe { settled(real::__res_ninit(state), state, 0) }
}

/// # Safety
/// `state` must be as resolver(3) has it.
unsafe fn settled(result: c_int, state: *mut State, kept: c_ulong) -> c_int {
    let before = errno();
    // SAFETY: the caller's promise.
    if let (0, Some(config), Some(state)) = (result, config::get(), unsafe { state.as_mut() }) {
        // Whoever asks without settings fails then.
        let _ = settle(config, state, kept);
        set_errno(before);
    }
    result
}
