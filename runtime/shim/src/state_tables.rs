//! The tables of `docs/task-states.md`, for tests.

const TABLES: &str = include_str!("../../../docs/task-states.md");

/// A call, and what it answers in each state.
pub(crate) type Row = (&'static str, Vec<(&'static str, &'static str)>);

/// The rows of the table below a heading.
pub(crate) fn table(heading: &str) -> Vec<Row> {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim);
    let section = TABLES.split("\n## ").find(|part| part.starts_with(heading));
    let mut lines = section
        .unwrap()
        .lines()
        .filter(|line| line.starts_with('|'));
    let states: Vec<_> = cells(lines.next().unwrap()).skip(1).collect();
    lines
        .skip(1)
        .map(|line| {
            let mut cells = cells(line);
            let call = cells.next().unwrap();
            let answers: Vec<_> = states.iter().copied().zip(cells).collect();
            assert_eq!(answers.len(), states.len(), "{line}");
            (call, answers)
        })
        .collect()
}

/// `NOT_FOUND` as the documents have it: `NotFound`.
pub(crate) fn camel_case(code: &str) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at(1);
        format!("{first}{}", rest.to_lowercase())
    };
    code.split('_').map(word).collect()
}
