//! The report of the benches: docs/benchmarks.md with a table of goals, all figures and plots, made from
//! docs/benchmarks.json. What people wrote there outside of the two marks stays as it is.

mod machine;
mod plot;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use serde::{Deserialize, Serialize};
use tp_tests::Cluster;
use tp_tests::figures::{short, written};

use crate::bench::{ALL, docs};

/// Between these the text is ours.
const FROM: &str = "<!-- from here on by `cargo xtask bench --render` -->";
const UNTIL: &str = "<!-- until here -->";

/// The figures of benches, and where they were taken.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Report {
    machine: Vec<(String, String)>,
    benches: BTreeMap<String, Bench>,
}

/// What one bench says (`figures` of the harness writes it).
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Bench {
    tables: Vec<Table>,
    goals: Vec<Goal>,
}

#[derive(Serialize, Deserialize)]
struct Table {
    title: String,
    unit: String,
    rows: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    row: String,
    /// One a round; none where nothing could be measured.
    values: Vec<Option<f64>>,
}

#[derive(Serialize, Deserialize)]
struct Goal {
    what: String,
    value: Option<f64>,
    unit: String,
    /// "at most" or "at least".
    bound: String,
    limit: f64,
    reached: bool,
}

/// The file that the report is made from.
pub(crate) fn figures() -> PathBuf {
    docs().join("benchmarks.json")
}

/// Writes the report.
pub(crate) fn write() -> miette::Result<()> {
    let report = Report::read(&figures())?;
    let file = docs().join("benchmarks.md");
    let text = fs::read_to_string(&file).into_diagnostic().wrap_err_with(|| file.display().to_string())?;
    let parts = text.split_once(FROM).and_then(|(before, rest)| Some((before, rest.split_once(UNTIL)?.1)));
    let (before, after) =
        parts.ok_or_else(|| miette!("{} has not both of `{FROM}` and `{UNTIL}`", file.display()))?;
    keep(&file, &format!("{before}{FROM}\n\n{}\n{UNTIL}{after}", report.text()))?;
    keep(&docs().join("benchmarks.svg"), &plot::goals(&report.goals()))?;
    keep(&docs().join("growth.svg"), &plot::curves(&report.growth()))
}

fn keep(file: &Path, text: &str) -> miette::Result<()> {
    fs::write(file, text).into_diagnostic().wrap_err_with(|| file.display().to_string())
}

impl Report {
    fn read(file: &Path) -> miette::Result<Self> {
        match fs::read(file) {
            Ok(text) => {
                serde_json::from_slice(&text).into_diagnostic().wrap_err_with(|| file.display().to_string())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).into_diagnostic().wrap_err_with(|| file.display().to_string()),
        }
    }

    /// Puts a bench's figures into a file of such, in the place of its earlier ones.
    pub(crate) fn add(file: &Path, name: &str, bench: Bench, own: &Cluster) -> miette::Result<()> {
        let mut report = Self::read(file)?;
        report.machine = machine::facts(own);
        report.benches.insert(name.to_owned(), bench);
        keep(file, &(serde_json::to_string_pretty(&report).into_diagnostic()? + "\n"))
    }

    /// In the order of the benches, whatever JSON makes of it.
    fn in_order(&self) -> impl Iterator<Item = (&'static str, &Bench)> {
        ALL.into_iter().filter_map(|name| Some((name, self.benches.get(name)?)))
    }

    /// What each goal is of, and how many times as good as the goal what was measured is.
    fn goals(&self) -> Vec<(&str, f64)> {
        let all = self.in_order().flat_map(|(_, bench)| &bench.goals);
        all.filter_map(|goal| Some((goal.what.as_str(), goal.times()?))).collect()
    }

    /// The tables whose rows differ in a number.
    fn growth(&self) -> Vec<plot::Curves<'_>> {
        self.in_order().flat_map(|(_, bench)| &bench.tables).filter_map(Table::curves).collect()
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (what, fact) in &self.machine {
            let _ = writeln!(text, "- {what}: {fact}");
        }
        text += "\n![How many times as good as its goal each figure is](benchmarks.svg)\n";
        text += "\n![Figures by the number of connections](growth.svg)\n\n## Goals\n\n";
        text += "| bench | what | measured | goal | |\n|---|---|---:|---:|---|\n";
        for (name, bench) in self.in_order() {
            for Goal { what, value, unit, bound, limit, reached } in &bench.goals {
                let value = value.map_or_else(|| "none".to_owned(), short);
                let limit = written(*limit);
                let word = if *reached { "reached" } else { "**missed**" };
                let _ =
                    writeln!(text, "| {name} | {what} | {value}{unit} | {bound} {limit}{unit} | {word} |");
            }
        }
        text += "\n## Figures\n";
        for (name, bench) in self.in_order() {
            for table in &bench.tables {
                let _ = write!(text, "\n### {name}: {} ({})\n\n{}", table.title, table.unit, table.text());
            }
        }
        text
    }
}

impl Table {
    fn text(&self) -> String {
        let mut text = "| | least | median | most |\n|---|---:|---:|---:|\n".to_owned();
        for row in &self.rows {
            let sorted = row.sorted();
            let at =
                |index: usize| sorted.get(index).map_or_else(|| "none".to_owned(), |value| short(*value));
            let (median, last) = (at(sorted.len() / 2), at(sorted.len().saturating_sub(1)));
            let _ = writeln!(text, "| {} | {} | {median} | {last} |", row.row, at(0));
        }
        text
    }

    /// A curve for each name before the number; none unless all rows end with one.
    fn curves(&self) -> Option<plot::Curves<'_>> {
        let mut curves: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
        for row in &self.rows {
            let (name, number) = row.row.rsplit_once(", ")?;
            let sorted = row.sorted();
            let point = (number.parse().ok()?, *sorted.get(sorted.len() / 2)?);
            match curves.iter_mut().find(|(known, _)| *known == name) {
                Some((_, points)) => points.push(point),
                None => curves.push((name, vec![point])),
            }
        }
        Some(plot::Curves { title: &self.title, unit: &self.unit, curves })
    }
}

impl Row {
    fn sorted(&self) -> Vec<f64> {
        let mut sorted: Vec<f64> = self.values.iter().flatten().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl Goal {
    /// How many times as good as the goal it is; none where the goal is nothing.
    fn times(&self) -> Option<f64> {
        let value = self.value?;
        let times = if self.bound == "at most" { self.limit / value } else { value / self.limit };
        (self.limit > 0.0 && value > 0.0).then_some(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench() -> Bench {
        let text = r#"{"tables": [{"title": "memory", "unit": "kB", "rows": [
            {"row": "tp, 10", "values": [3.0, 1.0, 2.0]}, {"row": "tp, 100", "values": [null]}]}],
            "goals": [{"what": "price", "value": 0.2, "unit": "", "bound": "at most", "limit": 0.4, "reached": true}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_report_has_goals_and_figures() {
        let mut report = Report::default();
        report.benches.insert("idle".to_owned(), bench());
        let text = report.text();
        assert!(text.contains("| idle | price | 0.20 | at most 0.4 | reached |"), "{text}");
        assert!(text.contains("| tp, 10 | 1.00 | 2.00 | 3.00 |"), "{text}");
        assert!(text.contains("| tp, 100 | none | none | none |"), "{text}");
        assert_eq!(report.goals(), [("price", 2.0)]);
    }

    #[test]
    fn rows_that_differ_in_a_number_are_curves() {
        let mut bench = bench();
        assert!(bench.tables.remove(0).curves().is_none(), "a row without a value has no point");
        let row = |row: &str| Row { row: row.to_owned(), values: vec![Some(1.0)] };
        let rows = vec![row("tp, 10"), row("tp, 100"), row("kubectl, 10")];
        let table = Table { title: String::new(), unit: String::new(), rows };
        let curves = table.curves().unwrap().curves;
        assert_eq!(curves, [("tp", vec![(10.0, 1.0), (100.0, 1.0)]), ("kubectl", vec![(10.0, 1.0)])]);
    }
}
