//! Plain columns, for people and for `awk`: one line a row, columns two spaces apart, `-` where there is nothing.

/// Sets rows under their headings.
#[must_use]
pub fn set<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&headings.map(str::to_owned)).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let cell = if cell.is_empty() { "-" } else { cell };
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), String::new()], ["longer".to_owned(), "x y".to_owned()]];
        assert_eq!(set(["ONE", "TWO"], &rows), "ONE     TWO\na       -\nlonger  x y\n");
    }
}
