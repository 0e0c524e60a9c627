//! Text that came out of the guest or the VMM, made fit to be shown.

/// Most characters of one message of the guest that are shown.
pub(crate) const MAX_MESSAGE: usize = 1024;
/// Most characters of a console tail that are shown.
pub(crate) const MAX_CONSOLE: usize = 4096;

/// One line: control characters become spaces, and what is over [`MAX_MESSAGE`] is cut.
pub(crate) fn line(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(MAX_MESSAGE)
        .map(|character| if hidden(character) { ' ' } else { character })
        .collect();
    if text.chars().nth(MAX_MESSAGE).is_some() {
        shown.push('…');
    }
    shown
}

/// The last lines of a console, at most [`MAX_CONSOLE`] characters; control characters but the
/// newline become spaces, empty lines go.
pub(crate) fn console(text: &str) -> String {
    let skipped = text.chars().count().saturating_sub(MAX_CONSOLE);
    let shown: String = text
        .chars()
        .skip(skipped)
        .map(|character| match character {
            '\n' => '\n',
            character if hidden(character) => ' ',
            character => character,
        })
        .collect();
    shown
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Characters that move the cursor, colour the terminal or reorder the text around them.
fn hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
#[path = "guest_text_test.rs"]
mod tests;
