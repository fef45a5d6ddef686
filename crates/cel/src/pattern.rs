//! Regular expressions as RE2 reads them, matched in time linear in text and pattern, and bounded in size.
//!
//! The engine's own syntax differs: `\d`, `\w`, `\s` and `\b` are ASCII in RE2, and brackets in a class are plain.

use regex_automata::nfa::thompson::{self, NFA, pikevm::PikeVM};
use regex_syntax::ast::ErrorKind;

/// The largest automaton, in bytes: some thousand states.
const MAX_AUTOMATON: usize = 1 << 20;
/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 64 << 10;
/// The deepest nesting of groups.
const MAX_NESTING: u32 = 100;

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern {
    engine: PikeVM,
    /// What it counts as when it is matched: its length, or its states if those are more.
    pub weight: u64,
}

impl Pattern {
    /// Compiles; the error is what Go says behind `error parsing regexp: `.
    pub fn new(source: &str) -> Result<Pattern, String> {
        if source.len() > MAX_PATTERN {
            return Err("error parsing regexp: expression too large".to_owned());
        }
        let translated = translate(source);
        let parsed = regex_syntax::ParserBuilder::new().nest_limit(MAX_NESTING).build().parse(&translated);
        let hir = parsed.map_err(|error| explain(&error, source))?;
        let limits = thompson::Config::new().nfa_size_limit(Some(MAX_AUTOMATON));
        let compiled = NFA::compiler().configure(limits).build_from_hir(&hir);
        let too_large = |_| "error parsing regexp: expression too large".to_owned();
        let automaton: NFA = compiled.map_err(too_large)?;
        let states = automaton.states().len() as u64;
        let engine = PikeVM::new_from_nfa(automaton).map_err(|error| error.to_string())?;
        Ok(Pattern { engine, weight: (source.chars().count() as u64).max(states) })
    }

    /// Whether it is found anywhere.
    pub fn is_match(&self, text: &str) -> bool {
        self.engine.is_match(&mut self.engine.create_cache(), text)
    }

    /// Up to so many places where it is found, from the left.
    pub fn find<'t>(&self, text: &'t str, most: usize) -> Vec<&'t str> {
        let mut cache = self.engine.create_cache();
        self.engine.find_iter(&mut cache, text).take(most).map(|found| &text[found.range()]).collect()
    }
}

/// Go's words for what is wrong.
fn explain(error: &regex_syntax::Error, source: &str) -> String {
    let what = match error {
        regex_syntax::Error::Parse(error) => match error.kind() {
            ErrorKind::ClassUnclosed => "missing closing ]",
            ErrorKind::GroupUnclosed => "missing closing )",
            ErrorKind::GroupUnopened => "unexpected )",
            ErrorKind::RepetitionMissing => "missing argument to repetition operator",
            ErrorKind::RepetitionCountInvalid | ErrorKind::DecimalInvalid => "invalid repeat count",
            ErrorKind::ClassRangeInvalid | ErrorKind::ClassRangeLiteral => "invalid character class range",
            ErrorKind::EscapeUnexpectedEof => "trailing backslash at end of expression",
            ErrorKind::EscapeUnrecognized | ErrorKind::EscapeHexInvalid => "invalid escape sequence",
            ErrorKind::NestLimitExceeded(_) => "expression nests too deeply",
            ErrorKind::UnsupportedLookAround | ErrorKind::FlagUnrecognized => {
                "invalid or unsupported Perl syntax"
            }
            ErrorKind::UnsupportedBackreference => "invalid escape sequence",
            _ => "invalid syntax",
        },
        _ => "invalid character class range",
    };
    format!("error parsing regexp: {what}: `{source}`")
}

/// RE2's syntax in the engine's.
fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 16);
    let mut characters = source.chars().peekable();
    let mut in_class = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let Some(escaped) = characters.next() else {
                    out.push('\\');
                    break;
                };
                if escaped == 'Q' && !in_class {
                    let rest: String = characters.clone().collect();
                    let quoted = rest.split("\\E").next().unwrap_or("");
                    out.push_str(&regex_syntax::escape(quoted));
                    let skip = quoted.chars().count() + if rest.contains("\\E") { 2 } else { 0 };
                    for _ in 0..skip {
                        characters.next();
                    }
                } else {
                    escape(escaped, in_class, &mut out);
                }
            }
            '[' if in_class => {
                // Only `[:name:]` has a meaning in a class.
                let named = characters.peek() == Some(&':');
                out.push_str(if named { "[" } else { "\\[" });
                if named {
                    for inner in characters.by_ref() {
                        out.push(inner);
                        if inner == ']' {
                            break;
                        }
                    }
                }
            }
            '[' => {
                in_class = true;
                out.push('[');
                if characters.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                if characters.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            // Set operations of the engine's, which RE2 does not have.
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(character);
            }
            '-' if in_class && characters.peek() == Some(&'-') => out.push_str("\\-"),
            plain => out.push(plain),
        }
    }
    out
}

fn escape(escaped: char, in_class: bool, out: &mut String) {
    let ascii = match escaped {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        's' => "\\t\\n\\x0C\\r ",
        _ => "",
    };
    match escaped {
        'd' | 'w' | 's' if in_class => out.push_str(ascii),
        'd' | 'w' | 's' => out.push_str(&format!("[{ascii}]")),
        'D' => out.push_str("[^0-9]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        'S' => out.push_str("[^\\t\\n\\x0C\\r ]"),
        'b' if !in_class => out.push_str("(?-u:\\b)"),
        'B' if !in_class => out.push_str("(?-u:\\B)"),
        // Word boundaries in the engine's syntax, characters in RE2's.
        '<' | '>' if !in_class => out.push(escaped),
        other => {
            out.push('\\');
            out.push(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matches() {
        let cases = [
            ("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "abc-1", true),
            ("^[a-z]$", "ab", false),
            (r"^\d+$", "12", true),
            (r"^\d+$", "١٢", false),
            (r"^\w$", "é", false),
            ("^.$", "é", true),
            (r"^[\d_-]+$", "1-_", true),
            ("^[[a]$", "[", true),
            ("^[]a]+$", "]a", true),
            ("^[[:alpha:]]+$", "ab", true),
            ("^[a&&b]+$", "&", true),
            (r"\Qa.b\E$", "a.b", true),
            (r"\Qa.b\E$", "axb", false),
            (r"\bfoo\b", "a foo b", true),
            (r"\pL+", "é", true),
            ("(?i)ABC", "abc", true),
            ("(?P<name>a)", "a", true),
            ("", "", true),
        ];
        for (pattern, text, expected) in cases {
            let found = Pattern::new(pattern).map(|pattern| pattern.is_match(text));
            assert_eq!(found, Ok(expected), "{pattern} on {text}");
        }
    }

    #[test]
    fn what_is_no_pattern() {
        let cases = [
            ("[a", "missing closing ]: `[a`"),
            ("(a", "missing closing ): `(a`"),
            ("a)", "unexpected ): `a)`"),
            ("*a", "missing argument to repetition operator: `*a`"),
            ("((a{1000}){1000}){1000}", "expression too large"),
        ];
        for (pattern, expected) in cases {
            let error = Pattern::new(pattern).map(|_| ()).expect_err("is wrong");
            assert_eq!(error, format!("error parsing regexp: {expected}"));
        }
        assert!(Pattern::new(&"(".repeat(70_000)).is_err());
        assert!(Pattern::new(&"(".repeat(5_000)).is_err());
    }

    #[test]
    fn weight_follows_what_it_becomes() {
        assert_eq!(Pattern::new("^[a-z]+$").expect("is well formed").weight, 8);
        assert!(Pattern::new("(a{100}){30}").expect("is well formed").weight > 500);
    }
}
