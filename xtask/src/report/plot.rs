//! The report's plots, as SVG: a bar for each goal, and curves by the number of connections. Both axes are logarithms:
//! what is compared are ratios.

use std::fmt::Write as _;

/// Curves of one table.
pub(super) struct Curves<'a> {
    pub(super) title: &'a str,
    pub(super) unit: &'a str,
    /// Each with its name and its points.
    pub(super) curves: Vec<(&'a str, Vec<(f64, f64)>)>,
}

const REACHED: &str = "#2e7d32";
const MISSED: &str = "#c62828";
const COLOURS: [&str; 4] = ["#1565c0", "#ef6c00", "#6a1b9a", "#00695c"];
/// Bars end here: what is 100 times better than its goal says no more.
const MOST: f64 = 100.0;
const LINE: usize = 20;
/// Where the bars' middle is, and how long a factor of 10 is.
const MIDDLE: f64 = 760.0;
const DECADE: f64 = 130.0;

/// A bar for each goal: to the right where it is reached, to the left where it is missed.
pub(super) fn goals(goals: &[(&str, f64)]) -> String {
    let height = (goals.len() + 3) * LINE;
    let mut svg = begin(1040, height);
    for exponent in -2..=2 {
        let x = MIDDLE + f64::from(exponent) * DECADE;
        line(&mut svg, (x, 30.0), (x, as_f64(height - LINE)), if exponent == 0 { "black" } else { "#ddd" });
        text(&mut svg, x, 20.0, "middle", &format!("{} x", 10_f64.powi(exponent)));
    }
    for (index, (what, times)) in goals.iter().enumerate() {
        let y = as_f64((index + 2) * LINE);
        let length = times.clamp(1.0 / MOST, MOST).log10() * DECADE;
        let colour = if *times >= 1.0 { REACHED } else { MISSED };
        let (x, width) = (MIDDLE + length.min(0.0), length.abs().max(1.0));
        let _ = writeln!(
            svg,
            "<rect x='{x:.1}' y='{:.1}' width='{width:.1}' height='12' fill='{colour}'/>",
            y - 10.0
        );
        text(&mut svg, MIDDLE - 2.0 * DECADE - 10.0, y, "end", what);
    }
    svg + "</svg>\n"
}

/// The size of a panel, and of what is in it.
const PANEL: (usize, usize) = (480, 300);
const LEFT: f64 = 70.0;
const RIGHT: f64 = 460.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 265.0;

/// A panel for each table, one beside the other.
pub(super) fn curves(all: &[Curves<'_>]) -> String {
    let mut svg = begin(PANEL.0 * all.len().max(1), PANEL.1);
    for (index, panel) in all.iter().enumerate() {
        let _ = writeln!(svg, "<g transform='translate({},0)'>", index * PANEL.0);
        panel.draw(&mut svg);
        svg += "</g>\n";
    }
    svg + "</svg>\n"
}

impl Curves<'_> {
    fn draw(&self, svg: &mut String) {
        let points = || self.curves.iter().flat_map(|(_, points)| points);
        let across = Axis::of(points().map(|point| point.0), (LEFT, RIGHT));
        let up = Axis::of(points().map(|point| point.1), (BOTTOM, TOP));
        text(svg, LEFT, 16.0, "start", &format!("{} ({})", self.title, self.unit));
        for x in across.decades() {
            line(svg, (across.at(x), TOP), (across.at(x), BOTTOM), "#ddd");
            text(svg, across.at(x), BOTTOM + 16.0, "middle", &x.to_string());
        }
        for y in up.decades() {
            line(svg, (LEFT, up.at(y)), (RIGHT, up.at(y)), "#ddd");
            text(svg, LEFT - 6.0, up.at(y) + 4.0, "end", &y.to_string());
        }
        for (index, ((name, points), colour)) in self.curves.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let path: Vec<String> =
                points.iter().map(|(x, y)| format!("{:.1},{:.1}", across.at(*x), up.at(*y))).collect();
            let path = path.join(" ");
            let _ =
                writeln!(svg, "<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>");
            let x = LEFT + as_f64(index) * 150.0;
            line(svg, (x, 36.0), (x + 18.0, 36.0), colour);
            text(svg, x + 22.0, 40.0, "start", name);
        }
    }
}

/// A logarithmic axis over whole decades.
struct Axis {
    least: i32,
    most: i32,
    ends: (f64, f64),
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, ends: (f64, f64)) -> Self {
        let logs: Vec<f64> = values.filter(|value| *value > 0.0).map(f64::log10).collect();
        let least = logs.iter().copied().fold(f64::MAX, f64::min).floor();
        let most = logs.iter().copied().fold(f64::MIN, f64::max).ceil();
        // Nothing, or one point on a decade, is one decade wide.
        let least = if logs.is_empty() { 0 } else { as_i32(least) };
        let most = if logs.is_empty() { 1 } else { as_i32(most).max(least + 1) };
        Self { least, most, ends }
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        (self.least..=self.most).map(|exponent| 10_f64.powi(exponent))
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.log10() - f64::from(self.least)) / f64::from(self.most - self.least);
        self.ends.0 + part * (self.ends.1 - self.ends.0)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a decade of a figure is a small number")]
fn as_i32(value: f64) -> i32 {
    value as i32
}

#[allow(clippy::cast_precision_loss, reason = "a plot has some hundred lines")]
fn as_f64(value: usize) -> f64 {
    value as f64
}

fn begin(width: usize, height: usize) -> String {
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' font-family='sans-serif' \
         font-size='12'>\n<rect width='100%' height='100%' fill='white'/>\n"
    )
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x, y), (to_x, to_y)) = (from, to);
    let _ = writeln!(svg, "<line x1='{x:.1}' y1='{y:.1}' x2='{to_x:.1}' y2='{to_y:.1}' stroke='{colour}'/>");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x='{x:.1}' y='{y:.1}' text-anchor='{anchor}'>{what}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_are_whole_and_points_between_them() {
        let axis = Axis::of([20.0, 900.0].into_iter(), (0.0, 200.0));
        assert_eq!(axis.decades().collect::<Vec<_>>(), [10.0, 100.0, 1000.0]);
        assert!((axis.at(100.0) - 100.0).abs() < 1e-9);
        assert_eq!(Axis::of(std::iter::empty(), (0.0, 1.0)).decades().count(), 2);
    }

    #[test]
    fn a_missed_goal_is_a_bar_to_the_left() {
        let svg = goals(&[("a <price>", 0.1), ("speed", 1e9)]);
        assert!(svg.contains("x='630.0' y='30.0' width='130.0'"), "{svg}");
        assert!(svg.contains("width='260.0'") && svg.contains("a &lt;price>"), "{svg}");
    }
}
