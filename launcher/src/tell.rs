//! What the user is told while a command runs, on its own standard error, which is not tp's alone: one line each, and said
//! to be tp's.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Tells the user something that is no failure of tp's.
pub fn tell(what: impl Display) {
    // Standard error may be a pipe that nobody reads any more (`2>&1 | head`), and tp goes on all the same.
    let _ = writeln!(io::stderr(), "tp: {what}");
}
