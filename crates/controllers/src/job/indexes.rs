//! Sets of completion indexes as statuses have them: `1,3-5,7`. Pure.

use std::collections::BTreeSet;

/// Indexes in order.
pub(crate) type Indexes = BTreeSet<i32>;

/// Reads what a status or a rule says. What is not an index below `completions` is left out.
pub(crate) fn parse(text: &str, completions: i32) -> Indexes {
    let mut indexes = Indexes::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first.max(0)..=last.min(completions.saturating_sub(1)));
        }
    }
    indexes
}

/// The shortest text: two neighbours are a list, three a range.
pub(crate) fn print(indexes: &Indexes) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let words = runs.iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(",")
}
