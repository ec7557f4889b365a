//! Which file a program's name means: the `PATH` search of execvp(3), step by step.
//!
//! The search itself stays libc's; this one only finds the file that the launcher is asked about, so it mirrors the
//! rules of glibc: `PATH` of the caller's own environment, `/bin:/usr/bin` without one, an empty element is the
//! current directory, a name with a slash is not searched. Pure but for the reader that is passed in.

/// Longest path tried (`PATH_MAX`, its NUL included).
pub(crate) const PATH_MAX: usize = 4096;

/// The search path without `PATH` (confstr(3), `_CS_PATH`).
pub(crate) const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Tries each place that `file` can be in, in order, until `found` takes one. `found` sees a path that ends with NUL.
pub(crate) fn search<T>(
    path: &[u8],
    file: &[u8],
    mut found: impl FnMut(&[u8]) -> Option<T>,
    room: &mut [u8; PATH_MAX],
) -> Option<T> {
    if file.is_empty() {
        return None;
    }
    if file.contains(&b'/') {
        return found(join(b"", file, room)?);
    }
    path.split(|byte| *byte == b':').find_map(|directory| found(join(directory, file, room)?))
}

/// `directory/file` and a NUL; an element too long is passed over, as libc does.
fn join<'r>(directory: &[u8], file: &[u8], room: &'r mut [u8; PATH_MAX]) -> Option<&'r [u8]> {
    let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
    let mut length = 0_usize;
    for part in [directory, slash, file, b"\0"] {
        let end = length.checked_add(part.len())?;
        for (to, from) in room.get_mut(length..end)?.iter_mut().zip(part) {
            *to = *from;
        }
        length = end;
    }
    room.get(..length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(path: &str, file: &str) -> Vec<String> {
        let mut seen = Vec::new();
        let note = |candidate: &[u8]| {
            seen.push(String::from_utf8(candidate.strip_suffix(b"\0").unwrap().to_vec()).unwrap());
            None::<()>
        };
        assert_eq!(search(path.as_bytes(), file.as_bytes(), note, &mut [0; PATH_MAX]), None);
        seen
    }

    #[test]
    fn every_element_is_tried_in_order() {
        assert_eq!(tried("/bin:/usr/bin", "ls"), ["/bin/ls", "/usr/bin/ls"]);
        assert_eq!(tried(":/bin:", "ls"), ["ls", "/bin/ls", "ls"]);
        assert_eq!(tried("", "ls"), ["ls"]);
    }

    #[test]
    fn a_name_with_a_slash_is_not_searched() {
        assert_eq!(tried("/bin", "./ls"), ["./ls"]);
        assert_eq!(tried("/bin", "/opt/x"), ["/opt/x"]);
    }

    #[test]
    fn nothing_is_found_for_no_name_or_one_too_long() {
        assert!(tried("/bin", "").is_empty());
        assert!(tried("/bin", &"x".repeat(PATH_MAX)).is_empty());
        assert_eq!(tried(&format!("/{}:/bin", "d".repeat(PATH_MAX)), "ls"), ["/bin/ls"]);
    }

    #[test]
    fn the_first_that_is_taken_ends_the_search() {
        let mut calls = 0;
        let taken = search(
            b"/a:/b:/c",
            b"x",
            |path| {
                calls += 1;
                (path == b"/b/x\0").then_some(7)
            },
            &mut [0; PATH_MAX],
        );
        assert_eq!((taken, calls), (Some(7), 2));
    }
}
