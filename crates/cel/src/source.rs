//! What is wrong with an expression, and where: messages as upstream prints them, with the line and a caret.

use std::fmt;

/// One finding: the place as an offset in characters, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// In characters from the start.
    pub offset: u32,
    /// What is wrong.
    pub message: String,
}

/// Why an expression was not compiled. Shown as upstream does, a paragraph for each issue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    text: String,
    /// In the order of their places.
    pub issues: Vec<Issue>,
}

/// More would only repeat themselves.
const MAX_ISSUES: usize = 100;

impl CompileError {
    pub(crate) fn new(source: &str, mut issues: Vec<Issue>) -> CompileError {
        issues.sort_by_key(|issue| issue.offset);
        issues.truncate(MAX_ISSUES);
        // A source that is refused for its length is not repeated.
        let text = if source.len() > crate::parse::MAX_SOURCE { String::new() } else { source.to_owned() };
        CompileError { text, issues }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.issues.iter().enumerate() {
            if index > 0 {
                out.write_str("\n")?;
            }
            let before = self.text.chars().take(issue.offset as usize);
            let (mut line, mut column) = (1, 0);
            for character in before {
                if character == '\n' {
                    (line, column) = (line + 1, 0);
                } else {
                    column += 1;
                }
            }
            write!(out, "ERROR: <input>:{line}:{}: {}", column + 1, issue.message)?;
            if let Some(text) = self.text.split('\n').nth(line - 1) {
                write!(out, "\n | {}\n | {}^", text.replace('\t', " "), ".".repeat(column))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caret_shows_the_place() {
        let issue = |offset, message: &str| Issue { offset, message: message.to_owned() };
        let error = CompileError::new("ä ==\n  x", vec![issue(7, "two"), issue(2, "one")]);
        let expected = "ERROR: <input>:1:3: one\n | ä ==\n | ..^\nERROR: <input>:2:3: two\n |   x\n | ..^";
        assert_eq!(error.to_string(), expected);
    }
}
