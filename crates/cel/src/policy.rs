//! The expressions of an admission policy: its conditions, variables, validations, messages, audit annotations and
//! mutations.
//!
//! Compiled once when the policy is written, to be refused, and once when it is used. Which requests a policy is about, and
//! what becomes of what it finds, is decided by the caller.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use api_machinery::field::{Errors, Path};
use serde_json::Value as Json;

use crate::conditions::{self, Conditions, Verdict};
use crate::mutation::{self, to_json};
use crate::types::{Schema, Type};
use crate::value::{EvalError, Value};
use crate::{Activation, Environment, PER_CALL_LIMIT, Program};

/// The most that the validations and messages of a policy may cost together, and its annotations again.
const BUDGET: u64 = 10_000_000;
/// The longest message and the longest annotation that an expression may make.
const MOST_TEXT: usize = 5 << 10;

/// A policy's expressions, compiled.
#[derive(Debug, Default)]
pub struct Policy {
    conditions: Conditions,
    variables: Vec<(String, Program)>,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
    mutations: Vec<Mutation>,
}

/// What a policy makes of an object.
#[derive(Debug)]
struct Mutation {
    expression: Expression,
    /// Whether it says what the object is to have, or which steps lead there.
    merges: bool,
}

/// What one mutation wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object is to have this.
    Merge(Json),
    /// These steps, as a JSON patch, are to be taken.
    Patch(Json),
}

#[derive(Debug)]
struct Expression {
    text: String,
    program: Program,
}

#[derive(Debug)]
struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

/// What a policy finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is wrong, in the order of the validations.
    pub complaints: Vec<Complaint>,
    /// What goes into the audit log: key and text.
    pub annotations: Vec<(String, String)>,
    /// Annotations that could not be made, and why.
    pub unreadable: Vec<String>,
}

/// A validation that is not true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Which one; 0 if it is all of them.
    pub index: usize,
    /// What the policy says of it, or what went wrong.
    pub message: String,
    /// `Invalid` unless the policy says otherwise.
    pub reason: String,
    /// It is the policy that went wrong, not the request.
    pub failed: bool,
}

/// The variables of a policy that has parameters or not, about objects of which nothing is known or just that; messages may
/// not ask the authorizer.
fn environment(params: bool, authorizer: bool, object: Option<&Arc<Schema>>) -> Environment {
    let mut environment = if authorizer { conditions::environment() } else { conditions::objects() };
    for name in ["object", "oldObject"] {
        if let Some(schema) = object {
            environment = environment.with(name, schema.clone());
        }
    }
    let environment = environment.with_type("namespaceObject", Type::Dyn);
    if params { environment.with_type("params", Type::Dyn) } else { environment }
}

/// What is wrong with the validations of a policy and their messages where objects are of this type: field and reason.
pub fn check(spec: &Json, object: &Arc<Schema>) -> Vec<(String, String)> {
    let mut errors = Errors::new();
    Policy::compile_for(spec, Some(object), &Path::new("spec"), &mut errors);
    let errors = errors.into_vec().into_iter();
    let about = errors.filter(|error| error.field.starts_with("spec.validations["));
    about.map(|error| (error.field, error.detail)).collect()
}

/// Compiles an expression that must give one of `wanted`, of which `described` tells.
fn compile(
    environment: &Environment,
    at: &Path<'_>,
    text: &str,
    wanted: &[Type],
    described: &str,
    errors: &mut Errors,
) -> Option<Expression> {
    match environment.compile(text) {
        Ok(program) if wanted.is_empty() || wanted.contains(program.result()) => {
            return Some(Expression { text: text.trim().to_owned(), program });
        }
        Ok(_) => errors.invalid(at, text, described),
        Err(error) => errors.invalid(at, text, format!("compilation failed: {error}")),
    }
    None
}

fn items<'a>(spec: &'a Json, field: &str) -> impl Iterator<Item = (usize, &'a Json)> {
    spec[field].as_array().into_iter().flatten().enumerate()
}

fn text<'a>(value: &'a Json, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

impl Policy {
    /// Compiles the expressions of a policy's spec, whose place is `path`. What is wrong goes into `errors`; expressions that
    /// are not there are left out.
    pub fn compile(spec: &Json, path: &Path<'_>, errors: &mut Errors) -> Policy {
        Policy::compile_for(spec, None, path, errors)
    }

    fn compile_for(
        spec: &Json,
        object: Option<&Arc<Schema>>,
        path: &Path<'_>,
        errors: &mut Errors,
    ) -> Policy {
        let params = spec["paramKind"].is_object();
        let mut full = environment(params, true, object);
        let mut bare = environment(params, false, object);
        let conditions =
            Conditions::compile(&spec["matchConditions"], &full, &path.child("matchConditions"), errors);
        let mut variables = Vec::new();
        for (index, variable) in items(spec, "variables") {
            let (list, source) = (path.child("variables"), text(variable, "expression"));
            let item = list.index(index);
            if source.trim().is_empty() {
                continue;
            }
            let Some(compiled) = compile(&full, &item.child("expression"), source, &[], "", errors) else {
                continue;
            };
            let name = format!("variables.{}", text(variable, "name"));
            full = full.with_type(&name, compiled.program.result().clone());
            bare = bare.with_type(&name, compiled.program.result().clone());
            variables.push((name, compiled.program));
        }
        let validations = items(spec, "validations")
            .filter_map(|(index, one)| {
                validation((&full, &bare), one, &path.child("validations").index(index), errors)
            })
            .collect();
        let annotations = items(spec, "auditAnnotations")
            .filter_map(|(index, one)| {
                let (list, source) = (path.child("auditAnnotations"), text(one, "valueExpression"));
                let item = list.index(index);
                let at = item.child("valueExpression");
                let wanted = [Type::String, Type::Null];
                let described = "must evaluate to one of [string null_type]";
                let present = !source.trim().is_empty();
                let compiled =
                    present.then(|| compile(&full, &at, source, &wanted, described, errors)).flatten()?;
                Some((text(one, "key").to_owned(), compiled))
            })
            .collect();
        let making = full.making_objects();
        let mutations = items(spec, "mutations")
            .filter_map(|(index, one)| mutation(&making, one, &path.child("mutations").index(index), errors))
            .collect();
        Policy { conditions, variables, validations, annotations, mutations }
    }

    /// Whether its conditions hold of a request.
    pub fn applies<'a>(&'a self, known: &dyn Activation<'a>) -> Verdict {
        self.conditions.judge(&self.scope(known, conditions::BUDGET))
    }

    /// How many mutations it has.
    pub fn mutations(&self) -> usize {
        self.mutations.len()
    }

    /// What one of its mutations wants of the object of a request.
    ///
    /// # Errors
    /// The expression fails, or what it makes is nothing that an object can have; in upstream's words.
    pub fn mutate<'a>(&'a self, index: usize, known: &dyn Activation<'a>) -> Result<Change, String> {
        let Mutation { expression, merges } = &self.mutations[index];
        let made = self.scope(known, BUDGET).evaluate(&expression.program);
        let made = made.map_err(|error| expression.complaint(&error))?;
        let values = match &made {
            Value::List(steps) if !merges => {
                let steps = steps.iter().filter_map(|step| match step {
                    Value::Map(step) => step.field("value"),
                    _ => None,
                });
                steps.collect()
            }
            other => vec![other.clone()],
        };
        let wrong: Vec<String> = values.iter().flat_map(mutation::misnamed).collect();
        if !wrong.is_empty() {
            return Err(format!("type mismatch: {}", wrong.join("\n")));
        }
        match (to_json(&made), merges) {
            (Ok(value), true) => Ok(Change::Merge(value)),
            (Ok(value), false) => Ok(Change::Patch(value)),
            (Err(why), true) => Err(format!("invalid return type: {why}")),
            (Err(why), false) => {
                let what = "JSONPath valueExpression evaluated to a type that could not marshal to JSON";
                Err(format!("{what}: {why}"))
            }
        }
    }

    fn scope<'p, 'a>(&'a self, known: &'p dyn Activation<'a>, budget: u64) -> Scope<'p, 'a> {
        Scope { policy: self, known, budget: Cell::new(budget), values: RefCell::default() }
    }

    /// Judges a request by the variables that are known of it; `None` if its conditions exclude it.
    pub fn judge<'a>(&'a self, known: &dyn Activation<'a>) -> Option<Findings> {
        match self.applies(known) {
            Verdict::Matches => {}
            Verdict::Excluded(_) => return None,
            Verdict::Failed(why) => {
                let complaint = Complaint::failure(0, api_machinery::field::aggregate(&why));
                return Some(Findings { complaints: vec![complaint], ..Findings::default() });
            }
        }
        let mut findings = Findings::default();
        let scope = self.scope(known, BUDGET);
        for (index, validation) in self.validations.iter().enumerate() {
            match scope.evaluate(&validation.expression.program) {
                Ok(Value::Bool(true)) => {}
                Ok(_) => findings.complaints.push(Complaint {
                    index,
                    message: validation.message(&scope),
                    reason: validation.reason.clone(),
                    failed: false,
                }),
                Err(error) => {
                    let why = validation.expression.complaint(&error);
                    findings.complaints.push(Complaint::failure(index, why));
                }
            }
        }
        let scope = self.scope(known, BUDGET);
        for (key, expression) in &self.annotations {
            match scope.evaluate(&expression.program) {
                Ok(Value::String(text)) if text.as_str().trim().is_empty() => {}
                Ok(Value::String(text)) => {
                    let text = text.as_str().trim();
                    let cut = text.floor_char_boundary(2 * MOST_TEXT);
                    findings.annotations.push((key.clone(), text[..cut].to_owned()));
                }
                Ok(_) => {}
                Err(error) => findings.unreadable.push(expression.complaint(&error)),
            }
        }
        Some(findings)
    }
}

fn validation(
    (full, bare): (&Environment, &Environment),
    one: &Json,
    path: &Path<'_>,
    errors: &mut Errors,
) -> Option<Validation> {
    let (source, message) = (text(one, "expression"), text(one, "messageExpression"));
    let bool = "must evaluate to bool";
    let expression = (!source.trim().is_empty())
        .then(|| compile(full, &path.child("expression"), source, &[Type::Bool], bool, errors))
        .flatten();
    let string = "must evaluate to string";
    let message_expression = (!message.trim().is_empty())
        .then(|| compile(bare, &path.child("messageExpression"), message, &[Type::String], string, errors))
        .flatten();
    let reason = Some(text(one, "reason")).filter(|reason| !reason.is_empty()).unwrap_or("Invalid");
    let message = text(one, "message").trim().to_owned();
    Some(Validation { expression: expression?, message, message_expression, reason: reason.to_owned() })
}

fn mutation(making: &Environment, one: &Json, path: &Path<'_>, errors: &mut Errors) -> Option<Mutation> {
    let (field, merges, wanted, described) = match text(one, "patchType") {
        "ApplyConfiguration" => {
            ("applyConfiguration", true, mutation::object_type(), "must evaluate to Object")
        }
        "JSONPatch" => ("jsonPatch", false, mutation::patch_type(), "must evaluate to list(JSONPatch)"),
        _ => return None,
    };
    let source = text(&one[field], "expression");
    if source.trim().is_empty() {
        return None;
    }
    let child = path.child(field);
    let at = child.child("expression");
    let expression = compile(making, &at, source, &[wanted], described, errors)?;
    Some(Mutation { expression, merges })
}

impl Complaint {
    fn failure(index: usize, message: String) -> Complaint {
        Complaint { index, message, reason: "Invalid".to_owned(), failed: true }
    }
}

impl Expression {
    fn complaint(&self, error: &EvalError) -> String {
        format!("expression '{}' resulted in error: {error}", self.text)
    }
}

impl Validation {
    /// What is said of the request: what the policy computes if that can be shown, or else what it says.
    fn message<'a>(&'a self, scope: &Scope<'_, 'a>) -> String {
        let computed = self.message_expression.as_ref().and_then(|expression| {
            let value = scope.evaluate(&expression.program).ok()?;
            let Value::String(text) = value else { return None };
            let text = text.as_str().trim();
            let fits = !text.is_empty() && text.len() <= MOST_TEXT && !text.contains('\n');
            fits.then(|| text.to_owned())
        });
        match computed {
            Some(text) => text,
            None if self.message.is_empty() => format!("failed expression: {}", self.expression.text),
            None => self.message.clone(),
        }
    }
}

/// The variables of one evaluation: those of the request, and those of the policy as far as somebody wanted to know them.
struct Scope<'p, 'a> {
    policy: &'a Policy,
    known: &'p dyn Activation<'a>,
    budget: Cell<u64>,
    values: RefCell<BTreeMap<&'a str, Result<Value<'a>, EvalError>>>,
}

impl<'a> Scope<'_, 'a> {
    fn evaluate(&self, program: &'a Program) -> Result<Value<'a>, EvalError> {
        let evaluation = program.evaluate(self, self.budget.get().min(PER_CALL_LIMIT));
        self.budget.set(self.budget.get().saturating_sub(evaluation.cost));
        evaluation.result
    }
}

impl<'a> Activation<'a> for Scope<'_, 'a> {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        let Some((own, program)) = self.policy.variables.iter().find(|(own, _)| own == name) else {
            return self.known.variable(name);
        };
        if let Some(value) = self.values.borrow().get(own.as_str()) {
            return Some(value.clone());
        }
        // A variable speaks of earlier ones only, so this ends.
        let value = self.evaluate(program);
        self.values.borrow_mut().insert(own, value.clone());
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Variables;
    use serde_json::json;

    fn judge(spec: &Json, object: &Json) -> Option<Findings> {
        let mut errors = Errors::new();
        let policy = Policy::compile(spec, &Path::new("spec"), &mut errors);
        assert!(errors.is_empty(), "{:?}", errors.into_vec());
        let params = json!({"most": 3});
        let object = Value::from_json(object, None);
        policy.judge(&Variables(vec![("object", object), ("params", Value::from_json(&params, None))]))
    }

    #[test]
    fn what_is_wrong_and_in_which_words() {
        let spec = json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConditions": [{"name": "c", "expression": "object.kind == 'a'"}],
            "variables": [
                {"name": "size", "expression": "object.size"},
                {"name": "twice", "expression": "variables.size * 2"},
            ],
            "validations": [
                {"expression": "variables.size <= params.most", "messageExpression": "'at most ' + string(params.most)"},
                {"expression": "variables.twice < 7", "message": "too large", "reason": "Forbidden"},
                {"expression": "object.size < 5", "messageExpression": "'a\\nb'"},
                {"expression": "object.nothing == 1"},
            ],
            "auditAnnotations": [
                {"key": "size", "valueExpression": "string(variables.size)"},
                {"key": "none", "valueExpression": "null"},
            ],
        });
        assert_eq!(judge(&spec, &json!({"kind": "b"})), None);
        let findings = judge(&spec, &json!({"kind": "a", "size": 5})).expect("it applies");
        let complaint = |index, message: &str, reason: &str, failed| Complaint {
            index,
            message: message.to_owned(),
            reason: reason.to_owned(),
            failed,
        };
        let want = [
            complaint(0, "at most 3", "Invalid", false),
            complaint(1, "too large", "Forbidden", false),
            complaint(2, "failed expression: object.size < 5", "Invalid", false),
            complaint(
                3,
                "expression 'object.nothing == 1' resulted in error: no such key: nothing",
                "Invalid",
                true,
            ),
        ];
        assert_eq!(findings.complaints, want);
        assert_eq!(findings.annotations, [("size".to_owned(), "5".to_owned())]);
        let findings = judge(&spec, &json!({})).expect("it applies");
        let why = "expression 'object.kind == 'a'' resulted in error: no such key: kind";
        assert_eq!(findings.complaints, [complaint(0, why, "Invalid", true)]);
    }

    #[test]
    fn what_is_to_be_made_of_an_object() {
        let mutation = |kind: &str, field: &str, expression: &str| json!({"patchType": kind, field: {"expression": expression}});
        let merge = |expression: &str| mutation("ApplyConfiguration", "applyConfiguration", expression);
        let patch = |expression: &str| mutation("JSONPatch", "jsonPatch", expression);
        let spec = json!({
            "matchConditions": [{"name": "c", "expression": "object.size > 1"}],
            "variables": [{"name": "more", "expression": "object.size + 1"}],
            "mutations": [
                merge("Object{size: variables.more}"),
                patch("[JSONPatch{op: 'add', path: '/spec', value: Object.spec{a: 1}}]"),
                patch("[JSONPatch{op: 'add', path: '/spec', value: Object.spec{a: Object.b{}}}]"),
                merge("Object{spec: Object.status{}}"),
                merge("Object{size: object.nothing}"),
            ],
        });
        let mut errors = Errors::new();
        let policy = Policy::compile(&spec, &Path::new("spec"), &mut errors);
        assert!(errors.is_empty(), "{:?}", errors.into_vec());
        let known = |object: &'static Json| Variables(vec![("object", Value::from_json(object, None))]);
        let large: &'static Json = Box::leak(Box::new(json!({"size": 2})));
        let small: &'static Json = Box::leak(Box::new(json!({"size": 1})));
        assert_eq!(policy.applies(&known(large)), Verdict::Matches);
        assert_eq!(policy.applies(&known(small)), Verdict::Excluded("c".to_owned()));
        let steps = json!([{"op": "add", "path": "/spec", "value": {"a": 1}}]);
        let misnamed = |is: &str, expected: &str| {
            let what = "which matches field name path from root Object type";
            Err(format!("type mismatch: unexpected type name {is:?}, expected {expected:?}, {what}"))
        };
        let wanted = [
            Ok(Change::Merge(json!({"size": 3}))),
            Ok(Change::Patch(steps)),
            misnamed("Object.b", "Object.spec.a"),
            misnamed("Object.status", "Object.spec"),
            Err("expression 'Object{size: object.nothing}' resulted in error: no such key: nothing"
                .to_owned()),
        ];
        assert_eq!(policy.mutations(), wanted.len());
        for (index, wanted) in wanted.into_iter().enumerate() {
            assert_eq!(policy.mutate(index, &known(large)), wanted);
        }
    }

    #[test]
    fn mutations_that_make_something_else_are_refused() {
        let mutation = |kind: &str, field: &str, expression: &str| json!({"patchType": kind, field: {"expression": expression}});
        let spec = json!({"mutations": [
            mutation("ApplyConfiguration", "applyConfiguration", "Object.spec{}"),
            mutation("ApplyConfiguration", "applyConfiguration", "{'a': 1}"),
            mutation("JSONPatch", "jsonPatch", "[Object{}]"),
            mutation("JSONPatch", "jsonPatch", "[JSONPatch{op: 1}]"),
        ]});
        let mut errors = Errors::new();
        Policy::compile(&spec, &Path::new("spec"), &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        for (index, part) in [
            "spec.mutations[0].applyConfiguration.expression: Invalid value: \"Object.spec{}\": must evaluate to Object",
            "spec.mutations[1].applyConfiguration.expression: Invalid value: \"{'a': 1}\": must evaluate to Object",
            "spec.mutations[2].jsonPatch.expression: Invalid value: \"[Object{}]\": must evaluate to list(JSONPatch)",
            "expected type of field 'op' is 'string' but provided type is 'int'",
        ]
        .iter()
        .enumerate()
        {
            assert!(texts[index].contains(part), "{texts:#?}");
        }
        assert_eq!(texts.len(), 4);
    }

    #[test]
    fn what_does_not_compile() {
        let spec = json!({
            "variables": [{"name": "a", "expression": "x"}],
            "validations": [
                {"expression": "1"},
                {"expression": "true", "messageExpression": "1"},
                {"expression": "true", "messageExpression": "string(authorizer.path('/').check('get').allowed())"},
                {"expression": "params.a"},
            ],
            "auditAnnotations": [{"key": "a", "valueExpression": "1"}],
        });
        let mut errors = Errors::new();
        Policy::compile(&spec, &Path::new("spec"), &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        for (index, part) in [
            "spec.variables[0].expression: Invalid value: \"x\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'x'",
            "spec.validations[0].expression: Invalid value: \"1\": must evaluate to bool",
            "spec.validations[1].messageExpression: Invalid value: \"1\": must evaluate to string",
            "undeclared reference to 'authorizer'",
            "undeclared reference to 'params'",
            "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string null_type]",
        ]
        .iter()
        .enumerate()
        {
            assert!(texts[index].contains(part), "{texts:#?}");
        }
        assert_eq!(texts.len(), 6);
    }
}
