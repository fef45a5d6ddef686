//! Tokens to expressions: operators by precedence, macros where they are called. Bounded in length and depth.
//!
//! Knows no types. Recovers from nothing: the first error is the one that is told.

mod lexer;
mod literal;
mod macros;

use lexer::{Kind, Token};

use crate::ast::{Call, Entry, Expr, Literal, Member, Message, Node, Select};
use crate::source::{CompileError, Issue};

/// The longest source, in characters.
pub const MAX_SOURCE: usize = 100_000;

/// The deepest tree.
const MAX_DEPTH: u32 = 250;

/// The deepest nesting of brackets and conditions: the parser recurses, and its threads have small stacks.
const MAX_NESTING: u32 = 100;

/// What may start an expression, as upstream lists it.
const PRIMARY: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, \
                       BYTES, IDENTIFIER}";

/// Words that the language keeps for itself.
pub(crate) const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Binary operators and how strongly they bind; `||` and `&&` are apart, since chains of them are balanced.
const OPERATORS: &[(&str, &str, u8)] = &[
    ("==", "_==_", 1),
    ("!=", "_!=_", 1),
    ("<=", "_<=_", 1),
    ("<", "_<_", 1),
    (">=", "_>=_", 1),
    (">", "_>_", 1),
    ("in", "@in", 1),
    ("+", "_+_", 2),
    ("-", "_-_", 2),
    ("*", "_*_", 3),
    ("/", "_/_", 3),
    ("%", "_%_", 3),
];

/// Reads an expression.
pub fn parse(source: &str) -> Result<Expr, CompileError> {
    let refuse = |issue| CompileError::new(source, vec![issue]);
    let size = source.chars().count();
    if size > MAX_SOURCE {
        let message = format!("expression code point size exceeds limit: size: {size}, limit {MAX_SOURCE}");
        return Err(refuse(Issue { offset: 0, message }));
    }
    let tokens = lexer::tokens(source).map_err(refuse)?;
    let mut parser = Parser { tokens, at: 0, depth: 0 };
    let parsed = parser.expression().and_then(|expr| match parser.peek() {
        Kind::End => Ok(expr),
        _ => Err(parser.unexpected("<EOF>")),
    });
    parsed.map_err(refuse)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// Levels of recursion now.
    depth: u32,
}

type Parsed = Result<Expr, Issue>;

/// A node over others; too deep a tree is refused.
fn tree(offset: u32, node: Node, below: u32) -> Parsed {
    let depth = below + 1;
    if depth > MAX_DEPTH {
        let message = format!("expression recursion limit exceeded: {MAX_DEPTH}");
        return Err(Issue { offset, message });
    }
    Ok(Expr { offset, depth, node })
}

fn call(offset: u32, function: &str, target: Option<Expr>, arguments: Vec<Expr>) -> Parsed {
    let below = target.iter().chain(&arguments).map(|expr| expr.depth).max().unwrap_or(0);
    let call = Call { target, function: function.to_owned(), arguments, resolved: Default::default() };
    tree(offset, Node::Call(Box::new(call)), below)
}

impl Parser {
    fn token(&self) -> &Token {
        &self.tokens[self.at]
    }

    fn peek(&self) -> &Kind {
        &self.token().kind
    }

    /// The place of the next token.
    fn offset(&self) -> u32 {
        self.token().offset
    }

    fn advance(&mut self) -> Token {
        let token = self.token().clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek(), Kind::Symbol(found) if *found == symbol)
    }

    fn eat(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Issue> {
        if self.eat(symbol) { Ok(()) } else { Err(self.unexpected(&format!("'{symbol}'"))) }
    }

    fn unexpected(&self, expected: &str) -> Issue {
        let token = self.token();
        let message = if *expected == *"<EOF>" {
            format!("Syntax error: extraneous input '{}' expecting <EOF>", token.text)
        } else {
            let found = if token.kind == Kind::End { "<EOF>" } else { &token.text };
            format!("Syntax error: mismatched input '{found}' expecting {expected}")
        };
        Issue { offset: token.offset, message }
    }

    fn expression(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            let message = format!("expression recursion limit exceeded: {MAX_NESTING}");
            return Err(Issue { offset: self.offset(), message });
        }
        let condition = self.chain("||", "_||_")?;
        let offset = self.offset();
        let parsed = if self.eat("?") {
            let yes = self.chain("||", "_||_")?;
            self.expect(":")?;
            let no = self.expression()?;
            call(offset, "_?_:_", None, vec![condition, yes, no])
        } else {
            Ok(condition)
        };
        self.depth -= 1;
        parsed
    }

    /// `a && b && c` as a balanced tree, so that long chains are not deep.
    fn chain(&mut self, symbol: &str, function: &str) -> Parsed {
        let mut terms = Vec::new();
        let mut offsets = Vec::new();
        loop {
            terms.push(if symbol == "||" { self.chain("&&", "_&&_")? } else { self.binary(1)? });
            offsets.push(self.offset());
            if !self.eat(symbol) {
                break;
            }
        }
        balance(terms, &offsets, function)
    }

    /// Operators that bind at least so strongly.
    fn binary(&mut self, least: u8) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let found = OPERATORS.iter().find(|(symbol, _, strength)| *strength >= least && self.is(symbol));
            let Some((_, function, strength)) = found else { return Ok(left) };
            let offset = self.advance().offset;
            let right = self.binary(strength + 1)?;
            left = call(offset, function, None, vec![left, right])?;
        }
    }

    fn unary(&mut self) -> Parsed {
        for (symbol, function) in [("!", "!_"), ("-", "-_")] {
            if !self.is(symbol) {
                continue;
            }
            let offset = self.offset();
            let mut count = 0;
            while self.is(symbol) {
                let negative = self.tokens[self.at + 1].kind.clone();
                if symbol == "-"
                    && count % 2 == 0
                    && !matches!(negative, Kind::Symbol(_))
                    && let Some(expr) = self.negative_literal(&negative)?
                {
                    return self.members(expr);
                }
                self.advance();
                count += 1;
            }
            let operand = self.member()?;
            return if count % 2 == 0 { Ok(operand) } else { call(offset, function, None, vec![operand]) };
        }
        self.member()
    }

    /// `-1` is a constant, not a call.
    fn negative_literal(&mut self, next: &Kind) -> Result<Option<Expr>, Issue> {
        let literal = match next {
            Kind::SmallestInt => Literal::Int(i64::MIN),
            Kind::Literal(Literal::Int(value)) => Literal::Int(-value),
            Kind::Literal(Literal::Double(value)) => Literal::Double(-value),
            _ => return Ok(None),
        };
        self.advance();
        let offset = self.advance().offset;
        tree(offset, Node::Literal(literal), 0).map(Some)
    }

    fn member(&mut self) -> Parsed {
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut expr: Expr) -> Parsed {
        loop {
            let offset = self.offset();
            if self.eat(".") {
                let optional = self.eat("?");
                let field = self.name()?;
                if !optional && self.is("(") {
                    let at = self.offset();
                    let arguments = self.arguments()?;
                    expr = macros::expand(Some(expr), &field, arguments, at)?;
                } else {
                    let depth = expr.depth;
                    let select = Select { operand: expr, field, test: false, optional, variable: None };
                    expr = tree(offset, Node::Select(Box::new(select)), depth)?;
                }
            } else if self.eat("[") {
                let function = if self.eat("?") { "_[?_]" } else { "_[_]" };
                let index = self.expression()?;
                self.expect("]")?;
                expr = call(offset, function, None, vec![expr, index])?;
            } else if self.is("{")
                && let Some(name) = expr.dotted()
            {
                expr = self.message(name, expr.offset)?;
            } else {
                return Ok(expr);
            }
        }
    }

    /// What is between the braces behind the name of a type.
    fn message(&mut self, name: String, offset: u32) -> Parsed {
        self.expect("{")?;
        let mut fields = Vec::new();
        while !self.is("}") {
            let optional = self.eat("?");
            let name = self.name()?;
            self.expect(":")?;
            fields.push(Member { optional, name, value: self.expression()? });
            if !self.eat(",") {
                break;
            }
        }
        self.expect("}")?;
        let below = fields.iter().map(|field| field.value.depth).max().unwrap_or(0);
        tree(offset, Node::Message(Box::new(Message { name, fields, ty: None })), below)
    }

    fn name(&mut self) -> Result<String, Issue> {
        match self.peek() {
            Kind::Ident(_) => Ok(self.advance().text),
            _ => Err(self.unexpected("IDENTIFIER")),
        }
    }

    fn primary(&mut self) -> Parsed {
        let offset = self.offset();
        match self.peek().clone() {
            Kind::Literal(literal) => {
                self.advance();
                tree(offset, Node::Literal(literal), 0)
            }
            Kind::SmallestInt => Err(Issue { offset, message: "invalid int literal".to_owned() }),
            Kind::Symbol("(") => {
                self.advance();
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Kind::Symbol("[") => self.list(),
            Kind::Symbol("{") => self.map(),
            // A leading dot means the outermost scope, which is the only one.
            Kind::Symbol(".") => {
                self.advance();
                let name = self.name()?;
                self.identifier(name, offset)
            }
            Kind::Ident(name) => {
                self.advance();
                self.identifier(name, offset)
            }
            _ => Err(self.unexpected(PRIMARY)),
        }
    }

    fn identifier(&mut self, name: String, offset: u32) -> Parsed {
        if RESERVED.contains(&name.as_str()) {
            return Err(Issue { offset, message: format!("Syntax error: reserved identifier: {name}") });
        }
        if self.is("(") {
            let at = self.offset();
            let arguments = self.arguments()?;
            return macros::expand(None, &name, arguments, at);
        }
        tree(offset, Node::Ident(name), 0)
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, Issue> {
        self.expect("(")?;
        let mut arguments = Vec::new();
        if self.eat(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression()?);
            if !self.eat(",") {
                self.expect(")")?;
                return Ok(arguments);
            }
        }
    }

    fn list(&mut self) -> Parsed {
        let offset = self.advance().offset;
        let mut items = Vec::new();
        while !self.is("]") {
            let optional = self.eat("?");
            items.push((optional, self.expression()?));
            if !self.eat(",") {
                break;
            }
        }
        self.expect("]")?;
        let below = items.iter().map(|(_, item)| item.depth).max().unwrap_or(0);
        tree(offset, Node::List(items), below)
    }

    fn map(&mut self) -> Parsed {
        let offset = self.advance().offset;
        let mut entries = Vec::new();
        while !self.is("}") {
            let optional = self.eat("?");
            let key = self.expression()?;
            self.expect(":")?;
            entries.push(Entry { optional, key, value: self.expression()? });
            if !self.eat(",") {
                break;
            }
        }
        self.expect("}")?;
        let below = entries.iter().map(|entry| entry.key.depth.max(entry.value.depth)).max().unwrap_or(0);
        tree(offset, Node::Map(entries), below)
    }
}

/// Halves, so that the depth is the logarithm of the length.
fn balance(mut terms: Vec<Expr>, offsets: &[u32], function: &str) -> Parsed {
    if terms.len() == 1 {
        return Ok(terms.remove(0));
    }
    let middle = terms.len().div_ceil(2);
    let right = balance(terms.split_off(middle), &offsets[middle..], function)?;
    let left = balance(terms, &offsets[..middle], function)?;
    call(offsets[middle - 1], function, None, vec![left, right])
}
