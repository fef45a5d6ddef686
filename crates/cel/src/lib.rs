//! The Common Expression Language as Kubernetes uses it: rules of custom resources, admission policies, conditions of
//! webhooks, device selectors.
//!
//! An expression is parsed, checked and estimated once ([`Environment::compile`]) and evaluated as often as wanted over
//! borrowed data ([`Program::evaluate`]). Both are pure: no I/O, no clock, no state. What an expression may cost is
//! bounded before it is stored and while it runs.
//!
//! Absent on purpose: protocol buffers, enums and containers, which Kubernetes does not have in expressions. Values of named
//! fields can be made where they mean something, which is in mutating policies.

pub mod ast;
pub mod authorizer;
mod check;
pub mod conditions;
mod cost;
mod estimate;
mod eval;
pub mod library;
pub mod mutation;
mod parse;
mod pattern;
pub mod policy;
pub mod rules;
pub mod schema;
mod source;
pub mod time;
pub mod types;
pub mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use cost::{Charge, Estimate, Range};
pub use eval::{Activation, Context, Variables};
pub use pattern::Pattern;
pub use source::{CompileError, Issue};

use types::{Schema, Type};
use value::{EvalError, Value};

/// The most that one evaluation may cost.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// The most that all rules of one object may cost together.
pub const PER_OBJECT_BUDGET: u64 = 10_000_000;

/// Which variables an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, Arc<Schema>>,
    /// Whether expressions may make objects and patches.
    makes: bool,
}

impl Environment {
    /// No variables, only functions.
    pub fn new() -> Environment {
        Environment::default()
    }

    /// With one more variable; its name may have dots, such as `variables.limit`.
    #[must_use]
    pub fn with(mut self, name: &str, schema: impl Into<Arc<Schema>>) -> Environment {
        self.variables.insert(name.to_owned(), schema.into());
        self
    }

    /// With one more variable of which only the type is known.
    #[must_use]
    pub fn with_type(self, name: &str, ty: Type) -> Environment {
        self.with(name, Schema::of(ty))
    }

    /// Where expressions make objects and patches.
    #[must_use]
    pub fn making_objects(mut self) -> Environment {
        self.makes = true;
        self
    }

    /// Parses, checks and estimates.
    pub fn compile(&self, source: &str) -> Result<Program, CompileError> {
        let mut expr = parse::parse(source)?;
        let checked = check::check(&mut expr, &self.variables, self.makes);
        if !checked.issues.is_empty() {
            return Err(CompileError::new(source, checked.issues));
        }
        let cost = estimate::estimate(&expr, &self.variables);
        let check::Checked { result, patterns, variables, .. } = checked;
        Ok(Program { expr, result, patterns, variables, cost })
    }
}

/// A checked expression.
#[derive(Debug)]
pub struct Program {
    expr: ast::Expr,
    result: Type,
    patterns: BTreeMap<String, Arc<Pattern>>,
    variables: BTreeSet<String>,
    cost: Range,
}

/// What came of an evaluation.
#[derive(Debug)]
pub struct Evaluation<'a> {
    /// The value, or why there is none.
    pub result: Result<Value<'a>, EvalError>,
    /// What it cost, also when there is none.
    pub cost: u64,
}

impl Program {
    /// What it gives.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// Whether it uses a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// What it can cost, as far as the schemas of its variables tell.
    pub fn estimated_cost(&self) -> Range {
        self.cost
    }

    /// Evaluates; stops as soon as it would cost more than the limit.
    pub fn evaluate<'a>(&'a self, variables: &dyn Activation<'a>, limit: u64) -> Evaluation<'a> {
        let mut context = Context::new(variables, &self.patterns, limit);
        let result = context.eval(&self.expr);
        Evaluation { result, cost: context.cost() }
    }
}
