//! Figures of a bench: taken by turns in one run, shown as tables, compared with goals, and kept as JSON.
//!
//! A machine's speed drifts, and other things run on it. So no figure stands alone: whatever is compared is measured
//! in the same rounds, and it is the medians of the rounds that are compared.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

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

    /// Prints the table, and keeps it if somebody wants the figures ([`JSON`]).
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn tell(&self) -> Result<(), Error> {
        let rounds = self.rows.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
        println!("\n{}, {}, {rounds} rounds\n", self.title, self.unit);
        println!("{:<44} {:>10} {:>10} {:>10}", "", "min", "median", "max");
        for (row, _) in &self.rows {
            let Spread { min, median, max } = self.spread(row);
            println!("{row:<44} {:>10} {:>10} {:>10}", short(min), short(median), short(max));
        }
        println!();
        let rows: Vec<_> =
            self.rows.iter().map(|(row, values)| json!({ "row": row, "values": values })).collect();
        keep("tables", &json!({ "title": self.title, "unit": self.unit, "rows": rows }))
    }
}

/// A number with as many places as tell something.
#[must_use]
pub fn short(value: f64) -> String {
    let places = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.places$}");
    // Nothing is not less than nothing.
    if text == "-0.00" { "0.00".to_owned() } else { text }
}

/// A goal's limit as people write it: it may come of a sum of binary fractions.
#[must_use]
pub fn written(limit: f64) -> String {
    let text = format!("{limit:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Adds to a list of the file that [`JSON`] names, if it names one.
fn keep(list: &str, entry: &Value) -> Result<(), Error> {
    let Some(file) = env::var_os(JSON).map(PathBuf::from) else { return Ok(()) };
    let mut all: BTreeMap<String, Vec<Value>> =
        fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    all.entry(list.to_owned()).or_default().push(entry.clone());
    let text = serde_json::to_string_pretty(&all).unwrap_or_default();
    fs::write(&file, text).map_err(Error::file("write", file))
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

/// Says whether a value is at most the goal; gives that back.
pub fn goal(what: &str, value: f64, unit: &str, limit: f64) -> bool {
    judged(what, value, unit, "at most", limit, value <= limit)
}

/// Says whether a value is at least the goal; gives that back.
pub fn at_least(what: &str, value: f64, unit: &str, limit: f64) -> bool {
    judged(what, value, unit, "at least", limit, value >= limit)
}

fn judged(what: &str, value: f64, unit: &str, bound: &str, limit: f64, reached: bool) -> bool {
    let word = if reached { "reached" } else { "MISSED" };
    println!("{what}: {}{unit} (goal: {bound} {}{unit}) {word}", short(value), written(limit));
    let goal = json!({ "what": what, "value": value, "unit": unit, "bound": bound, "limit": limit, "reached": reached });
    if let Err(error) = keep("goals", &goal) {
        eprintln!("{what}: {error}");
    }
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
        assert!(!at_least("nothing measured", figures.median("none"), "", 1.0));
        assert_eq!([0.333, 12.34, 123.4, -0.001].map(short), ["0.33", "12.3", "123", "0.00"]);
        assert_eq!([0.0, 1.1 - 1.0, 0.4, 50_000.0].map(written), ["0", "0.1", "0.4", "50000"]);
    }
}
