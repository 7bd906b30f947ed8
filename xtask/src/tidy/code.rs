//! Rust text with its comments and literals blanked, so that a name in a sentence is no use of it.
//!
//! A lexer for exactly that: it knows line and block comments, strings with their raw, byte and C
//! forms, and tells characters from lifetimes. It does not parse.

/// The code of `text`: same lines, comments and the insides of literals replaced by spaces.
pub(super) fn code_only(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let end = match skipped(&characters, at) {
            Some(end) => end,
            None => {
                out.push(characters[at]);
                at += 1;
                continue;
            }
        };
        out.extend(
            characters[at..end]
                .iter()
                .map(|c| if *c == '\n' { '\n' } else { ' ' }),
        );
        at = end;
    }
    out
}

/// Where the comment or literal that begins at `at` ends, if one begins there.
fn skipped(text: &[char], at: usize) -> Option<usize> {
    let next = text.get(at + 1).copied();
    match (text[at], next) {
        ('/', Some('/')) => Some(find(text, at, |c| c == '\n')),
        ('/', Some('*')) => Some(block_comment_end(text, at)),
        ('"', _) => Some(string_end(text, at + 1)),
        ('r', Some('"' | '#')) if !inside_word(text, at) => raw_string_end(text, at + 1),
        ('\'', Some(_)) => character_end(text, at),
        _ => None,
    }
}

fn find(text: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    let rest = text[from..].iter().position(|c| wanted(*c));
    rest.map_or(text.len(), |distance| from + distance)
}

fn block_comment_end(text: &[char], at: usize) -> usize {
    let (mut depth, mut here) = (0, at);
    while here < text.len() {
        match (text[here], text.get(here + 1)) {
            ('/', Some('*')) => (depth, here) = (depth + 1, here + 2),
            ('*', Some('/')) => (depth, here) = (depth - 1, here + 2),
            _ => here += 1,
        }
        if depth == 0 {
            return here;
        }
    }
    text.len()
}

fn string_end(text: &[char], mut here: usize) -> usize {
    while here < text.len() {
        match text[here] {
            '\\' => here += 2,
            '"' => return here + 1,
            _ => here += 1,
        }
    }
    text.len()
}

/// `from` is behind the `r`; None when it is a raw identifier such as `r#type`.
fn raw_string_end(text: &[char], from: usize) -> Option<usize> {
    let open = find(text, from, |c| c != '#');
    let hashes = open - from;
    if text.get(open) != Some(&'"') {
        return None;
    }
    let mut here = open + 1;
    while here < text.len() {
        let close = text[here + 1..].iter().take_while(|c| **c == '#').count();
        if text[here] == '"' && close >= hashes {
            return Some(here + 1 + hashes);
        }
        here += 1;
    }
    Some(text.len())
}

/// None for a lifetime.
fn character_end(text: &[char], at: usize) -> Option<usize> {
    if text[at + 1] == '\\' {
        return Some((find(text, at + 3, |c| c == '\'') + 1).min(text.len()));
    }
    (text.get(at + 2) == Some(&'\'')).then_some(at + 3)
}

/// A `b` or `c` may stand before the `r` of a raw string; anything longer is a name.
fn inside_word(text: &[char], at: usize) -> bool {
    let part = |c: &char| c.is_alphanumeric() || *c == '_';
    let before = text[..at].iter().rev().take_while(|c| part(c)).count();
    before > 1 || (before == 1 && !matches!(text[at - 1], 'b' | 'c'))
}

/// The identifiers of a line of code.
pub(super) fn identifiers(code: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.split(move |c: char| !part(c))
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let code = code_only(text);
        identifiers(&code).map(str::to_owned).collect()
    }

    #[test]
    fn names_in_comments_and_strings_are_no_code() {
        let text = "use a; // openraft\n/* redb /* madsim */ bincode */ b(\"redb \\\" redb\");";
        assert_eq!(words(text), ["use", "a", "b"]);
    }

    #[test]
    fn raw_strings_characters_and_lifetimes_are_told_apart() {
        let text =
            "f(r#\"redb \" redb\"#, br\"redb\", '\"', '\\'', b'\\n', r#type); fn g<'a>(x: &'a T)";
        assert_eq!(
            words(text),
            ["f", "b", "b", "r", "type", "fn", "g", "a", "x", "a", "T"]
        );
    }

    #[test]
    fn lines_keep_their_numbers() {
        let code = code_only("a /* 1\n2 */ b\n\"3\n4\" c");
        let lines: Vec<_> = code.lines().map(str::trim).collect();
        assert_eq!(lines, ["a", "b", "", "c"]);
    }
}
