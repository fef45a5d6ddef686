//! Source text to tokens. Literals are decoded here, so that the parser sees values.

use super::literal;
use crate::ast::Literal;
use crate::source::Issue;

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A name, reserved ones included.
    Ident(String),
    /// A constant, words such as `true` included.
    Literal(Literal),
    /// An integer literal that fits only with a minus in front.
    SmallestInt,
    /// An operator or bracket.
    Symbol(&'static str),
    /// The end.
    End,
}

/// A token and its place in characters.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    pub offset: u32,
    pub text: String,
}

const SYMBOLS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ",", ".", "(", ")",
    "[", "]", "{", "}",
];

/// All tokens, with [`Kind::End`] last, or the first thing that is none.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, Issue> {
    let characters: Vec<char> = source.chars().collect();
    let mut lexer = Lexer { characters: &characters, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks();
        let start = lexer.at;
        let kind = lexer.token()?;
        let done = kind == Kind::End;
        let text = if done { "<EOF>".to_owned() } else { characters[start..lexer.at].iter().collect() };
        tokens.push(Token { kind, offset: offset(start), text });
        if done {
            return Ok(tokens);
        }
    }
}

/// Sources are far shorter than 2^32.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

struct Lexer<'a> {
    characters: &'a [char],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    fn skip_blanks(&mut self) {
        while let Some(character) = self.peek(0) {
            if character == '/' && self.peek(1) == Some('/') {
                while self.peek(0).is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
            } else if matches!(character, ' ' | '\t' | '\r' | '\n' | '\u{c}') {
                self.at += 1;
            } else {
                break;
            }
        }
    }

    fn token(&mut self) -> Result<Kind, Issue> {
        let Some(first) = self.peek(0) else { return Ok(Kind::End) };
        let second_is_digit = self.peek(1).is_some_and(|c| c.is_ascii_digit());
        if first.is_ascii_digit() || (first == '.' && second_is_digit) {
            return self.number();
        }
        if let Some((raw, bytes, prefix)) = self.string_prefix() {
            return self.string(raw, bytes, prefix);
        }
        if first.is_ascii_alphabetic() || first == '_' {
            return Ok(self.word());
        }
        for symbol in SYMBOLS {
            if symbol.chars().enumerate().all(|(index, c)| self.peek(index) == Some(c)) {
                self.at += symbol.len();
                return Ok(Kind::Symbol(symbol));
            }
        }
        Err(self.unrecognised(self.at, self.at + 1))
    }

    fn unrecognised(&self, start: usize, end: usize) -> Issue {
        let end = end.min(self.characters.len());
        let text: String = self.characters[start..end].iter().collect();
        Issue {
            offset: offset(start),
            message: format!("Syntax error: token recognition error at: '{text}'"),
        }
    }

    fn word(&mut self) -> Kind {
        let start = self.at;
        while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            self.at += 1;
        }
        let word: String = self.characters[start..self.at].iter().collect();
        match word.as_str() {
            "true" => Kind::Literal(Literal::Bool(true)),
            "false" => Kind::Literal(Literal::Bool(false)),
            "null" => Kind::Literal(Literal::Null),
            "in" => Kind::Symbol("in"),
            _ => Kind::Ident(word),
        }
    }

    fn digits(&mut self, allowed: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&allowed) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Result<Kind, Issue> {
        let start = self.at;
        let hexadecimal = self.peek(0) == Some('0')
            && matches!(self.peek(1), Some('x' | 'X'))
            && self.peek(2).is_some_and(|c| c.is_ascii_hexdigit());
        let mut fractional = false;
        if hexadecimal {
            self.at += 2;
            self.digits(|c| c.is_ascii_hexdigit());
        } else {
            self.digits(|c| c.is_ascii_digit());
            if self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
                fractional = true;
                self.at += 1;
                self.digits(|c| c.is_ascii_digit());
            }
            let signed = usize::from(matches!(self.peek(1), Some('+' | '-')));
            let exponent = matches!(self.peek(0), Some('e' | 'E'));
            if exponent && self.peek(1 + signed).is_some_and(|c| c.is_ascii_digit()) {
                fractional = true;
                self.at += 1 + signed;
                self.digits(|c| c.is_ascii_digit());
            }
        }
        let text: String = self.characters[start..self.at].iter().collect();
        let unsigned = !fractional && matches!(self.peek(0), Some('u' | 'U'));
        self.at += usize::from(unsigned);
        let kind = if fractional { literal::double(&text) } else { literal::integer(&text, unsigned) };
        kind.map_err(|message| Issue { offset: offset(start), message })
    }

    /// Whether a string starts here: raw, bytes, and how many letters say so.
    fn string_prefix(&self) -> Option<(bool, bool, usize)> {
        let (mut raw, mut bytes, mut length) = (false, false, 0);
        loop {
            match self.peek(length)? {
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes => bytes = true,
                '"' | '\'' => return Some((raw, bytes, length)),
                _ => return None,
            }
            length += 1;
        }
    }

    fn string(&mut self, raw: bool, bytes: bool, prefix: usize) -> Result<Kind, Issue> {
        let start = self.at;
        self.at += prefix;
        let quote = self.characters[self.at];
        let triple = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        let width = if triple { 3 } else { 1 };
        self.at += width;
        let content = self.at;
        loop {
            match self.peek(0) {
                None => return Err(self.unrecognised(start, self.at)),
                Some('\n' | '\r') if !triple => return Err(self.unrecognised(start, self.at + 1)),
                Some('\\') if !raw => self.at += 2,
                Some(c) if c == quote && (0..width).all(|index| self.peek(index) == Some(quote)) => break,
                Some(_) => self.at += 1,
            }
        }
        let body = &self.characters[content..self.at];
        let decoded = if bytes { literal::bytes(body, raw) } else { literal::string(body, raw) };
        self.at += width;
        match decoded {
            Some(literal) => Ok(Kind::Literal(literal)),
            None => Err(self.unrecognised(start, self.at)),
        }
    }
}
