//! Expressions as trees. Macros are nodes of their own rather than expansions: what they cost is in [`Fold::price`].

use crate::types::Type;

/// One node.
#[derive(Clone, Debug)]
pub struct Expr {
    /// Where it is in the source, in characters.
    pub offset: u32,
    /// Levels below it, itself included.
    pub depth: u32,
    /// What it is.
    pub node: Node,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Node {
    /// A constant.
    Literal(Literal),
    /// A name.
    Ident(String),
    /// `operand.field`, `operand.?field`.
    Select(Box<Select>),
    /// A function, method or operator.
    Call(Box<Call>),
    /// `[a, ?b]`: whether each is optional.
    List(Vec<(bool, Expr)>),
    /// `{k: v, ?k: v}`.
    Map(Vec<Entry>),
    /// `Name{field: value, ?field: value}`.
    Message(Box<Message>),
    /// A macro that goes through a list or a map.
    Fold(Box<Comprehension>),
    /// `cel.bind(name, value, body)`.
    Bind(Box<Bind>),
    /// `value.optMap(name, body)`; `flat` for `optFlatMap`.
    OptionalMap(Box<Bind>, bool),
}

/// A constant.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the language")]
pub enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

/// `operand.field`.
#[derive(Clone, Debug)]
pub struct Select {
    /// Of what.
    pub operand: Expr,
    /// Which.
    pub field: String,
    /// `has(operand.field)`.
    pub test: bool,
    /// `operand.?field`.
    pub optional: bool,
    /// The whole chain is the name of a variable, such as `variables.x`: set by the checker.
    pub variable: Option<String>,
}

/// A call. Operators have names such as `_+_`.
#[derive(Clone, Debug)]
pub struct Call {
    /// Of methods.
    pub target: Option<Expr>,
    /// The name; a namespaced one in full once it is checked.
    pub function: String,
    /// Without the target.
    pub arguments: Vec<Expr>,
    /// Candidates among the overloads of the function: set by the checker.
    pub resolved: Resolved,
}

/// What the checker found that a call can be.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// The function.
    pub function: Option<&'static crate::library::Function>,
    /// Indices of its overloads that fit.
    pub overloads: Vec<usize>,
}

/// `key: value`.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `?key: value`.
    pub optional: bool,
    /// The key.
    pub key: Expr,
    /// The value.
    pub value: Expr,
}

/// `Name{field: value}`.
#[derive(Clone, Debug)]
pub struct Message {
    /// The name of the type.
    pub name: String,
    /// What is said of it.
    pub fields: Vec<Member>,
    /// The type: set by the checker.
    pub ty: Option<std::sync::Arc<crate::types::Object>>,
}

/// `field: value`.
#[derive(Clone, Debug)]
pub struct Member {
    /// `?field: value`.
    pub optional: bool,
    /// The field.
    pub name: String,
    /// The value.
    pub value: Expr,
}

/// `cel.bind` and its like.
#[derive(Clone, Debug)]
pub struct Bind {
    /// The variable.
    pub name: String,
    /// What it stands for.
    pub value: Expr,
    /// Where it may be used.
    pub body: Expr,
}

/// A macro over a range.
#[derive(Clone, Debug)]
pub struct Comprehension {
    /// Which.
    pub fold: Fold,
    /// The list or map.
    pub range: Expr,
    /// The variable; with two of them the index or key.
    pub first: String,
    /// The value, with two variables.
    pub second: Option<String>,
    /// A condition that selects, of `map` and `transform*` with one more argument.
    pub filter: Option<Expr>,
    /// What is asked or computed of each.
    pub body: Expr,
}

/// The macros that go through a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the macros")]
pub enum Fold {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
    TransformMapEntry,
}

/// What a macro costs beside its range and its body.
#[derive(Clone, Copy, Debug)]
pub struct Price {
    /// Once.
    pub once: u64,
    /// Each item.
    pub each: u64,
    /// Each item that is taken.
    pub taken: u64,
    /// Each item that is not.
    pub skipped: u64,
}

impl Fold {
    /// As upstream counts: each name that its expansion reads is one, an operator one, a new list ten.
    pub fn price(self) -> Price {
        match self {
            Fold::All => Price { once: 1, each: 3, taken: 0, skipped: 0 },
            Fold::Exists => Price { once: 1, each: 4, taken: 0, skipped: 0 },
            Fold::ExistsOne => Price { once: 2, each: 0, taken: 2, skipped: 1 },
            Fold::Map | Fold::TransformList => Price { once: 11, each: 0, taken: 12, skipped: 1 },
            Fold::Filter => Price { once: 11, each: 0, taken: 13, skipped: 1 },
            Fold::TransformMap | Fold::TransformMapEntry => {
                Price { once: 31, each: 0, taken: 32, skipped: 1 }
            }
        }
    }

    /// Whether its body is a condition.
    pub fn asks(self) -> bool {
        matches!(self, Fold::All | Fold::Exists | Fold::ExistsOne | Fold::Filter)
    }
}

impl Expr {
    /// The name that a chain of selections spells, such as `a.b.c`.
    pub fn dotted(&self) -> Option<String> {
        match &self.node {
            Node::Ident(name) => Some(name.clone()),
            Node::Select(select) if !select.test && !select.optional => {
                Some(format!("{}.{}", select.operand.dotted()?, select.field))
            }
            _ => None,
        }
    }
}

impl Literal {
    /// Its type.
    pub fn ty(&self) -> Type {
        match self {
            Literal::Null => Type::Null,
            Literal::Bool(_) => Type::Bool,
            Literal::Int(_) => Type::Int,
            Literal::Uint(_) => Type::Uint,
            Literal::Double(_) => Type::Double,
            Literal::String(_) => Type::String,
            Literal::Bytes(_) => Type::Bytes,
        }
    }
}
