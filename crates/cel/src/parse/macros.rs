//! Calls that are not functions: their arguments are names and expressions over them.

use super::{Parsed, call, tree};
use crate::ast::{Bind, Comprehension, Expr, Fold, Node};
use crate::source::Issue;

/// The node of a call: a macro if name and number of arguments are one's.
pub(super) fn expand(target: Option<Expr>, name: &str, mut arguments: Vec<Expr>, offset: u32) -> Parsed {
    let on_cel =
        target.as_ref().is_some_and(|target| matches!(&target.node, Node::Ident(name) if name == "cel"));
    match (&target, name, arguments.len()) {
        (None, "has", 1) => return has(arguments.remove(0)),
        (Some(_), "bind", 3) if on_cel => return bind(arguments, offset),
        (Some(_), "optMap" | "optFlatMap", 2) => {
            let body = arguments.remove(1);
            let name_of = variable(&arguments[0], "")?;
            let value = target.ok_or_else(|| wrong(offset, "a target"))?;
            let below = value.depth.max(body.depth);
            let bind = Bind { name: name_of, value, body };
            return tree(offset, Node::OptionalMap(Box::new(bind), name == "optFlatMap"), below);
        }
        _ => {}
    }
    let Some(fold) = fold(name, arguments.len()).filter(|_| target.is_some()) else {
        return call(offset, name, target, arguments);
    };
    let range = target.ok_or_else(|| wrong(offset, "a target"))?;
    comprehension(fold, range, arguments, offset)
}

fn wrong(offset: u32, what: &str) -> Issue {
    Issue { offset, message: format!("macro needs {what}") }
}

/// A macro by its name and how many arguments it is given.
fn fold(name: &str, arguments: usize) -> Option<Fold> {
    Some(match (name, arguments) {
        ("all", 2 | 3) => Fold::All,
        ("exists", 2 | 3) => Fold::Exists,
        ("exists_one", 2 | 3) | ("existsOne", 2 | 3) => Fold::ExistsOne,
        ("map", 2 | 3) => Fold::Map,
        ("filter", 2) => Fold::Filter,
        ("transformList", 3 | 4) => Fold::TransformList,
        ("transformMap", 3 | 4) => Fold::TransformMap,
        ("transformMapEntry", 3 | 4) => Fold::TransformMapEntry,
        _ => return None,
    })
}

fn comprehension(fold: Fold, range: Expr, mut arguments: Vec<Expr>, offset: u32) -> Parsed {
    let body = arguments.pop().ok_or_else(|| wrong(offset, "a body"))?;
    // `map` has one variable and perhaps a filter; the others with more than a body have two variables.
    let two = fold != Fold::Map && arguments.len() >= 2;
    let filter = if arguments.len() > 1 + usize::from(two) { arguments.pop() } else { None };
    let first = variable(&arguments[0], "")?;
    let second = if two { Some(variable(&arguments[1], "")?) } else { None };
    if second.as_ref() == Some(&first) {
        let message = format!("duplicate variable name: {first}");
        return Err(Issue { offset: arguments[1].offset, message });
    }
    let below = filter.iter().map(|filter| filter.depth).fold(range.depth.max(body.depth), u32::max);
    let node = Comprehension { fold, range, first, second, filter, body };
    tree(offset, Node::Fold(Box::new(node)), below)
}

fn variable(expr: &Expr, prefix: &str) -> Result<String, Issue> {
    match &expr.node {
        Node::Ident(name) => Ok(name.clone()),
        _ => {
            let message = format!("{prefix}argument must be a simple name");
            Err(Issue { offset: expr.offset, message })
        }
    }
}

fn has(argument: Expr) -> Parsed {
    let Expr { offset, depth, node } = argument;
    match node {
        Node::Select(mut select) if !select.test => {
            select.test = true;
            Ok(Expr { offset, depth, node: Node::Select(select) })
        }
        _ => Err(Issue { offset, message: "invalid argument to has() macro".to_owned() }),
    }
}

fn bind(mut arguments: Vec<Expr>, offset: u32) -> Parsed {
    let body = arguments.remove(2);
    let value = arguments.remove(1);
    let name = variable(&arguments[0], "cel.bind() variable ")?;
    let below = value.depth.max(body.depth);
    tree(offset, Node::Bind(Box::new(Bind { name, value, body })), below)
}
