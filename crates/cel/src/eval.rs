//! Evaluation of checked expressions. Every step is charged before it is taken, so that no expression runs longer
//! than its limit allows, and recursion is as deep as the expression.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::ast::{Bind, Call, Comprehension, Entry, Expr, Fold, Literal, Message, Node, Select};
use crate::cost::{Charge, Range};
use crate::library::{self, Outcome};
use crate::mutation;
use crate::pattern::Pattern;
use crate::value::{EvalError, Key, List, Map, Text, Value};

/// Deeper values are not shown.
pub(crate) const MAX_VALUE_DEPTH: usize = 300;
/// What making a value of named fields costs.
pub(crate) const MESSAGE: u64 = 40;
/// What compiling a pattern costs that is only known when it is used.
const COMPILATION: u64 = 500;
/// How many of those are remembered.
const REMEMBERED: usize = 16;

/// Where the variables of an expression get their values.
pub trait Activation<'a> {
    /// The value of a declared variable, or nothing if it has none now.
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>>;
}

/// Variables that are known before.
#[derive(Clone, Debug, Default)]
pub struct Variables<'a>(pub Vec<(&'a str, Value<'a>)>);

impl<'a> Activation<'a> for Variables<'a> {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| Ok(value.clone()))
    }
}

/// One evaluation as it goes on: what functions see of it.
pub struct Context<'p, 'a> {
    variables: &'p dyn Activation<'a>,
    patterns: &'a BTreeMap<String, Arc<Pattern>>,
    locals: Vec<(&'a str, Value<'a>)>,
    made_patterns: Vec<(String, Arc<Pattern>)>,
    cost: u64,
    limit: u64,
    work: usize,
}

impl<'p, 'a> Context<'p, 'a> {
    pub(crate) fn new(
        variables: &'p dyn Activation<'a>,
        patterns: &'a BTreeMap<String, Arc<Pattern>>,
        limit: u64,
    ) -> Context<'p, 'a> {
        Context {
            variables,
            patterns,
            locals: Vec::new(),
            made_patterns: Vec::new(),
            cost: 0,
            limit,
            work: 0,
        }
    }

    /// What was spent.
    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    /// Spends.
    pub(crate) fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::CostExceeded) } else { Ok(()) }
    }

    /// Looking at so many values inside of others.
    pub(crate) fn charge_work(&mut self, values: usize) -> Result<(), EvalError> {
        self.work = self.work.saturating_add(values);
        let cost = self.work / 8;
        self.work %= 8;
        self.charge(cost as u64)
    }

    /// Making a list of so many items.
    pub(crate) fn charge_made(&mut self, items: usize) -> Result<(), EvalError> {
        self.charge(items as u64 / 4)
    }

    /// Making so many bytes of text.
    pub(crate) fn charge_text(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.charge(bytes as u64 / 16)
    }

    /// A compiled pattern, with what it costs more than it looks when it is matched against this text.
    pub(crate) fn pattern(&mut self, source: &str, subject: &str) -> Result<Arc<Pattern>, EvalError> {
        let made =
            || self.made_patterns.iter().find(|(known, _)| known == source).map(|(_, pattern)| pattern);
        let pattern = match self.patterns.get(source).or_else(made) {
            Some(pattern) => Arc::clone(pattern),
            None => {
                self.charge(COMPILATION + source.len() as u64)?;
                let pattern = Arc::new(Pattern::new(source).map_err(EvalError::failed)?);
                if self.made_patterns.len() == REMEMBERED {
                    self.made_patterns.remove(0);
                }
                self.made_patterns.push((source.to_owned(), Arc::clone(&pattern)));
                pattern
            }
        };
        let extra = pattern.weight - (source.chars().count() as u64).min(pattern.weight);
        let sizes = [Range::exactly(subject.len() as u64), Range::exactly(extra)];
        self.charge(if extra == 0 { 0 } else { Charge::Matches.estimate(&sizes, None).cost.max })?;
        Ok(pattern)
    }

    /// The value of an expression.
    pub(crate) fn eval(&mut self, expr: &'a Expr) -> Outcome<'a> {
        match &expr.node {
            Node::Literal(literal) => Ok(constant(literal)),
            Node::Ident(name) => self.name(name),
            Node::Select(select) => self.select(select),
            Node::Call(call) => self.call(call),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Message(message) => self.message(message),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(bind) => {
                self.charge(10)?;
                let value = self.eval(&bind.value)?;
                self.with(&bind.name, value, &bind.body)
            }
            Node::OptionalMap(bind, flat) => self.optional_map(bind, *flat),
        }
    }

    fn with(&mut self, name: &'a str, value: Value<'a>, body: &'a Expr) -> Outcome<'a> {
        self.locals.push((name, value));
        let result = self.eval(body);
        self.locals.pop();
        result
    }

    fn name(&mut self, name: &'a str) -> Outcome<'a> {
        self.charge(1)?;
        if let Some((_, value)) = self.locals.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        if let Some(found) = self.variables.variable(name) {
            return found;
        }
        match crate::check::type_named(name) {
            Some(ty) => Ok(Value::Type(Rc::new(ty))),
            None => Err(EvalError::NoAttribute(name.to_owned())),
        }
    }

    fn select(&mut self, select: &'a Select) -> Outcome<'a> {
        if let Some(name) = &select.variable {
            let found = self.name(name);
            return if select.test { found.map(|_| Value::Bool(true)) } else { found };
        }
        let operand = self.eval(&select.operand)?;
        if !select.test {
            self.charge(1)?;
        }
        let (found, optional) = match &operand {
            Value::Optional(None) => (None, true),
            Value::Optional(Some(inner)) => (field(inner, &select.field)?, true),
            other => (field(other, &select.field)?, select.optional),
        };
        if select.test {
            return Ok(Value::Bool(found.is_some()));
        }
        match found {
            Some(value) if optional => Ok(Value::some(value)),
            Some(value) => Ok(value),
            None if optional => Ok(Value::Optional(None)),
            None => Err(EvalError::NoKey(select.field.clone())),
        }
    }

    fn call(&mut self, call: &'a Call) -> Outcome<'a> {
        match (call.function.as_str(), &call.arguments[..]) {
            ("_&&_", [left, right]) => return self.logic(left, right, false),
            ("_||_", [left, right]) => return self.logic(left, right, true),
            ("_?_:_", [condition, yes, no]) => {
                return match self.eval(condition)? {
                    Value::Bool(true) => self.eval(yes),
                    Value::Bool(false) => self.eval(no),
                    _ => Err(EvalError::NoOverload),
                };
            }
            _ => {}
        }
        let mut values = Vec::with_capacity(call.arguments.len() + 1);
        for argument in call.target.iter().chain(&call.arguments) {
            values.push(self.eval(argument)?);
        }
        let function = call.resolved.function.ok_or(EvalError::NoOverload)?;
        let candidates = call.resolved.overloads.iter().map(|index| &function.overloads[*index]);
        let mut fitting =
            candidates.filter(|o| o.params.iter().zip(&values).all(|(ty, value)| library::fits(ty, value)));
        let overload = fitting.next().ok_or(EvalError::NoOverload)?;
        let cost = match overload.charge {
            Charge::Free => 0,
            Charge::One => 1,
            // Membership ends where the item is found, but is charged as if it were last.
            charge => {
                let sizes: Vec<Range> = values.iter().map(|value| Range::exactly(value.size())).collect();
                charge.estimate(&sizes, None).cost.max
            }
        };
        self.charge(cost)?;
        (overload.call)(self, &values)
    }

    /// `&&` and `||`: one side that decides is enough, even if the other one fails.
    fn logic(&mut self, left: &'a Expr, right: &'a Expr, decides: bool) -> Outcome<'a> {
        let first = self.eval(left);
        match first {
            Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
            Err(EvalError::CostExceeded) => return first,
            _ => {}
        }
        let second = self.eval(right);
        match (first, second) {
            (_, Ok(Value::Bool(value))) if value == decides => Ok(Value::Bool(decides)),
            (_, Err(EvalError::CostExceeded)) => Err(EvalError::CostExceeded),
            (Err(error), _) | (Ok(Value::Bool(_)), Err(error)) => Err(error),
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decides)),
            _ => Err(EvalError::NoOverload),
        }
    }

    fn list(&mut self, items: &'a [(bool, Expr)]) -> Outcome<'a> {
        self.charge(10)?;
        let mut values = Vec::with_capacity(items.len());
        for (optional, item) in items {
            match self.eval(item)? {
                Value::Optional(inner) if *optional => values.extend(inner.map(|inner| Value::clone(&inner))),
                _ if *optional => return Err(EvalError::NoOverload),
                value => values.push(value),
            }
        }
        Ok(Value::list(values))
    }

    fn map(&mut self, entries: &'a [Entry]) -> Outcome<'a> {
        self.charge(30)?;
        let mut map = BTreeMap::new();
        for entry in entries {
            let key = self.eval(&entry.key)?;
            let key = Key::of(&key).filter(|_| !matches!(key, Value::Double(_)));
            let key = key.ok_or(EvalError::failed("unsupported key type"))?;
            let value = match self.eval(&entry.value)? {
                Value::Optional(None) if entry.optional => continue,
                Value::Optional(Some(inner)) if entry.optional => Value::clone(&inner),
                _ if entry.optional => return Err(EvalError::NoOverload),
                value => value,
            };
            insert(&mut map, key, value)?;
        }
        Ok(Value::Map(Map::Owned(Rc::new(map))))
    }

    fn message(&mut self, message: &'a Message) -> Outcome<'a> {
        self.charge(MESSAGE)?;
        let ty = message.ty.clone().ok_or_else(|| EvalError::NoAttribute(message.name.clone()))?;
        let mut fields = BTreeMap::new();
        for field in &message.fields {
            let value = match self.eval(&field.value)? {
                Value::Optional(None) if field.optional => continue,
                Value::Optional(Some(inner)) if field.optional => Value::clone(&inner),
                _ if field.optional => return Err(EvalError::NoOverload),
                value => value,
            };
            fields.insert(mutation::key(&field.name), value);
        }
        Ok(mutation::made(ty, fields))
    }

    fn optional_map(&mut self, bind: &'a Bind, flat: bool) -> Outcome<'a> {
        self.charge(10)?;
        match self.eval(&bind.value)? {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => {
                let mapped = self.with(&bind.name, Value::clone(&inner), &bind.body)?;
                Ok(if flat { mapped } else { Value::some(mapped) })
            }
            _ => Err(EvalError::NoOverload),
        }
    }

    fn fold(&mut self, fold: &'a Comprehension) -> Outcome<'a> {
        let range = self.eval(&fold.range)?;
        self.charge(fold.fold.price().once)?;
        let depth = self.locals.len();
        let result = match &range {
            Value::List(list) => {
                let two = fold.second.is_some();
                let items = list.iter().enumerate().map(|(index, item)| {
                    if two { (Value::Int(index as i64), Some(item)) } else { (item, None) }
                });
                self.fold_over(fold, items)
            }
            Value::Map(map) => {
                let two = fold.second.is_some();
                self.fold_over(fold, map.iter().map(|(key, value)| (key.value(), two.then_some(value))))
            }
            _ => Err(EvalError::NoOverload),
        };
        self.locals.truncate(depth);
        result
    }

    fn fold_over(
        &mut self,
        fold: &'a Comprehension,
        items: impl Iterator<Item = (Value<'a>, Option<Value<'a>>)>,
    ) -> Outcome<'a> {
        let mut state = State::of(fold.fold);
        let price = fold.fold.price();
        for (first, second) in items {
            self.charge(price.each)?;
            self.locals.push((&fold.first, first));
            if let (Some(name), Some(second)) = (&fold.second, second) {
                self.locals.push((name, second));
            }
            let done = self.step(fold, &mut state)?;
            self.locals.truncate(self.locals.len() - 1 - usize::from(fold.second.is_some()));
            if done {
                break;
            }
        }
        state.finish()
    }

    /// One item; whether no more need be looked at.
    fn step(&mut self, fold: &'a Comprehension, state: &mut State<'a>) -> Result<bool, EvalError> {
        let price = fold.fold.price();
        if let Some(filter) = &fold.filter
            && !condition(self.eval(filter)?)?
        {
            self.charge(price.skipped)?;
            return Ok(false);
        }
        let variables = self.locals.len() - 1 - usize::from(fold.second.is_some());
        let found = self.eval(&fold.body);
        let taken = !fold.fold.asks() || matches!(found, Ok(Value::Bool(true)));
        self.charge(if taken { price.taken } else { price.skipped })?;
        match state {
            State::Any { decides, failed, decided } => {
                match found {
                    Ok(Value::Bool(value)) => *decided = value == *decides,
                    Ok(_) => *failed = Some(EvalError::NoOverload),
                    Err(EvalError::CostExceeded) => return Err(EvalError::CostExceeded),
                    Err(error) => *failed = failed.take().or(Some(error)),
                }
                return Ok(*decided);
            }
            State::Count(count) => *count += u64::from(condition(found?)?),
            State::List(items) if fold.fold == Fold::Filter => {
                if condition(found?)? {
                    items.push(self.locals[variables].1.clone());
                }
            }
            State::List(items) => items.push(found?),
            State::Map(map) if fold.fold == Fold::TransformMap => {
                let key = Key::of(&self.locals[variables].1).ok_or(EvalError::NoOverload)?;
                map.insert(key, found?);
            }
            State::Map(map) => {
                let Value::Map(entries) = found? else { return Err(EvalError::NoOverload) };
                for (key, value) in entries.iter() {
                    insert(map, key, value)?;
                }
            }
        }
        Ok(false)
    }
}

/// What a macro has so far.
enum State<'a> {
    /// `all` and `exists`: ends with the answer that decides.
    Any {
        decides: bool,
        decided: bool,
        failed: Option<EvalError>,
    },
    Count(u64),
    List(Vec<Value<'a>>),
    Map(BTreeMap<Key<'a>, Value<'a>>),
}

impl<'a> State<'a> {
    fn of(fold: Fold) -> State<'a> {
        match fold {
            Fold::All => State::Any { decides: false, decided: false, failed: None },
            Fold::Exists => State::Any { decides: true, decided: false, failed: None },
            Fold::ExistsOne => State::Count(0),
            Fold::Map | Fold::Filter | Fold::TransformList => State::List(Vec::new()),
            Fold::TransformMap | Fold::TransformMapEntry => State::Map(BTreeMap::new()),
        }
    }

    fn finish(self) -> Outcome<'a> {
        match self {
            State::Any { decides, decided: true, .. } => Ok(Value::Bool(decides)),
            State::Any { failed: Some(error), .. } => Err(error),
            State::Any { decides, .. } => Ok(Value::Bool(!decides)),
            State::Count(count) => Ok(Value::Bool(count == 1)),
            State::List(items) => Ok(Value::List(List::Owned(Rc::new(items)))),
            State::Map(map) => Ok(Value::Map(Map::Owned(Rc::new(map)))),
        }
    }
}

fn condition(value: Value<'_>) -> Result<bool, EvalError> {
    match value {
        Value::Bool(value) => Ok(value),
        _ => Err(EvalError::NoOverload),
    }
}

fn insert<'a>(
    map: &mut BTreeMap<Key<'a>, Value<'a>>,
    key: Key<'a>,
    value: Value<'a>,
) -> Result<(), EvalError> {
    if map.contains_key(&key) {
        return Err(EvalError::failed("Failed with repeated key"));
    }
    map.insert(key, value);
    Ok(())
}

fn field<'a>(operand: &Value<'a>, name: &str) -> Result<Option<Value<'a>>, EvalError> {
    match operand {
        Value::Map(map) => Ok(map.field(name)),
        _ => Err(EvalError::NoOverload),
    }
}

fn constant(literal: &Literal) -> Value<'_> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::String(Text::Borrowed(text)),
        Literal::Bytes(bytes) => Value::Bytes(bytes.as_slice().into()),
    }
}
