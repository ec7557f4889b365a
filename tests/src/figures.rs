//! Figures of a bench: taken by turns in one run, shown as a table, and kept as JSON.
//!
//! A machine's speed drifts, and other things run on it. So no figure stands alone: whatever is compared is measured
//! in the same rounds, and it is the medians of the rounds that are compared.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::{Error, run};

/// The variable that names a file for the figures.
pub const JSON: &str = "TP_BENCH_JSON";

/// The figures of a bench: for each row the values of all rounds, in one unit.
#[derive(Debug)]
pub struct Figures {
    title: &'static str,
    unit: &'static str,
    rows: Vec<(String, Vec<f64>)>,
}

/// Least, median and greatest of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one; the upper of two.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Figures {
    /// No figures yet.
    #[must_use]
    pub const fn new(title: &'static str, unit: &'static str) -> Self {
        Self { title, unit, rows: Vec::new() }
    }

    /// Adds one round's value to a row.
    pub fn add(&mut self, row: &str, value: f64) {
        match self.rows.iter_mut().find(|(name, _)| name == row) {
            Some((_, values)) => values.push(value),
            None => self.rows.push((row.to_owned(), vec![value])),
        }
    }

    /// What a row's values are; not-a-number for a row that has none.
    #[must_use]
    pub fn spread(&self, row: &str) -> Spread {
        let mut sorted = self
            .rows
            .iter()
            .find(|(name, _)| name == row)
            .map(|(_, values)| values.clone())
            .unwrap_or_default();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        Spread { min: at(0), median: at(sorted.len() / 2), max: at(sorted.len().saturating_sub(1)) }
    }

    /// The median of a row.
    #[must_use]
    pub fn median(&self, row: &str) -> f64 {
        self.spread(row).median
    }

    /// Prints the table.
    pub fn print(&self) {
        let rounds = self.rows.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
        println!("\n{}, {}, {rounds} rounds\n", self.title, self.unit);
        println!("{:<44} {:>10} {:>10} {:>10}", "", "min", "median", "max");
        for (row, _) in &self.rows {
            let Spread { min, median, max } = self.spread(row);
            println!("{row:<44} {min:>10.1} {median:>10.1} {max:>10.1}");
        }
        println!();
    }

    /// Adds the figures to the file that [`JSON`] names, if it names one, under the title.
    pub fn keep(&self) -> Result<(), Error> {
        let Some(file) = env::var_os(JSON).map(PathBuf::from) else { return Ok(()) };
        let rows: BTreeMap<&str, &[f64]> =
            self.rows.iter().map(|(row, values)| (row.as_str(), values.as_slice())).collect();
        let mut all: serde_json::Map<String, serde_json::Value> =
            fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        all.insert(self.title.to_owned(), serde_json::json!({ "unit": self.unit, "rows": rows }));
        let text = format!("{:#}\n", serde_json::Value::Object(all));
        fs::write(&file, text).map_err(Error::file("write", file))
    }
}

/// The figures that a program says, one a line: a name and a number.
pub fn said(command: &mut Command) -> Result<BTreeMap<String, f64>, Error> {
    let said = run::output(command)?;
    Ok(said
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect())
}

/// One of them; not-a-number if the program did not say it.
pub fn said_of(command: &mut Command, name: &str) -> Result<f64, Error> {
    Ok(said(command)?.get(name).copied().unwrap_or(f64::NAN))
}

/// Says whether a goal was reached; gives that back.
pub fn goal(what: &str, value: f64, unit: &str, limit: f64) -> bool {
    let reached = value <= limit;
    let word = if reached { "reached" } else { "MISSED" };
    println!("{what}: {value:.2}{unit} (goal: at most {limit}{unit}) {word}");
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_its_spread() {
        let mut figures = Figures::new("title", "ms");
        for value in [3.0, 1.0, 2.0] {
            figures.add("row", value);
        }
        assert_eq!(figures.spread("row"), Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert!(figures.median("none").is_nan());
        assert!(!goal("nothing measured", figures.median("none"), "", 1.0));
    }
}
