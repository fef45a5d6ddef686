//! All functions: what they are called, what they take, what they give and cost, and how they are computed.
//!
//! Each library is a table of lines; [`functions`] joins them once. Signatures are text in the notation of error
//! messages: `(string) -> int` for a function, `string.(int) -> string` for a method; capital letters are types that
//! fit whatever is there.

mod conversions;
mod formats;
mod lists;
mod net;
mod operators;
mod optionals;
mod patterns;
mod quantities;
mod semver;
mod strfmt;
mod strings;
mod times;
mod url;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

pub use formats::Named;
pub use net::Cidr;
pub use operators::{equal, join_lists};
pub use semver::Semver;
pub use url::Url;

use crate::authorizer;
use crate::cost::Charge;
use crate::eval::Context;
use crate::types::Type;
use crate::value::{EvalError, Value};

/// A function or method and its overloads.
#[derive(Debug)]
pub struct Function {
    /// The name, of operators too: `_+_`.
    pub name: &'static str,
    /// In the order in which they are tried.
    pub overloads: Vec<Overload>,
}

/// One signature.
#[derive(Debug)]
pub struct Overload {
    /// Whether it is called on its first parameter.
    pub method: bool,
    /// The target of methods first.
    pub params: Vec<Type>,
    /// What it gives.
    pub result: Type,
    /// How it is charged.
    pub charge: Charge,
    /// How it is computed.
    pub call: Call,
}

/// A computation over a target and arguments that have the types of the overload.
pub type Call = for<'a> fn(&mut Context<'_, 'a>, &[Value<'a>]) -> Result<Value<'a>, EvalError>;

/// A line of a library: name, signature, charge, computation.
pub(crate) type Line = (&'static str, &'static str, Charge, Call);

/// What an evaluation gives.
pub(crate) type Outcome<'a> = Result<Value<'a>, EvalError>;

/// Values that only functions know.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is named after its type")]
pub enum Opaque<'a> {
    Quantity(api_machinery::quantity::Quantity),
    Url(Url),
    Ip(std::net::IpAddr),
    Cidr(Cidr),
    Semver(Semver),
    Format(&'static Named),
    Authorization(authorizer::Stage<'a>),
}

pub(crate) const QUANTITY: &str = "kubernetes.Quantity";
pub(crate) const URL: &str = "kubernetes.URL";
pub(crate) const IP: &str = "net.IP";
pub(crate) const CIDR: &str = "net.CIDR";
pub(crate) const SEMVER: &str = "kubernetes.Semver";
pub(crate) const FORMAT: &str = "kubernetes.NamedFormat";

impl Opaque<'_> {
    /// Its type.
    pub fn ty(&self) -> Type {
        Type::Opaque(match self {
            Opaque::Quantity(_) => QUANTITY,
            Opaque::Url(_) => URL,
            Opaque::Ip(_) => IP,
            Opaque::Cidr(_) => CIDR,
            Opaque::Semver(_) => SEMVER,
            Opaque::Format(_) => FORMAT,
            Opaque::Authorization(stage) => stage.type_name(),
        })
    }

    /// Its size as costs count it.
    pub fn size(&self) -> u64 {
        match self {
            Opaque::Ip(ip) | Opaque::Cidr(Cidr { address: ip, .. }) => {
                if ip.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            _ => 1,
        }
    }
}

/// All libraries, joined.
static FUNCTIONS: LazyLock<BTreeMap<&'static str, Function>> = LazyLock::new(|| {
    let tables = [
        operators::LINES,
        conversions::LINES,
        times::LINES,
        strings::LINES,
        lists::LINES,
        optionals::LINES,
        patterns::LINES,
        url::LINES,
        net::LINES,
        quantities::LINES,
        semver::LINES,
        formats::LINES,
        authorizer::LINES,
        crate::mutation::LINES,
    ];
    let mut functions: BTreeMap<&'static str, Function> = BTreeMap::new();
    for (name, signature, charge, call) in tables.into_iter().flatten() {
        let (method, params, result) = signature_of(signature);
        let overload = Overload { method, params, result, charge: *charge, call: *call };
        functions
            .entry(name)
            .or_insert_with(|| Function { name, overloads: Vec::new() })
            .overloads
            .push(overload);
    }
    functions
});

/// A function by its name.
pub fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.get(name)
}

fn signature_of(text: &'static str) -> (bool, Vec<Type>, Type) {
    let (left, result) = text.split_once(" -> ").expect("a signature has a result");
    let open = if left.starts_with('(') { 0 } else { left.find(".(").map_or(0, |dot| dot + 1) };
    let (target, arguments) = left.split_at(open);
    let method = !target.is_empty();
    let mut params = Vec::new();
    if method {
        params.push(type_of(target.trim_end_matches('.')));
    }
    params.extend(split(&arguments[1..arguments.len() - 1]).into_iter().map(type_of));
    (method, params, type_of(result))
}

/// Parts between commas that are not in brackets.
fn split(text: &'static str) -> Vec<&'static str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..index].trim());
                start = index + 1;
            }
            _ => {}
        }
    }
    let last = text[start..].trim();
    if !last.is_empty() {
        parts.push(last);
    }
    parts
}

fn type_of(text: &'static str) -> Type {
    let inner = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(')'));
    if let Some(items) = inner("list(") {
        return Type::list(type_of(items));
    }
    if let Some(value) = inner("optional_type(") {
        return Type::optional(type_of(value));
    }
    if let Some(value) = inner("type(") {
        return Type::Type(Arc::new(type_of(value)));
    }
    if let Some(entry) = inner("map(") {
        let parts = split(entry);
        return Type::map(type_of(parts[0]), type_of(parts[1]));
    }
    match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        letter if letter.len() == 1 => Type::Param(u32::from(letter.as_bytes()[0] - b'A')),
        opaque => Type::Opaque(opaque),
    }
}

/// Whether a value can be an argument of that type; what is inside lists and maps is looked at as far as it decides.
pub(crate) fn fits(ty: &Type, value: &Value<'_>) -> bool {
    match (ty, value) {
        (Type::Dyn | Type::Param(_), _)
        | (Type::Null, Value::Null)
        | (Type::Bool, Value::Bool(_))
        | (Type::Int, Value::Int(_))
        | (Type::Uint, Value::Uint(_))
        | (Type::Double, Value::Double(_))
        | (Type::String, Value::String(_))
        | (Type::Bytes, Value::Bytes(_))
        | (Type::Timestamp, Value::Timestamp(_))
        | (Type::Duration, Value::Duration(_))
        | (Type::Map(..), Value::Map(_))
        | (Type::Type(_), Value::Type(_))
        | (Type::Optional(_), Value::Optional(_)) => true,
        (Type::List(inner), Value::List(list)) => match **inner {
            Type::Dyn | Type::Param(_) => true,
            _ => list.get(0).is_none_or(|first| fits(inner, &first)),
        },
        (Type::Opaque(name), Value::Opaque(opaque)) => opaque.ty() == Type::Opaque(name),
        _ => false,
    }
}

/// The text of an argument that has been found to be one.
pub(crate) fn text<'v>(value: &'v Value<'_>) -> Result<&'v str, EvalError> {
    match value {
        Value::String(text) => Ok(text.as_str()),
        _ => Err(EvalError::NoOverload),
    }
}

/// The number of an argument that has been found to be one.
pub(crate) fn int(value: &Value<'_>) -> Result<i64, EvalError> {
    match value {
        Value::Int(value) => Ok(*value),
        _ => Err(EvalError::NoOverload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_is_read() {
        assert!(FUNCTIONS.len() > 100);
        let (method, params, result) = signature_of("map(A, list(B)).(dyn, optional_type(B)) -> net.IP");
        assert!(method);
        let shown: Vec<String> = params.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["map(T0, list(T1))", "dyn", "optional_type(T1)"]);
        assert_eq!(result, Type::Opaque(IP));
        let (method, params, _) = signature_of("net.CIDR.(net.IP) -> bool");
        assert_eq!((method, params), (true, vec![Type::Opaque(CIDR), Type::Opaque(IP)]));
        assert_eq!(signature_of("() -> bool").1, []);
    }
}
