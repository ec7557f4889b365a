//! What test programs say at their end (`test result: …`), summed.

/// The sum of the closing lines of test programs.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Totals {
    pub(crate) programs: u32,
    counts: [u64; 5],
}

/// What a closing line counts, in its order.
const COUNTED: [&str; 5] = ["passed", "failed", "ignored", "measured", "filtered out"];

impl Totals {
    /// Takes note of a line that a test program wrote.
    pub(crate) fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        self.programs += 1;
        for part in result.split(['.', ';']).map(str::trim) {
            for (name, count) in COUNTED.iter().zip(&mut self.counts) {
                let number = part.strip_suffix(name).and_then(|number| number.trim().parse::<u64>().ok());
                *count += number.unwrap_or(0);
            }
        }
    }

    /// Those that failed run again, and are counted then.
    pub(crate) fn forget_failed(&mut self) {
        let [_, failed, ..] = &mut self.counts;
        *failed = 0;
    }

    /// Adds what another counted.
    pub(crate) fn append(&mut self, other: &Self) {
        self.programs += other.programs;
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// The sum, as such a line.
    pub(crate) fn line(&self, ok: bool, seconds: f32) -> String {
        let counts = COUNTED.iter().zip(self.counts).map(|(name, count)| format!("{count} {name}"));
        let verdict = if ok { "ok" } else { "FAILED" };
        format!(
            "test result: {verdict}. {}; finished in {seconds:.2}s",
            counts.collect::<Vec<_>>().join("; ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_summed() {
        let mut totals = Totals::default();
        totals.add(
            "test result: ok. 6 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 6.73s",
        );
        totals.add("test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        totals.add("test something ... ok");
        assert_eq!(totals, Totals { programs: 2, counts: [7, 3, 1, 0, 2] });
        assert_eq!(
            totals.line(false, 9.0),
            "test result: FAILED. 7 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 9.00s"
        );
    }
}
