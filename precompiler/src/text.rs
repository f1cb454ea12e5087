//! Makes untrusted text of an image, a guest or a compiler safe for a terminal or a log.

/// Escapes characters that would control a terminal or imitate another line: control characters, and those that change the direction of
/// writing. They become `\u001b`, as in JSON, so that a JSON document stays valid. Line breaks and tabs stay.
pub(crate) fn visible(text: &str) -> String {
    escaped(text, |character| character.is_control() && !matches!(character, '\n' | '\t'))
}

/// Escapes line breaks and tabs as well, for output in which a line is a record.
pub fn one_line(text: &str) -> String {
    escaped(text, char::is_control)
}

fn escaped(text: &str, is_hidden: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' if is_hidden('\n') => shown.push_str("\\n"),
            _ if is_hidden(character) || turns(character) => {
                shown.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => shown.push(character),
        }
    }
    shown
}

/// Returns whether a character changes the direction of the text after it.
fn turns(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Control characters are shown escaped, and other text stays unchanged.
    #[test]
    fn nothing_is_hidden() {
        assert_eq!(
            visible("a\u{1b}]0;x\u{7}b\u{9b}2J\r\n\tß\u{202e}"),
            "a\\u001b]0;x\\u0007b\\u009b2J\\u000d\n\tß\\u202e"
        );
        assert_eq!(one_line("a\nlevel=error"), "a\\nlevel=error");
        assert_eq!(one_line("plain \"ß\" {}"), "plain \"ß\" {}");
    }

    /// An escaped JSON document has the same content.
    #[test]
    fn documents_stay_documents() {
        let document = serde_json::json!({ "title": "a\u{7f}\u{85}\u{202e}\n" });
        let shown = visible(&document.to_string());
        assert!(shown.is_ascii());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), document);
    }
}
