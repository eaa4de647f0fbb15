//! Tables for people: no lines, two spaces between columns, nothing at a line's end.

use comfy_table::{CellAlignment, Table, presets};

/// A table with this header; columns whose header ends in `>` are aligned to the right.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.map(|name| name.trim_end_matches('>')));
    for row in rows {
        table.add_row(row.map(|cell| plain(&cell)));
    }
    for (n, name) in header.iter().enumerate() {
        let Some(column) = table.column_mut(n) else {
            continue;
        };
        column.set_padding((0, 2));
        if name.ends_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Text that cannot move a terminal's cursor.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let rows = [["7", "web\u{1b}[2J", ""], ["12", "b", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(
            table(["ID>", "NAME", "NOTE"], rows),
            "ID  NAME     NOTE\n 7  web [2J\n12  b        x"
        );
    }
}
