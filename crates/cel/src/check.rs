//! The type checker: whether an expression can be evaluated at all, and what it gives.
//!
//! Types of what is overloaded or generic are found by unification. An expression that passes and touches nothing of
//! type `dyn` never fails for want of an overload.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ast::{Bind, Call, Comprehension, Entry, Expr, Fold, Literal, Message, Node, Select};
use crate::library::{self, Function};
use crate::mutation;
use crate::pattern::Pattern;
use crate::source::Issue;
use crate::types::{Schema, Type};

/// What the checker finds out about an expression.
pub(crate) struct Checked {
    pub result: Type,
    pub issues: Vec<Issue>,
    /// Patterns that are constants.
    pub patterns: BTreeMap<String, Arc<Pattern>>,
    /// Declared variables that are used.
    pub variables: BTreeSet<String>,
}

/// Checks, and notes in the tree what its calls are.
pub(crate) fn check(expr: &mut Expr, variables: &BTreeMap<String, Arc<Schema>>, makes: bool) -> Checked {
    let mut checker = Checker {
        variables,
        makes,
        scopes: Vec::new(),
        bindings: Vec::new(),
        issues: Vec::new(),
        patterns: BTreeMap::new(),
        used: BTreeSet::new(),
    };
    let found = checker.at(expr);
    let result = checker.settled(&found);
    Checked { result, issues: checker.issues, patterns: checker.patterns, variables: checker.used }
}

/// Types that have a name in expressions.
pub(crate) fn type_named(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "null_type" => Type::Null,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "type" => Type::Type(Arc::new(Type::Dyn)),
        "optional_type" => Type::optional(Type::Dyn),
        "net.IP" => Type::Opaque(library::IP),
        "net.CIDR" => Type::Opaque(library::CIDR),
        _ => return None,
    })
}

struct Checker<'e> {
    variables: &'e BTreeMap<String, Arc<Schema>>,
    /// Whether objects and patches may be made.
    makes: bool,
    scopes: Vec<(String, Type)>,
    /// What type parameters stand for, by their number.
    bindings: Vec<Option<Type>>,
    issues: Vec<Issue>,
    patterns: BTreeMap<String, Arc<Pattern>>,
    used: BTreeSet<String>,
}

impl Checker<'_> {
    fn issue(&mut self, offset: u32, message: String) -> Type {
        self.issues.push(Issue { offset, message });
        Type::Dyn
    }

    fn undeclared(&mut self, offset: u32, name: &str) -> Type {
        self.issue(offset, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn fresh(&mut self) -> Type {
        self.bindings.push(None);
        Type::Param(u32::try_from(self.bindings.len() - 1).unwrap_or(u32::MAX))
    }

    /// With everything that is known put in; what is not known stays.
    fn resolved(&self, ty: &Type) -> Type {
        match ty {
            Type::Param(number) => match self.bindings.get(*number as usize) {
                Some(Some(bound)) => self.resolved(bound),
                _ => ty.clone(),
            },
            Type::List(inner) => Type::list(self.resolved(inner)),
            Type::Optional(inner) => Type::optional(self.resolved(inner)),
            Type::Type(inner) => Type::Type(Arc::new(self.resolved(inner))),
            Type::Map(key, value) => Type::map(self.resolved(key), self.resolved(value)),
            other => other.clone(),
        }
    }

    /// The same, with `dyn` for what is not known.
    fn settled(&self, ty: &Type) -> Type {
        match self.resolved(ty) {
            Type::Param(_) => Type::Dyn,
            Type::List(inner) => Type::list(self.settled(&inner)),
            Type::Optional(inner) => Type::optional(self.settled(&inner)),
            Type::Type(inner) => Type::Type(Arc::new(self.settled(&inner))),
            Type::Map(key, value) => Type::map(self.settled(&key), self.settled(&value)),
            other => other,
        }
    }

    /// Whether a value of type `from` may be where `to` is wanted; binds parameters on the way.
    fn assignable(&mut self, from: &Type, to: &Type) -> bool {
        let (from, target) = (self.resolved(from), self.resolved(to));
        match (&from, &target) {
            (Type::Param(a), Type::Param(b)) if a == b => true,
            (_, Type::Param(number)) => self.bind(*number, &from),
            (Type::Param(number), _) => self.bind(*number, &target),
            (Type::Dyn, _) => {
                // What held something known until now may hold anything.
                if let Type::Param(number) = to {
                    self.bindings[*number as usize] = Some(Type::Dyn);
                }
                true
            }
            (_, Type::Dyn) => true,
            (Type::Null, other) => {
                use Type::{Duration, Null, Object, Opaque, Timestamp};
                matches!(other, Null | Timestamp | Duration | Object(_) | Opaque(_))
            }
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.assignable(a, b),
            (Type::Map(a, b), Type::Map(c, d)) => self.assignable(a, c) && self.assignable(b, d),
            (Type::Type(_), Type::Type(_)) => true,
            (a, b) => a == b,
        }
    }

    fn bind(&mut self, number: u32, ty: &Type) -> bool {
        if self.mentions(ty, number) {
            return false;
        }
        self.bindings[number as usize] = Some(ty.clone());
        true
    }

    fn mentions(&self, ty: &Type, number: u32) -> bool {
        match ty {
            Type::Param(other) => *other == number,
            Type::List(inner) | Type::Optional(inner) | Type::Type(inner) => self.mentions(inner, number),
            Type::Map(key, value) => self.mentions(key, number) || self.mentions(value, number),
            _ => false,
        }
    }

    /// The type that holds both, if there is one.
    fn joined(&mut self, so_far: &Type, next: &Type) -> Option<Type> {
        let next = self.resolved(next);
        if next == Type::Dyn {
            return Some(Type::Dyn);
        }
        let saved = self.bindings.clone();
        if self.assignable(&next, so_far) {
            return Some(self.resolved(so_far));
        }
        self.bindings = saved;
        self.assignable(so_far, &next).then_some(next)
    }

    fn at(&mut self, expr: &mut Expr) -> Type {
        let offset = expr.offset;
        match &mut expr.node {
            Node::Literal(literal) => literal.ty(),
            Node::Ident(name) => self.name(name).unwrap_or_else(|| self.undeclared(offset, &name.clone())),
            Node::Select(_) => self.select(expr),
            Node::Call(call) => self.call(call, offset),
            Node::List(items) => self.list(items, false),
            Node::Map(entries) => self.map(entries),
            Node::Message(message) => self.message(message, offset),
            Node::Fold(fold) => self.fold(fold, offset),
            Node::Bind(bind) => {
                let value = self.at(&mut bind.value);
                self.scoped(vec![(bind.name.clone(), value)], &mut bind.body)
            }
            Node::OptionalMap(bind, flat) => self.optional_map(bind, *flat, offset),
        }
    }

    fn scoped(&mut self, names: Vec<(String, Type)>, body: &mut Expr) -> Type {
        let depth = self.scopes.len();
        self.scopes.extend(names);
        let ty = self.at(body);
        self.scopes.truncate(depth);
        ty
    }

    fn is_local(&self, name: &str) -> bool {
        self.scopes.iter().any(|(known, _)| known == name)
    }

    fn name(&mut self, name: &str) -> Option<Type> {
        if let Some((_, ty)) = self.scopes.iter().rev().find(|(known, _)| known == name) {
            return Some(ty.clone());
        }
        if let Some(schema) = self.variables.get(name) {
            self.used.insert(name.to_owned());
            return Some(schema.ty.clone());
        }
        type_named(name).map(|ty| Type::Type(Arc::new(ty)))
    }

    fn select(&mut self, expr: &mut Expr) -> Type {
        let dotted = expr.dotted();
        let offset = expr.offset;
        let Node::Select(select) = &mut expr.node else { return Type::Dyn };
        let local = |name: &String| name.split('.').next().is_some_and(|root| self.is_local(root));
        if let Some(name) = dotted.filter(|name| !local(name))
            && let Some(ty) = self.name(&name)
        {
            select.variable = Some(name);
            return ty;
        }
        self.select_field(select, offset)
    }

    fn select_field(&mut self, select: &mut Select, offset: u32) -> Type {
        let operand = self.at(&mut select.operand);
        let mut target = self.resolved(&operand);
        let mut optional = select.optional;
        if let Type::Optional(inner) = &target {
            optional = true;
            target = self.resolved(&inner.clone());
        }
        let found = match &target {
            Type::Dyn | Type::Param(_) => Type::Dyn,
            Type::Map(_, value) => Type::clone(value),
            Type::Object(object) if self.makes && mutation::is_open(&object.name) => Type::Dyn,
            Type::Object(object) => match object.fields.get(&select.field) {
                Some(field) => field.schema.ty.clone(),
                None => self.issue(offset, format!("undefined field '{}'", select.field)),
            },
            other => self.issue(offset, format!("type '{other}' does not support field selection")),
        };
        match (select.test, optional) {
            (true, _) => Type::Bool,
            (false, true) => Type::optional(found),
            (false, false) => found,
        }
    }

    fn call(&mut self, call: &mut Call, offset: u32) -> Type {
        let namespaced =
            call.target.as_ref().and_then(Expr::dotted).map(|name| format!("{name}.{}", call.function));
        if let Some(name) = namespaced.filter(|name| self.function(name).is_some()) {
            call.target = None;
            call.function = name;
        }
        let mut types = Vec::new();
        if let Some(target) = &mut call.target {
            types.push(self.at(target));
        }
        let formats = call.function == "format";
        for argument in &mut call.arguments {
            types.push(match &mut argument.node {
                Node::List(items) if formats => self.list(items, true),
                _ => self.at(argument),
            });
        }
        let Some(function) = self.function(&call.function) else {
            return self.undeclared(offset, &call.function.clone());
        };
        let method = call.target.is_some();
        let Some((overloads, result)) = self.overloads(function, method, &types) else {
            let shown: Vec<String> = types.iter().map(|ty| self.settled(ty).to_string()).collect();
            let shown = if method {
                format!("{}.({})", shown[0], shown[1..].join(", "))
            } else {
                format!("({})", shown.join(", "))
            };
            let name = &call.function;
            return self
                .issue(offset, format!("found no matching overload for '{name}' applied to '{shown}'"));
        };
        call.resolved.function = Some(function);
        call.resolved.overloads = overloads;
        self.literals(call);
        result
    }

    fn function(&self, name: &str) -> Option<&'static Function> {
        library::function(name).filter(|_| self.makes || name != mutation::ESCAPE)
    }

    /// The overloads that fit, and what they give.
    fn overloads(&mut self, function: &Function, method: bool, types: &[Type]) -> Option<(Vec<usize>, Type)> {
        let (mut found, mut result, mut kept) = (Vec::new(), None, None);
        for (index, overload) in function.overloads.iter().enumerate() {
            if overload.method != method || overload.params.len() != types.len() {
                continue;
            }
            let saved = self.bindings.clone();
            let mut names = BTreeMap::new();
            let params: Vec<Type> = overload.params.iter().map(|ty| self.renamed(ty, &mut names)).collect();
            let gives = self.renamed(&overload.result, &mut names);
            let fits = types.iter().zip(&params).all(|(ty, param)| self.assignable(ty, param));
            if fits {
                found.push(index);
                let gives = self.resolved(&gives);
                result = Some(match result {
                    None => gives,
                    Some(earlier) => match (self.settled(&earlier), self.settled(&gives)) {
                        (earlier, gives) if earlier == gives => earlier,
                        _ => Type::Dyn,
                    },
                });
                kept.get_or_insert(std::mem::take(&mut self.bindings));
            }
            // Numbers of parameters must stay unique, whether the overload fits or not.
            let used = kept.as_ref().map_or(0, Vec::len).max(self.bindings.len());
            self.bindings = saved;
            self.bindings.resize(used.max(self.bindings.len()), None);
        }
        if let (1, Some(mut kept)) = (found.len(), kept) {
            kept.resize(self.bindings.len().max(kept.len()), None);
            self.bindings = kept;
        }
        result.map(|result| (found, result))
    }

    /// A signature's type with parameters of its own.
    fn renamed(&mut self, ty: &Type, names: &mut BTreeMap<u32, Type>) -> Type {
        match ty {
            Type::Param(number) => match names.get(number) {
                Some(known) => known.clone(),
                None => {
                    let fresh = self.fresh();
                    names.insert(*number, fresh.clone());
                    fresh
                }
            },
            Type::List(inner) => Type::list(self.renamed(inner, names)),
            Type::Optional(inner) => Type::optional(self.renamed(inner, names)),
            Type::Type(inner) => Type::Type(Arc::new(self.renamed(inner, names))),
            Type::Map(key, value) => Type::map(self.renamed(key, names), self.renamed(value, names)),
            other => other.clone(),
        }
    }

    /// Constants that are read when the expression is evaluated are read now.
    fn literals(&mut self, call: &Call) {
        let function = call.function.as_str();
        let Some(argument) = call.arguments.last() else { return };
        let pattern = match function {
            "matches" => Some(argument),
            "find" | "findAll" => call.arguments.first(),
            _ => None,
        };
        let text = |expr: &Expr| match &expr.node {
            Node::Literal(Literal::String(text)) => Some(text.clone()),
            _ => None,
        };
        if let Some((source, offset)) = pattern.and_then(|expr| Some((text(expr)?, expr.offset))) {
            match Pattern::new(&source) {
                Ok(pattern) => {
                    self.patterns.insert(source, Arc::new(pattern));
                }
                Err(_) => {
                    self.issue(offset, format!("invalid {function} argument"));
                }
            }
        }
        let wrong = match (function, text(argument)) {
            ("duration", Some(source)) => crate::time::Duration::parse(&source).is_none(),
            ("timestamp", Some(source)) => crate::time::Timestamp::parse(&source).is_none(),
            _ => false,
        };
        if wrong {
            self.issue(argument.offset, format!("invalid {function} argument"));
        }
    }

    /// The item behind `?item`.
    fn unwrapped(&mut self, ty: Type, offset: u32) -> Type {
        let inner = self.fresh();
        if self.assignable(&ty, &Type::optional(inner.clone())) {
            return self.resolved(&inner);
        }
        let shown = self.settled(&ty);
        self.issue(offset, format!("expected type 'optional_type({shown})' but found '{shown}'"))
    }

    fn mixed(&mut self, so_far: Option<Type>, next: Type, offset: u32) -> Option<Type> {
        let Some(so_far) = so_far else { return Some(next) };
        Some(match self.joined(&so_far, &next) {
            Some(joined) => joined,
            None => {
                let (expected, found) = (self.settled(&so_far), self.settled(&next));
                self.issue(offset, format!("expected type '{expected}' but found '{found}'"))
            }
        })
    }

    fn list(&mut self, items: &mut [(bool, Expr)], any: bool) -> Type {
        let mut inner = None;
        for (optional, item) in items {
            let mut ty = self.at(item);
            if *optional {
                ty = self.unwrapped(ty, item.offset);
            }
            inner = if any { Some(Type::Dyn) } else { self.mixed(inner, ty, item.offset) };
        }
        let inner = inner.unwrap_or_else(|| self.fresh());
        Type::list(inner)
    }

    fn map(&mut self, entries: &mut [Entry]) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            let key = self.at(&mut entry.key);
            keys = self.mixed(keys, key, entry.key.offset);
            let mut value = self.at(&mut entry.value);
            if entry.optional {
                value = self.unwrapped(value, entry.value.offset);
            }
            values = self.mixed(values, value, entry.value.offset);
        }
        let keys = keys.unwrap_or_else(|| self.fresh());
        let values = values.unwrap_or_else(|| self.fresh());
        Type::map(keys, values)
    }

    fn message(&mut self, message: &mut Message, offset: u32) -> Type {
        let ty = mutation::named(&message.name).filter(|_| self.makes);
        for field in &mut message.fields {
            let mut given = self.at(&mut field.value);
            if field.optional {
                given = self.unwrapped(given, field.value.offset);
            }
            let Some(ty) = ty.as_ref().filter(|ty| !mutation::is_open(&ty.name)) else { continue };
            let (at, name) = (field.value.offset, &field.name);
            let Some(known) = ty.fields.get(name) else {
                self.issue(at, format!("undefined field '{name}'"));
                continue;
            };
            if !self.assignable(&given, &known.schema.ty) {
                let (wanted, given) = (known.schema.ty.clone(), self.settled(&given));
                let types = format!("is '{wanted}' but provided type is '{given}'");
                self.issue(at, format!("expected type of field '{name}' {types}"));
            }
        }
        message.ty = ty.clone();
        match ty {
            Some(ty) => Type::Object(ty),
            None => self.undeclared(offset, &message.name.clone()),
        }
    }

    fn optional_map(&mut self, bind: &mut Bind, flat: bool, offset: u32) -> Type {
        let value = self.at(&mut bind.value);
        let inner = self.fresh();
        if !self.assignable(&value, &Type::optional(inner.clone())) {
            let (name, shown) = (if flat { "optFlatMap" } else { "optMap" }, self.settled(&value));
            return self
                .issue(offset, format!("found no matching overload for '{name}' applied to '{shown}.()'"));
        }
        let body = self.scoped(vec![(bind.name.clone(), inner)], &mut bind.body);
        if !flat {
            return Type::optional(body);
        }
        let result = self.fresh();
        if !self.assignable(&body, &Type::optional(result.clone())) {
            let shown = self.settled(&body);
            return self.issue(offset, format!("expected type 'optional_type({shown})' but found '{shown}'"));
        }
        Type::optional(self.resolved(&result))
    }

    fn fold(&mut self, fold: &mut Comprehension, offset: u32) -> Type {
        let range = self.at(&mut fold.range);
        let (key, value) = match self.resolved(&range) {
            Type::List(items) => (Type::Int, Type::clone(&items)),
            Type::Map(key, value) => (Type::clone(&key), Type::clone(&value)),
            Type::Dyn | Type::Param(_) => (Type::Dyn, Type::Dyn),
            other => {
                let what = "cannot be range of a comprehension (must be list, map, or dynamic)";
                self.issue(fold.range.offset, format!("expression of type '{other}' {what}"));
                (Type::Dyn, Type::Dyn)
            }
        };
        let is_list = matches!(self.resolved(&range), Type::List(_));
        let one = if is_list { value.clone() } else { key.clone() };
        let names = match &fold.second {
            Some(second) => vec![(fold.first.clone(), key.clone()), (second.clone(), value)],
            None => vec![(fold.first.clone(), one.clone())],
        };
        if let Some(filter) = &mut fold.filter {
            let ty = self.scoped(names.clone(), filter);
            self.boolean(&ty, "_?_:_", offset);
        }
        let body = self.scoped(names, &mut fold.body);
        match fold.fold {
            Fold::All => self.boolean(&body, "_&&_", offset),
            Fold::Exists => self.boolean(&body, "_||_", offset),
            Fold::ExistsOne | Fold::Filter => self.boolean(&body, "_?_:_", offset),
            _ => {}
        }
        match fold.fold {
            Fold::All | Fold::Exists | Fold::ExistsOne => Type::Bool,
            Fold::Map | Fold::TransformList => Type::list(body),
            Fold::Filter => Type::list(one),
            Fold::TransformMap => Type::map(key, body),
            Fold::TransformMapEntry => match self.resolved(&body) {
                Type::Map(..) | Type::Dyn => body,
                other => self.issue(offset, format!("expected type 'map(dyn, dyn)' but found '{other}'")),
            },
        }
    }

    fn boolean(&mut self, ty: &Type, operator: &str, offset: u32) {
        if self.assignable(ty, &Type::Bool) {
            return;
        }
        let shown = self.settled(ty);
        let applied = match operator {
            "_?_:_" => format!("({shown}, list(dyn), list(dyn))"),
            _ => format!("(bool, {shown})"),
        };
        self.issue(offset, format!("found no matching overload for '{operator}' applied to '{applied}'"));
    }
}
