//! Tables for people.

/// Rows under a header, in columns as wide as their widest cell and two spaces apart.
pub(crate) fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(String::len);
            cells.chain([title.len()]).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let header: Vec<_> = header.iter().map(|title| (*title).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let line: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["hello-1".to_owned(), "1".to_owned()],
            vec!["h".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            render(&["POD", "ANSWERS"], &rows),
            "POD      ANSWERS\nhello-1  1\nh        22\n"
        );
    }
}
