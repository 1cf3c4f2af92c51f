//! Tables without frames: a title line, and columns apart by two spaces.

use crate::ui::color::Paint;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table as text, each line ended.
pub(crate) fn table(titles: &[(&str, Column)], rows: Vec<Vec<String>>, paint: &Paint) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(titles.iter().map(|(title, _)| *title));
    table.add_rows(rows);
    for (at, (_, column)) in titles.iter().enumerate() {
        if let Some(shown) = table.column_mut(at) {
            shown.set_padding((0, 2));
            if *column == Column::Right {
                shown.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let mut text = String::new();
    for (at, line) in table.lines().enumerate() {
        let line = line.trim_end();
        text.push_str(&if at == 0 { paint.bold(line) } else { line.to_owned() });
        text.push('\n');
    }
    text
}
