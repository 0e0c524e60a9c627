//! A picture of one start: what took how long, one phase below the other.

use std::fmt::Write;

/// Where `cargo measure` takes it from.
pub(crate) const FILE: &str = "/share/boot-chart.svg";

const WIDTH: f64 = 900.0;
/// Of the names, on the left, and of the numbers, on the right.
const NAMES: f64 = 150.0;
const NUMBERS: f64 = 110.0;
const ROW: usize = 22;
const TOP: usize = 40;

/// A phase of the table that the shim writes: when it was reached and what it took, in ms.
#[derive(Debug)]
struct Phase<'a> {
    name: &'a str,
    at: f64,
    took: f64,
}

/// Draws the shim's table of phases as an SVG, in milliseconds; `title` says of what.
pub(crate) fn svg(title: &str, table: &str) -> String {
    let phases: Vec<Phase<'_>> = table.lines().filter_map(phase).collect();
    let end = phases.last().map_or(1.0, |phase| phase.at).max(1.0);
    let scale = (WIDTH - NAMES - NUMBERS) / end;
    let height = TOP + ROW * phases.len() + ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"22\" font-size=\"14\">{title}</text>\n"
    );
    for (index, Phase { name, at, took }) in phases.iter().enumerate() {
        let y = TOP + ROW * index;
        let (x, width) = (NAMES + (at - took) * scale, (took * scale).max(1.0));
        let text = y + 14;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{text}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{x:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\" fill=\"#4878a8\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{took:.0} ms, at {at:.0}</text>",
            NAMES - 8.0,
            y + 3,
            ROW - 6,
            x + width + 4.0,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// A line of the table; `None` for its head and for what is no phase.
fn phase(line: &str) -> Option<Phase<'_>> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let mut number = || words.next()?.parse().ok();
    let (at, took) = (number()?, number()?);
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    name.chars().all(plain).then_some(Phase { name, at, took })
}

#[cfg(test)]
#[path = "chart_test.rs"]
mod tests;
