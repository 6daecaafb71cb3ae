//! Tables and lists of facts for people: aligned plain text, nothing that a terminal could take for a command.

use std::time::Duration;

use migratekit_core::clock::Timestamp;

/// Rows under titles.
pub(crate) struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(titles: impl IntoIterator<Item = &'static str>) -> Self {
        Table { titles: titles.into_iter().collect(), rows: Vec::new() }
    }

    /// A row of as many cells as there are titles.
    pub(crate) fn row<T: ToString>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell.to_string())).collect());
    }

    /// The text, or `nothing` when there is no row.
    pub(crate) fn text(&self, nothing: &str) -> String {
        if self.rows.is_empty() {
            return nothing.to_owned();
        }
        let titles: Vec<String> = self.titles.iter().map(ToString::to_string).collect();
        let all: Vec<&Vec<String>> = std::iter::once(&titles).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..titles.len())
            .map(|column| all.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0))
            .collect();
        let line = |row: &&Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        all.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// `name  value`, a line each; facts without a value are left out.
pub(crate) fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let facts: Vec<(&str, String)> = facts.into_iter().filter_map(|(name, value)| Some((name, plain(&value?)))).collect();
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:<width$}  {value}").trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Text from outside as a terminal may show it: one line, no control characters.
pub(crate) fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// A moment, to the second, in UTC.
pub(crate) fn when(time: Timestamp) -> String {
    time.to_string().chars().take(19).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// As [`when`]; a dash for never.
pub(crate) fn when_or_dash(time: Option<Timestamp>) -> String {
    time.map_or_else(dash, when)
}

/// Nothing to show.
pub(crate) fn dash() -> String {
    "-".to_owned()
}

/// A duration as people say it: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=9 => format!("{:.1} s", time.as_secs_f64()),
        10..=59 => format!("{seconds} s"),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", "KIND"]);
        assert_eq!(table.text("none"), "none");
        table.row(["vc", "vmware"]);
        table.row(["größer als", "local"]);
        assert_eq!(table.text("none"), "NAME        KIND\nvc          vmware\ngrößer als  local");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(facts([("name", Some("a\tb".to_owned())), ("absent", None), ("longer", Some(String::new()))]), "name    a\\tb\nlonger");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(when("2026-11-21T11:15:14.123456Z".parse().unwrap()), "2026-11-21 11:15:14");
        for (seconds, text) in [(0.44, "0.4 s"), (12.9, "12 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 5 min")] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
    }
}
