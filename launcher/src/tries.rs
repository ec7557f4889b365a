//! How often something is tried again that was lost, and when the user is told that it does not come back.
//!
//! What the network or the next pod may mend is tried at once, and then less and less often. Where the cluster itself has to
//! change first (an image, a Secret, a quota) each try makes something there, so there are long rests between them. Either
//! is told once.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::tell::tell;

/// Waits after a try: from the first, doubled, to the last.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// The same, where another try will do no better soon.
const RESTS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(50));
/// What has lasted so long is told, whatever it is.
const PATIENCE: Duration = Duration::from_secs(15);

/// The tries since something was lost.
pub struct Tries {
    began: Instant,
    wait: Duration,
    rest: Duration,
    told: bool,
}

impl Default for Tries {
    fn default() -> Self {
        Self { began: Instant::now(), wait: WAITS.0, rest: RESTS.0, told: false }
    }
}

impl Tries {
    /// Waits after a try that failed. `lasts` if the next is not likely to do better; `what` is what cannot be done.
    pub async fn failed(&mut self, what: impl Display, error: impl Display, lasts: bool) {
        warn!(%error, "{what}");
        if !self.told && (lasts || self.began.elapsed() > PATIENCE) {
            self.told = true;
            tell(format_args!("{what}: {error}; it is tried again"));
        }
        sleep(self.next(lasts)).await;
    }

    fn next(&mut self, lasts: bool) -> Duration {
        let (next, last) = if lasts { (&mut self.rest, RESTS.1) } else { (&mut self.wait, WAITS.1) };
        let wait = *next;
        *next = (wait * 2).min(last);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_tried_seldom_and_what_passes_often() {
        let mut tries = Tries::default();
        assert_eq!([tries.next(true), tries.next(true), tries.next(true)], [RESTS.0, RESTS.1, RESTS.1]);
        assert_eq!([tries.next(false), tries.next(false)], [WAITS.0, WAITS.0 * 2]);
    }
}
