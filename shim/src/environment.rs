//! The environment that a program's child gets: the caller's own, with the shim in it.
//!
//! A program may start another with an environment it made up (`env -i`, a supervisor, a test runner). The child
//! would then run without the shim, on the real network. Every start goes through here: an environment that is right
//! is passed as it is; otherwise a new array of pointers is made, in which only `LD_PRELOAD` is new text.
//!
//! Invariants: no heap, and nothing but the caller's own memory is written, as the caller may be a vfork child that
//! shares its parent's. A user's own `LD_PRELOAD` entries stay, after ours.

use crate::config::{self, Config};
use crate::sys::Pages;
use core::ffi::{CStr, c_char};
use core::mem::MaybeUninit;
use tp_abi::env;

/// Pointers that fit the stack, which may be the 8 kB of a signal handler; a larger environment gets pages of its own.
const POINTERS_MAX: usize = 256;
/// Bytes of `LD_PRELOAD` that fit the stack.
const PRELOAD_MAX: usize = 512;

/// libc's `environ`, as it is now.
pub(crate) fn current() -> *const *const c_char {
    unsafe extern "C" {
        /// environ(7).
        static environ: *const *const c_char;
    }
    // SAFETY: libc defines it in every process. A program that changes it in another thread meanwhile breaks its own
    // getenv as well.
    unsafe { environ }
}

/// The strings of an environment.
///
/// # Safety
/// `environment` must be null or an array of strings that ends with null, and stay so for `'a`.
pub(crate) unsafe fn strings<'a>(environment: *const *const c_char) -> impl Iterator<Item = &'a [u8]> {
    // SAFETY: the caller's promise; each is a string that ends with NUL.
    unsafe { pointers(environment) }.map(|text| unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// The pointers of an environment, or of arguments, up to the null.
///
/// # Safety
/// As for [`strings`].
unsafe fn pointers(array: *const *const c_char) -> impl Iterator<Item = *const c_char> {
    let mut at = array;
    core::iter::from_fn(move || {
        if at.is_null() {
            return None;
        }
        // SAFETY: `at` has not passed the null that ends the array.
        let text = unsafe { *at };
        if text.is_null() {
            return None;
        }
        // SAFETY: there is at least the null after an element.
        at = unsafe { at.add(1) };
        Some(text)
    })
}

/// The value of the first `name` in an environment.
pub(crate) fn value<'a>(mut strings: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    strings.find_map(|text| text.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// What an environment lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need<'a> {
    /// Strings that stay as they are.
    kept: usize,
    /// `LD_PRELOAD` as the caller has it; empty where it has none.
    preload: &'a [u8],
    /// [`env::PROGRAM`] and its value, where the child needs it.
    program: Option<&'a CStr>,
}

/// Looks an environment through; [`None`] if it is right already.
fn survey<'a>(
    config: &Config,
    strings: impl Iterator<Item = &'a [u8]>,
    program: Option<&'a CStr>,
) -> Option<Need<'a>> {
    let shim = config.shim.value();
    let mut need = Need { kept: 0, preload: &[], program };
    let mut preloads = 0_usize;
    let mut right = 0_usize;
    let mut wrong = false;
    for text in strings {
        if let Some(carried) = carried(config, text) {
            right = right.saturating_add(usize::from(carried));
            wrong |= !carried;
        } else if let Some(preload) = value(core::iter::once(text), env::LD_PRELOAD) {
            need.preload = preload;
            preloads = preloads.saturating_add(1);
        } else {
            need.kept = need.kept.saturating_add(1);
        }
    }
    // Without TP_SHIM there is nothing that could be put back.
    let loaded = shim.is_none_or(|shim| preloads == 1 && lists(need.preload, shim));
    (wrong || right != ours(config).count() || !loaded || program.is_some()).then_some(need)
}

/// [`env::CONNECTED`] as a child gets it.
const CONNECTED: &CStr = c"TP_CONNECTED=1";

/// The strings that a child must have, `LD_PRELOAD` aside.
fn ours(config: &Config) -> impl Iterator<Item = &[u8]> {
    let connected = config::may_have_connected().then_some(CONNECTED.to_bytes());
    let proxy = config.proxy.text();
    [config.socket.text(), config.gate.text(), proxy, config.shim.text(), connected, config.debug.text()]
        .into_iter()
        .flatten()
}

/// Is `text` one of the launcher's variables, and if so, with the value it must have?
fn carried(config: &Config, text: &[u8]) -> Option<bool> {
    let name = text.split(|byte| *byte == b'=').next()?;
    let is_ours = env::CARRIED.iter().any(|ours| ours.as_bytes() == name);
    is_ours.then(|| ours(config).any(|ours| ours == text))
}

/// Does `LD_PRELOAD` list the object? Its separators are colons and spaces (ld.so(8)).
fn lists(preload: &[u8], object: &[u8]) -> bool {
    preload.split(|byte| matches!(byte, b':' | b' ')).any(|entry| entry == object)
}

/// Writes `LD_PRELOAD=shim:rest` and a NUL.
fn write_preload(room: &mut [MaybeUninit<u8>], config: &Config, rest: &[u8]) -> Option<()> {
    let base = config.preload.text()?;
    let shim = config.shim.value()?;
    let separator: &[u8] = if rest.is_empty() || lists(rest, shim) { b"" } else { b":" };
    let parts = if lists(rest, shim) {
        [env::LD_PRELOAD.as_bytes(), b"=", rest, b"\0"]
    } else {
        [base, separator, rest, b"\0"]
    };
    let mut at = 0_usize;
    for part in parts {
        let end = at.checked_add(part.len())?;
        for (to, from) in room.get_mut(at..end)?.iter_mut().zip(part) {
            to.write(*from);
        }
        at = end;
    }
    Some(())
}

/// Runs `start` with the environment that a child must get: `given`, if that is right already, with `program`, which is
/// [`env::PROGRAM`] and its value. `changed` says whether it is another one.
///
/// # Safety
/// `given` must be null or an array of strings that ends with null.
pub(crate) unsafe fn with<T>(
    config: &Config,
    given: *const *const c_char,
    program: Option<&CStr>,
    start: impl FnOnce(*const *const c_char, bool) -> T,
) -> T {
    // SAFETY: the caller's promise.
    let Some(need) = survey(config, unsafe { strings(given) }, program) else { return start(given, false) };
    // The kept strings, the launcher's, LD_PRELOAD, the program and the null.
    let pointers_needed = need.kept.saturating_add(env::CARRIED.len()).saturating_add(3);
    let preload_needed = need.preload.len().saturating_add(config.preload.text().map_or(0, <[u8]>::len));
    let preload_needed = preload_needed.saturating_add(2);
    // SAFETY: the caller's promise.
    unsafe {
        if pointers_needed <= POINTERS_MAX && preload_needed <= PRELOAD_MAX {
            with_stack(config, given, need, start)
        } else {
            with_pages(config, given, need, (pointers_needed, preload_needed), start)
        }
    }
}

/// [`with`] for an environment that fits the stack. Never inlined: one that is right costs no stack.
///
/// # Safety
/// As for [`with`].
#[inline(never)]
unsafe fn with_stack<T>(
    config: &Config,
    given: *const *const c_char,
    need: Need<'_>,
    start: impl FnOnce(*const *const c_char, bool) -> T,
) -> T {
    let mut array = [MaybeUninit::uninit(); POINTERS_MAX];
    let mut preload = [MaybeUninit::uninit(); PRELOAD_MAX];
    // SAFETY: the caller's promise.
    match unsafe { build(config, given, need, &mut array, &mut preload) } {
        Some(()) => start(array.as_ptr().cast::<*const c_char>(), true),
        None => start(given, false),
    }
}

/// Makes the program's own `environ` one that a child can inherit, if it is not: `put` gets each of the launcher's
/// variables as `NAME=value`, and `set_preload` the value of `LD_PRELOAD`, which lives for the call only.
pub(crate) fn put_back(
    config: &'static Config,
    put: impl FnMut(*const c_char),
    set_preload: impl FnOnce(*const c_char),
) {
    // SAFETY: `environ` is libc's own: null, or strings up to a null.
    unsafe { put_into(config, current(), put, set_preload) }
}

/// [`put_back`] for any environment.
///
/// # Safety
/// As for [`with`].
unsafe fn put_into(
    config: &'static Config,
    given: *const *const c_char,
    mut put: impl FnMut(*const c_char),
    set_preload: impl FnOnce(*const c_char),
) {
    let put_all = |merged, changed: bool| {
        if !changed {
            return;
        }
        ours(config).for_each(|text| put(text.as_ptr().cast()));
        // SAFETY: the array ends with null and its strings with NUL.
        let preload = unsafe { pointers(merged) }.find_map(|text| {
            // SAFETY: as above.
            let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
            value(core::iter::once(bytes), env::LD_PRELOAD).map(<[u8]>::as_ptr)
        });
        if let Some(preload) = preload {
            set_preload(preload.cast());
        }
    };
    // SAFETY: the caller's promise.
    unsafe { with(config, given, None, put_all) }
}

/// [`with`] for an environment too large for the stack.
///
/// # Safety
/// As for [`with`].
unsafe fn with_pages<T>(
    config: &Config,
    given: *const *const c_char,
    need: Need<'_>,
    (pointers, text): (usize, usize),
    start: impl FnOnce(*const *const c_char, bool) -> T,
) -> T {
    let array_bytes = pointers.saturating_mul(size_of::<*const c_char>());
    let Ok(pages) = Pages::new(array_bytes.saturating_add(text)) else { return start(given, false) };
    // SAFETY: the pages are ours, aligned, and hold `pointers` pointers and `text` bytes after them.
    let (array, preload) = unsafe {
        let array = pages.start().cast::<MaybeUninit<*const c_char>>();
        (
            core::slice::from_raw_parts_mut(array, pointers),
            core::slice::from_raw_parts_mut(array.add(pointers).cast::<MaybeUninit<u8>>(), text),
        )
    };
    // SAFETY: the caller's promise.
    match unsafe { build(config, given, need, array, preload) } {
        Some(()) => start(array.as_ptr().cast::<*const c_char>(), true),
        None => start(given, false),
    }
}

/// Fills `array` with the child's environment.
///
/// # Safety
/// As for [`with`].
unsafe fn build(
    config: &Config,
    given: *const *const c_char,
    need: Need<'_>,
    array: &mut [MaybeUninit<*const c_char>],
    preload: &mut [MaybeUninit<u8>],
) -> Option<()> {
    let has_preload = write_preload(preload, config, need.preload).is_some();
    let preload = preload.as_ptr().cast::<c_char>();
    // SAFETY: the caller's promise.
    let kept = unsafe { pointers(given) }.filter(|text| {
        // SAFETY: the caller's promise: a string that ends with NUL.
        let text = unsafe { CStr::from_ptr(*text) }.to_bytes();
        carried(config, text).is_none()
            && (!has_preload || value(core::iter::once(text), env::LD_PRELOAD).is_none())
            && (need.program.is_none() || value(core::iter::once(text), env::PROGRAM).is_none())
    });
    // Each of these is followed by its NUL in its entry.
    let ours = ours(config).map(|text| text.as_ptr().cast::<c_char>());
    let program = need.program.map(CStr::as_ptr);
    let added = ours.chain(has_preload.then_some(preload)).chain(program);
    let all = added.chain(kept).chain([core::ptr::null()]);
    let mut places = array.iter_mut();
    for text in all {
        places.next()?.write(text);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    const SOCKET: &str = "TP_SOCKET=/run/s";
    const GATE: &str = "TP_GATE=1,2";
    const SHIM: &str = "TP_SHIM=/lib/shim.so";
    const PRELOAD: &str = "LD_PRELOAD=/lib/shim.so";

    fn child_of(given: &[&str]) -> (Vec<String>, bool) {
        let config = Config::of(&[SOCKET, GATE, SHIM]);
        let owned: Vec<CString> = given.iter().map(|text| CString::new(*text).unwrap()).collect();
        let mut array: Vec<*const c_char> = owned.iter().map(|text| text.as_ptr()).collect();
        array.push(core::ptr::null());
        // SAFETY: `array` ends with null and its strings live.
        unsafe {
            with(&config, array.as_ptr(), None, |environment, changed| {
                assert_eq!(changed, environment != array.as_ptr());
                let text = strings(environment).map(|text| String::from_utf8(text.to_vec()).unwrap());
                (text.collect(), changed)
            })
        }
    }

    #[test]
    fn an_environment_that_is_right_is_not_touched() {
        for preload in [PRELOAD, "LD_PRELOAD=/x.so:/lib/shim.so", "LD_PRELOAD=/x.so /lib/shim.so"] {
            assert!(!child_of(&["A=1", SOCKET, preload, GATE, SHIM]).1, "{preload}");
        }
    }

    #[test]
    fn an_emptied_environment_gets_everything() {
        assert_eq!(child_of(&[]), ([SOCKET, GATE, SHIM, PRELOAD].map(String::from).to_vec(), true));
    }

    #[test]
    fn no_environment_at_all_gets_everything() {
        let config = Config::of(&[SOCKET, GATE, SHIM]);
        // SAFETY: null is allowed.
        let count =
            unsafe { with(&config, core::ptr::null(), None, |environment, _| strings(environment).count()) };
        assert_eq!(count, 4);
    }

    #[test]
    fn the_users_own_preloads_and_variables_stay() {
        let (child, _) = child_of(&["A=1", "LD_PRELOAD=/user.so", "TP_SOCKET=/other", "B", "TP_GATE=9,9"]);
        let preload = "LD_PRELOAD=/lib/shim.so:/user.so";
        assert_eq!(child, [SOCKET, GATE, SHIM, preload, "A=1", "B"]);
    }

    #[test]
    fn what_an_environment_lacks_is_put_back_with_the_users_own_preload() {
        let config: &'static Config = Box::leak(Box::new(Config::of(&[SOCKET, GATE, SHIM])));
        // SAFETY: both callbacks get strings that end with NUL.
        let text = |at: *const c_char| unsafe { CStr::from_ptr(at) }.to_str().unwrap().to_owned();
        for (given, expected) in [
            (vec![], vec![SOCKET, GATE, SHIM, "/lib/shim.so"]),
            (vec![c"LD_PRELOAD=/user.so".as_ptr()], vec![SOCKET, GATE, SHIM, "/lib/shim.so:/user.so"]),
            ([SOCKET, GATE, SHIM, PRELOAD].map(leaked).to_vec(), vec![]),
        ] {
            let mut array = given;
            array.push(core::ptr::null());
            let seen = core::cell::RefCell::new(Vec::new());
            let see = |at| seen.borrow_mut().push(text(at));
            // SAFETY: `array` ends with null and its strings live.
            unsafe { put_into(config, array.as_ptr(), see, see) };
            assert_eq!(seen.into_inner(), expected);
        }
    }

    fn leaked(text: &str) -> *const c_char {
        CString::new(text).unwrap().into_raw()
    }

    #[test]
    fn of_two_preloads_the_last_counts_as_for_the_loader() {
        let (child, _) = child_of(&["LD_PRELOAD=/a.so", SOCKET, GATE, SHIM, "LD_PRELOAD=/b.so:/lib/shim.so"]);
        assert_eq!(child, [SOCKET, GATE, SHIM, "LD_PRELOAD=/b.so:/lib/shim.so"]);
    }

    #[test]
    fn a_large_environment_and_a_long_preload_do_too() {
        let many: Vec<String> = (0..3000).map(|number| format!("V{number}=x")).collect();
        let (child, changed) = child_of(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(changed);
        assert_eq!(&child[4..], many);
        let long = format!("LD_PRELOAD=/{}", "x".repeat(5000));
        let (child, _) = child_of(&[&long]);
        assert_eq!(child[3], long.replace('=', "=/lib/shim.so:"));
    }
}
