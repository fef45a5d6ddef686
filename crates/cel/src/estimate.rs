//! What an expression can cost at most, from what schemas say about the sizes of data.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ast::{Bind, Call, Comprehension, Entry, Expr, Fold, Literal, Node, Select};
use crate::cost::{Charge, Estimate, Range};
use crate::eval::MESSAGE;
use crate::types::{Schema, Type};

/// What is known of a value.
#[derive(Clone, Default)]
struct Known<'e> {
    /// Its schema, if it is part of the data.
    schema: Option<&'e Schema>,
    /// Its size, if that follows from how it is made.
    size: Option<Range>,
    /// The sizes of its items, if it is a list that is made.
    items: Option<Range>,
    /// It is a number or the like.
    scalar: bool,
}

impl<'e> Known<'e> {
    fn size(&self) -> Range {
        match (self.size, self.schema) {
            (Some(size), _) => size,
            (None, Some(schema)) => Range { min: 0, max: schema.max_elements },
            (None, None) if self.scalar => Range::exactly(1),
            (None, None) => Range::ANY,
        }
    }

    fn of_size(size: Range) -> Known<'e> {
        Known { size: Some(size), ..Known::default() }
    }

    fn inner(&self) -> Known<'e> {
        let schema = self.schema.and_then(|schema| schema.inner.as_deref());
        Known { schema, size: self.items, items: None, scalar: false }
    }

    /// The sizes of its items, if they are texts.
    fn elements(&self) -> Option<Range> {
        let texts = self.schema.and_then(|schema| schema.inner.as_deref());
        match texts {
            Some(inner) if matches!(inner.ty, Type::String | Type::Bytes) => {
                Some(Range { min: 0, max: inner.max_elements })
            }
            Some(_) => None,
            None => self.items,
        }
    }

    fn union(self, other: Known<'e>) -> Known<'e> {
        let size = self.size().union(other.size());
        Known { schema: None, size: Some(size), items: None, scalar: false }
    }
}

/// The range of costs of a checked expression.
pub(crate) fn estimate(expr: &Expr, variables: &BTreeMap<String, Arc<Schema>>) -> Range {
    Estimator { variables, scopes: Vec::new() }.at(expr).0
}

struct Estimator<'e> {
    variables: &'e BTreeMap<String, Arc<Schema>>,
    scopes: Vec<(&'e str, Known<'e>)>,
}

/// Names and selections.
const STEP: Range = Range::exactly(1);

impl<'e> Estimator<'e> {
    fn at(&mut self, expr: &'e Expr) -> (Range, Known<'e>) {
        match &expr.node {
            Node::Literal(literal) => (Range::ZERO, constant(literal)),
            Node::Ident(name) => (STEP, self.name(name)),
            Node::Select(select) => self.select(select),
            Node::Call(call) => self.call(call),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Message(message) => {
                let mut cost = Range::exactly(MESSAGE);
                for field in &message.fields {
                    cost = cost.plus(self.at(&field.value).0);
                }
                (cost, Known::default())
            }
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(bind) | Node::OptionalMap(bind, _) => self.bind(bind),
        }
    }

    fn name(&self, name: &str) -> Known<'e> {
        if let Some((_, known)) = self.scopes.iter().rev().find(|(known, _)| *known == name) {
            return known.clone();
        }
        let variables = self.variables;
        let schema = variables.get(name).map(|schema| &**schema);
        // A variable of which only the type is known can be of any size.
        let bare = schema.filter(|schema| schema.max_elements > 0 || matches!(schema.ty, Type::Object(_)));
        Known {
            schema: bare,
            size: None,
            items: None,
            scalar: schema.is_some_and(|schema| schema.ty.is_scalar()),
        }
    }

    fn select(&mut self, select: &'e Select) -> (Range, Known<'e>) {
        if let Some(name) = &select.variable {
            return (STEP, self.name(name));
        }
        let (cost, operand) = self.at(&select.operand);
        if select.test {
            return (cost, Known { scalar: true, ..Known::default() });
        }
        let found = operand.schema.and_then(|schema| match &schema.ty {
            Type::Object(_) => schema.field(&select.field).map(|field| &*field.schema),
            _ => schema.inner.as_deref(),
        });
        (cost.plus(STEP), Known { schema: found, ..Known::default() })
    }

    fn call(&mut self, call: &'e Call) -> (Range, Known<'e>) {
        let found: Vec<(Range, Known<'e>)> =
            call.target.iter().chain(&call.arguments).map(|e| self.at(e)).collect();
        let sum =
            |parts: &[(Range, Known<'e>)]| parts.iter().fold(Range::ZERO, |sum, (cost, _)| sum.plus(*cost));
        match (call.function.as_str(), &found[..]) {
            ("_&&_" | "_||_", [(left, _), (right, _)]) => {
                let cost = Range { min: left.min, max: left.plus(*right).max };
                return (cost, Known { scalar: true, ..Known::default() });
            }
            ("_?_:_", [(condition, _), (yes, one), (no, other)]) => {
                return (condition.plus(yes.union(*no)), one.clone().union(other.clone()));
            }
            ("_[_]" | "_[?_]", [(_, base), ..]) => return (sum(&found).plus(STEP), base.inner()),
            ("value" | "orValue" | "or", [(_, base), ..]) => return (sum(&found).plus(STEP), base.clone()),
            ("optional.of" | "optional.ofNonZeroValue" | "dyn", [(_, base)]) => {
                return (sum(&found).plus(STEP), base.clone());
            }
            _ => {}
        }
        let sizes: Vec<Range> = found.iter().map(|(_, known)| known.size()).collect();
        let elements = found.first().and_then(|(_, known)| known.elements());
        let (own, result, scalar) = charged(call, &sizes, elements);
        let items = match call.function.as_str() {
            // Parts of a text are no longer than it is.
            "split" | "findAll" => sizes.first().map(|size| Range { min: 0, max: size.max }),
            _ => None,
        };
        (sum(&found).plus(own), Known { schema: None, size: result, items, scalar })
    }

    fn list(&mut self, items: &'e [(bool, Expr)]) -> (Range, Known<'e>) {
        let mut cost = Range::exactly(10);
        let mut inner: Option<Range> = None;
        for (_, item) in items {
            let (own, known) = self.at(item);
            cost = cost.plus(own);
            inner = Some(inner.map_or(known.size(), |inner| inner.union(known.size())));
        }
        let size = Some(Range::exactly(items.len() as u64));
        (cost, Known { schema: None, size, items: inner, scalar: false })
    }

    fn map(&mut self, entries: &'e [Entry]) -> (Range, Known<'e>) {
        let cost = entries.iter().fold(Range::exactly(30), |cost, entry| {
            cost.plus(self.at(&entry.key).0).plus(self.at(&entry.value).0)
        });
        (cost, Known::of_size(Range::exactly(entries.len() as u64)))
    }

    fn bind(&mut self, bind: &'e Bind) -> (Range, Known<'e>) {
        let (cost, value) = self.at(&bind.value);
        self.scopes.push((&bind.name, value));
        let (body, result) = self.at(&bind.body);
        self.scopes.pop();
        (cost.plus(body).plus(Range::exactly(10)), result)
    }

    fn fold(&mut self, fold: &'e Comprehension) -> (Range, Known<'e>) {
        let (range_cost, range) = self.at(&fold.range);
        let is_map = range.schema.is_some_and(|schema| matches!(schema.ty, Type::Map(..)));
        let depth = self.scopes.len();
        // Names of maps are taken to be short, as upstream does.
        let key = Known { size: is_map.then_some(Range::ZERO), scalar: !is_map, ..Known::default() };
        match &fold.second {
            Some(second) => {
                self.scopes.push((&fold.first, key));
                self.scopes.push((second, range.inner()));
            }
            None => self.scopes.push((&fold.first, if is_map { key } else { range.inner() })),
        }
        let price = fold.fold.price();
        let mut each = Range::exactly(price.each);
        let mut taken = Range::exactly(price.taken);
        let skipped = Range::exactly(price.skipped);
        let (body, result) = self.at(&fold.body);
        match &fold.filter {
            Some(filter) => {
                each = each.plus(self.at(filter).0);
                taken = taken.plus(body).union(skipped);
            }
            None if fold.fold.asks() => {
                each = each.plus(body);
                taken = taken.union(skipped);
            }
            None => taken = taken.plus(body),
        }
        self.scopes.truncate(depth);
        let count = range.size();
        let cost = range_cost.plus(Range::exactly(price.once)).plus(count.times(each.plus(taken)));
        let known = match fold.fold {
            Fold::All | Fold::Exists | Fold::ExistsOne => Known { scalar: true, ..Known::default() },
            Fold::Filter if !is_map => Known { size: Some(Range { min: 0, ..count }), ..range },
            _ => Known {
                size: Some(Range { min: 0, ..count }),
                items: Some(result.size()),
                ..Known::default()
            },
        };
        (cost, known)
    }
}

/// What the candidates of a call cost between them, what size they give, and whether that is a scalar.
fn charged(call: &Call, sizes: &[Range], elements: Option<Range>) -> (Range, Option<Range>, bool) {
    let Some(function) = call.resolved.function else { return (STEP, None, false) };
    let (mut cost, mut result, mut scalar) = (None::<Range>, None::<Range>, true);
    for index in &call.resolved.overloads {
        let overload = &function.overloads[*index];
        let Estimate { cost: own, result: size } = overload.charge.estimate(sizes, elements);
        let own = if overload.charge == Charge::Free { STEP } else { own };
        cost = Some(cost.map_or(own, |cost| cost.union(own)));
        if let Some(size) = size {
            result = Some(result.map_or(size, |result| result.union(size)));
        }
        scalar &= overload.result.is_scalar();
    }
    (cost.unwrap_or(STEP), result.filter(|_| !scalar), scalar)
}

fn constant<'e>(literal: &Literal) -> Known<'e> {
    match literal {
        Literal::String(text) => Known::of_size(Range::exactly(text.chars().count() as u64)),
        Literal::Bytes(bytes) => Known::of_size(Range::exactly(bytes.len() as u64)),
        Literal::Null => Known::of_size(Range::exactly(1)),
        _ => Known { scalar: true, ..Known::default() },
    }
}
