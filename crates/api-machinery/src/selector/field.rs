//! Field selectors: `status.phase=Running,metadata.name!=a`.

use std::fmt;

use super::SelectorError;

/// A conjunction of terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldTerm>);

/// One field and what it must, or must not, be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldTerm {
    /// Such as `spec.nodeName`.
    pub field: String,
    /// Whether the field must differ from the value.
    pub negated: bool,
    /// The value, unescaped.
    pub value: String,
}

impl FieldSelector {
    /// Selects everything.
    pub fn everything() -> FieldSelector {
        FieldSelector::default()
    }

    /// Selects objects whose field has the value.
    pub fn exactly(field: &str, value: &str) -> FieldSelector {
        let term = FieldTerm { field: field.to_owned(), negated: false, value: value.to_owned() };
        FieldSelector(vec![term])
    }

    /// Reads the string form.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let Some((field, negated, value)) = split_term(part) else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            terms.push(FieldTerm { field: field.to_owned(), negated, value: unescape(value)? });
        }
        terms.sort();
        Ok(FieldSelector(terms))
    }

    /// Whether nothing is excluded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All terms, sorted.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.0
    }

    /// The value that a field must have, if there is just one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|term| !term.negated && term.field == field).map(|term| term.value.as_str())
    }

    /// Whether an object is selected whose fields have the values that `value_of` says; absent fields are empty.
    pub fn matches<V: AsRef<str>>(&self, value_of: impl Fn(&str) -> Option<V>) -> bool {
        self.0.iter().all(|term| {
            let equal =
                value_of(&term.field).map_or(term.value.is_empty(), |value| value.as_ref() == term.value);
            equal != term.negated
        })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if term.negated { "!=" } else { "=" };
            write!(out, "{comma}{}{operator}", term.field)?;
            for character in term.value.chars() {
                if matches!(character, '\\' | ',' | '=') {
                    out.write_str("\\")?;
                }
                write!(out, "{character}")?;
            }
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |character| {
        let splits = character == ',' && !escaped;
        escaped = character == '\\' && !escaped;
        splits
    })
}

/// Splits at the first operator.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.char_indices().find_map(|(index, _)| {
        let rest = &term[index..];
        ["!=", "==", "="].into_iter().find(|operator| rest.starts_with(operator)).map(|found| (index, found))
    });
    at.map(|(index, operator)| (&term[..index], operator == "!=", &term[index + operator.len()..]))
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(other) => {
                    let text = format!("invalid field selector: invalid escape sequence: \\{other}");
                    return Err(SelectorError(text));
                }
                None => {
                    return Err(SelectorError(
                        "invalid field selector: invalid escape sequence: \\".to_owned(),
                    ));
                }
            },
            ',' | '=' => {
                let text = format!("invalid field selector: unescaped character in value: {character}");
                return Err(SelectorError(text));
            }
            plain => out.push(plain),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parsing() {
        let cases = [
            ("", Ok("")),
            (",,", Ok("")),
            ("a=b", Ok("a=b")),
            ("a==b", Ok("a=b")),
            ("b!=c,a=", Ok("a=,b!=c")),
            (r"a=x\,y\=z\\", Ok(r"a=x\,y\=z\\")),
            ("a", Err("invalid selector: 'a'; can't understand 'a'")),
            ("a=b,c", Err("invalid selector: 'a=b,c'; can't understand 'c'")),
            ("a=b=c", Err("invalid field selector: unescaped character in value: =")),
            (r"a=\x", Err(r"invalid field selector: invalid escape sequence: \x")),
            (r"a=b\", Err(r"invalid field selector: invalid escape sequence: \")),
        ];
        for (text, expected) in cases {
            let got =
                FieldSelector::parse(text).map(|selector| selector.to_string()).map_err(|error| error.0);
            assert_eq!(got.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn matching() {
        let fields = |name: &str| (name == "a").then_some("1");
        for (text, expected) in
            [("a=1", true), ("a!=1", false), ("b=", true), ("b!=", false), ("a=1,b=2", false)]
        {
            let selector = FieldSelector::parse(text).expect("is well formed");
            assert_eq!(selector.matches(fields), expected, "{text}");
        }
        assert_eq!(FieldSelector::parse("a!=1,a=2").expect("is well formed").exact("a"), Some("2"));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(terms in prop::collection::vec(("[a-z.]{1,8}", any::<bool>(), ".{0,8}"), 0..5)) {
            let mut terms: Vec<FieldTerm> = terms
                .into_iter()
                .map(|(field, negated, value)| FieldTerm { field, negated, value })
                .collect();
            terms.sort();
            let selector = FieldSelector(terms);
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
        }

        #[test]
        fn nothing_makes_it_panic(text in ".{0,64}") {
            if let Ok(selector) = FieldSelector::parse(&text) {
                prop_assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}
