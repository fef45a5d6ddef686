//! `x-kubernetes-validations` of structural schemas: compiled once when a resource is defined, evaluated over new and
//! old objects. Pure: errors and warnings are handed back, in upstream's words.
//!
//! Rules below `allOf` are not looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_machinery::correlate::Earlier;
use api_machinery::field::{Errors, Path};
use serde_json::Value as Json;

use crate::schema::{MAX_REQUEST, declare};
use crate::types::{Schema, Type};
use crate::value::{EvalError, Value};
use crate::{Environment, PER_CALL_LIMIT, PER_OBJECT_BUDGET, Program, Variables};

/// The most that one rule may cost by the estimate.
pub const RULE_LIMIT: u64 = 10_000_000;
/// The most that all rules of a schema may cost by the estimate.
pub const SCHEMA_LIMIT: u64 = 100_000_000;
/// The longest message that an expression may make.
const MAX_MESSAGE: usize = 5 * 1024;
/// The deepest schema that is looked at.
const MAX_DEPTH: usize = 100;

/// The rules of a schema.
#[derive(Debug, Default)]
pub struct Rules(Option<Level>);

/// A level of the schema that has rules, or something below it has.
#[derive(Debug)]
struct Level {
    /// Only with rules.
    declared: Option<Arc<Schema>>,
    type_name: String,
    rules: Vec<Rule>,
    properties: BTreeMap<String, Level>,
    inner: Option<Box<Level>>,
    /// Whether entries of old and new belong together by their names.
    granular: bool,
    /// The fields that tell items apart, if they can be told apart.
    keys: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    source: String,
    program: Program,
    message: Option<String>,
    message_expression: Option<Program>,
    reason: Option<String>,
    field_path: Option<String>,
    optional_old: bool,
}

impl Rules {
    /// Whether there is nothing to evaluate.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// Compiles all rules of a schema, whose place is `path`. What is wrong with them goes into `errors`; a rule that is
/// wrong is left out.
pub fn compile(schema: &Json, path: &Path<'_>, errors: &mut Errors) -> Rules {
    let mut compiler = Compiler { errors, total: 0, uncorrelatable: None };
    let level = compiler.level(schema, true, Some(1), path, 0);
    let total = compiler.total;
    if total > SCHEMA_LIMIT {
        let name = "x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 schema";
        errors.forbidden(path, excess(name, total, SCHEMA_LIMIT));
    }
    Rules(level)
}

/// Whether expressions see values of a schema at all.
fn is_seen(schema: &Json) -> bool {
    schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == Json::Bool(true)
}

fn excess(name: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, \
         and maxLength where arrays, maps, and strings are declared)"
    )
}

struct Compiler<'e> {
    errors: &'e mut Errors,
    total: u64,
    /// The outermost list around the level whose items nobody can tell apart: which one was which before is not known.
    uncorrelatable: Option<String>,
}

impl Compiler<'_> {
    /// `count` is how often the level can be in an object, if the schema bounds that.
    fn level(
        &mut self,
        schema: &Json,
        root: bool,
        count: Option<u64>,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<Level> {
        if depth >= MAX_DEPTH || !is_seen(schema) {
            return None;
        }
        let mut rules = Vec::new();
        let list = path.child("x-kubernetes-validations");
        let given = schema["x-kubernetes-validations"].as_array().filter(|given| !given.is_empty());
        // Types are worked out where rules need them only: that is a walk over all below.
        let declared = given.and_then(|_| declare(schema, root));
        if let Some(declared) = &declared {
            for (index, rule) in given.into_iter().flatten().enumerate() {
                rules.extend(self.rule(rule, schema, declared, count, &list.index(index)));
            }
        }
        let embedded = |inner: &Json| inner["x-kubernetes-embedded-resource"] == Json::Bool(true);
        let mut properties = BTreeMap::new();
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            let at = path.child("properties");
            if let Some(level) = self.level(inner, embedded(inner), count, &at.key(name), depth + 1) {
                properties.insert(name.clone(), level);
            }
        }
        let mut inner = None;
        for (key, bound) in [("items", "maxItems"), ("additionalProperties", "maxProperties")] {
            let below = &schema[key];
            let times = schema[bound].as_u64().and_then(|most| count.map(|count| count.saturating_mul(most)));
            if below.is_object() {
                let outside = self.uncorrelatable.clone();
                if key == "items" && schema["x-kubernetes-list-type"] != "map" {
                    self.uncorrelatable.get_or_insert_with(|| path.to_string());
                }
                inner = self.level(below, embedded(below), times, &path.child(key), depth + 1);
                self.uncorrelatable = outside;
            }
        }
        if rules.is_empty() && properties.is_empty() && inner.is_none() {
            return None;
        }
        let type_name = schema["type"].as_str().unwrap_or_default().to_owned();
        let granular = schema["x-kubernetes-map-type"] != "atomic";
        let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
        let keys = keys.filter(|_| schema["x-kubernetes-list-type"] == "map").filter_map(Json::as_str);
        let keys = keys.map(str::to_owned).collect();
        Some(Level { declared, type_name, rules, properties, inner: inner.map(Box::new), granular, keys })
    }

    fn rule(
        &mut self,
        rule: &Json,
        schema: &Json,
        declared: &Arc<Schema>,
        count: Option<u64>,
        path: &Path<'_>,
    ) -> Option<Rule> {
        let source = rule["rule"].as_str().unwrap_or_default();
        if source.trim().is_empty() {
            self.errors.required(&path.child("rule"), "rule is not specified");
            return None;
        }
        let optional_old = rule["optionalOldSelf"] == Json::Bool(true);
        let old = if optional_old {
            Arc::new(Schema {
                inner: Some(Arc::clone(declared)),
                ..Schema::of(Type::optional(declared.ty.clone()))
            })
        } else {
            Arc::clone(declared)
        };
        let environment = Environment::new().with("self", Arc::clone(declared)).with("oldSelf", old);
        let program = self.program(&environment, source, &Type::Bool, &path.child("rule"))?;
        let times = count.unwrap_or(MAX_REQUEST / (declared.min_size + 1));
        self.spend(&program, times, "estimated rule cost", &path.child("rule"));
        let mut message_expression = None;
        if let Some(source) = rule["messageExpression"].as_str() {
            let at = path.child("messageExpression");
            let program = self.program(&environment, source, &Type::String, &at)?;
            self.spend(&program, times, "estimated messageExpression cost", &at);
            message_expression = Some(program);
        }
        self.transition(rule, &program, path);
        let field_path = rule["fieldPath"].as_str();
        if let Some(text) = field_path.filter(|text| !refers(schema, text)) {
            self.errors.invalid(&path.child("fieldPath"), text, "fieldPath must be a valid path");
            return None;
        }
        Some(Rule {
            source: source.trim().to_owned(),
            program,
            message: rule["message"]
                .as_str()
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty()),
            message_expression,
            reason: rule["reason"].as_str().map(str::to_owned),
            field_path: field_path.map(|text| text.trim_start_matches('.').to_owned()),
            optional_old,
        })
    }

    /// What was before can be spoken of only where it is known what that was. Such a rule is kept: where one is stored, it
    /// is judged whenever there is something to judge it by.
    fn transition(&mut self, rule: &Json, program: &Program, path: &Path<'_>) {
        match (program.uses("oldSelf"), &self.uncorrelatable, rule["optionalOldSelf"].as_bool()) {
            (true, Some(within), _) => {
                let why = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {within}"
                );
                self.errors.invalid(&path.child("rule"), rule["rule"].as_str(), why);
            }
            (false, _, Some(set)) => {
                let why = "may not be set if oldSelf is not used in rule";
                self.errors.invalid(&path.child("optionalOldSelf"), set, why);
            }
            _ => {}
        }
    }

    fn program(
        &mut self,
        environment: &Environment,
        source: &str,
        ty: &Type,
        path: &Path<'_>,
    ) -> Option<Program> {
        match environment.compile(source) {
            Ok(program) if program.result() == ty => return Some(program),
            Ok(_) if *ty == Type::Bool => {
                self.errors.invalid(path, source, "cel expression must evaluate to a bool")
            }
            Ok(_) => self.errors.invalid(path, source, "messageExpression must evaluate to a string"),
            Err(error) => self.errors.invalid(path, source, format!("compilation failed: {error}")),
        }
        None
    }

    fn spend(&mut self, program: &Program, times: u64, name: &str, path: &Path<'_>) {
        let cost = program.estimated_cost().max.saturating_mul(times);
        self.total = self.total.saturating_add(cost);
        if cost > RULE_LIMIT {
            self.errors.forbidden(path, excess(name, cost, RULE_LIMIT));
        }
    }
}

/// Whether a path such as `.a.b` leads to a property.
fn refers(schema: &Json, path: &str) -> bool {
    let Some(rest) = path.strip_prefix('.') else { return false };
    let mut at = schema;
    for name in rest.split('.') {
        let inner =
            if at["properties"].is_object() { &at["properties"][name] } else { &at["additionalProperties"] };
        if !inner.is_object() {
            return false;
        }
        at = inner;
    }
    true
}

/// What came of the rules of one object.
#[derive(Debug, Default)]
pub struct Findings {
    /// What is wrong.
    pub errors: Errors,
    /// What is wrong, but was so before and has not been changed.
    pub warnings: Vec<String>,
}

/// Evaluates the rules over an object, and over what it was before if there was one.
pub fn validate(rules: &Rules, new: &Json, old: Option<&Json>, path: &Path<'_>) -> Findings {
    let mut run = Run { findings: Findings::default(), budget: PER_OBJECT_BUDGET };
    let pair = Pair { new, old, nearest: None };
    // Where it ends early, an error says why.
    rules.0.as_ref().and_then(|level| run.level(level, pair, path));
    run.findings
}

/// A value and what it was.
#[derive(Clone, Copy)]
struct Pair<'a> {
    new: &'a Json,
    old: Option<&'a Json>,
    /// The nearest level above that was there before.
    nearest: Option<(&'a Json, &'a Json)>,
}

impl<'a> Pair<'a> {
    fn below(self, new: &'a Json, old: Option<&'a Json>) -> Pair<'a> {
        Pair { new, old, nearest: self.old.map(|old| (self.new, old)).or(self.nearest) }
    }

    fn is_unchanged(self) -> bool {
        match (self.old, self.nearest) {
            (Some(old), _) => old == self.new,
            (None, Some((new, old))) => new == old,
            (None, None) => false,
        }
    }
}

struct Run {
    findings: Findings,
    budget: u64,
}

/// Nothing when no more may be evaluated.
type Goes = Option<()>;

impl Run {
    fn level(&mut self, level: &Level, pair: Pair<'_>, path: &Path<'_>) -> Goes {
        if pair.new.is_null() {
            return Some(());
        }
        for rule in &level.rules {
            self.rule(rule, level, pair, path)?;
        }
        match pair.new {
            Json::Object(entries) => {
                let old = pair.old.filter(|_| level.granular);
                for (name, value) in entries {
                    let before = old.and_then(|old| old.get(name)).filter(|old| !old.is_null());
                    if let Some(inner) = level.properties.get(name) {
                        self.level(inner, pair.below(value, before), &path.child(name))?;
                    } else if let Some(inner) = &level.inner {
                        self.level(inner, pair.below(value, before), &path.key(name))?;
                    }
                }
            }
            Json::Array(items) => {
                let Some(inner) = &level.inner else { return Some(()) };
                let earlier = Earlier::new(&level.keys, pair.old, items.len());
                for (index, item) in items.iter().enumerate() {
                    self.level(inner, pair.below(item, earlier.of(item)), &path.index(index))?;
                }
            }
            _ => {}
        }
        Some(())
    }

    fn rule(&mut self, rule: &Rule, level: &Level, pair: Pair<'_>, path: &Path<'_>) -> Goes {
        let transition = rule.program.uses("oldSelf");
        if transition && pair.old.is_none() && !rule.optional_old {
            return Some(());
        }
        let schema = level.declared.as_deref();
        let mut variables = Variables(vec![("self", Value::from_json(pair.new, schema))]);
        let old = pair.old.map(|old| Value::from_json(old, schema));
        if rule.optional_old {
            variables.0.push(("oldSelf", old.map_or(Value::Optional(None), Value::some)));
        } else if let Some(old) = old {
            variables.0.push(("oldSelf", old));
        }
        let shown = level.type_name.as_str();
        let said = rule.message.as_deref().unwrap_or(&rule.source);
        let evaluation = rule.program.evaluate(&variables, PER_CALL_LIMIT);
        let errors = &mut self.findings.errors;
        let Some(left) = self.budget.checked_sub(evaluation.cost) else {
            let what = "validation failed due to running out of cost budget, no further validation rules will be run";
            errors.invalid(path, shown, what);
            return None;
        };
        self.budget = left;
        match evaluation.result {
            Ok(Value::Bool(true)) => return Some(()),
            Ok(_) => {}
            Err(error @ EvalError::CostExceeded) => {
                let what = "no further validation rules will be run due to call cost exceeds limit for rule";
                errors.invalid(path, shown, format!("'{error}': {what}: {said}"));
                return None;
            }
            Err(error @ EvalError::NoOverload) => {
                let what =
                    "call arguments did not match a supported operator, function or macro signature for rule";
                errors.invalid(path, shown, format!("'{error}': {what}: {said}"));
                return Some(());
            }
            Err(error) => {
                errors.invalid(path, shown, format!("{error} evaluating rule: {said}"));
                return Some(());
            }
        }
        let detail = match self.message(rule, &variables, path, shown)? {
            Some(message) => message,
            None => rule.message.clone().unwrap_or_else(|| format!("failed rule: {}", rule.source)),
        };
        self.fail(rule, shown, detail, !transition && pair.is_unchanged(), path);
        Some(())
    }

    fn fail(&mut self, rule: &Rule, shown: &str, detail: String, unchanged: bool, path: &Path<'_>) {
        let below = rule.field_path.as_deref().map(|below| path.child(below));
        let path = below.as_ref().unwrap_or(path);
        let mut found = Errors::new();
        match rule.reason.as_deref() {
            Some("FieldValueForbidden") => found.forbidden(path, detail),
            Some("FieldValueRequired") => found.required(path, detail),
            Some("FieldValueDuplicate") => found.duplicate(path, shown),
            _ => found.invalid(path, shown, detail),
        }
        if unchanged {
            self.findings.warnings.extend(found.iter().map(ToString::to_string));
        } else {
            self.findings.errors.extend(found.into_vec());
        }
    }

    /// The message that an expression makes; `Some(None)` if it makes none that can be shown.
    fn message<'a>(
        &mut self,
        rule: &'a Rule,
        variables: &Variables<'a>,
        path: &Path<'_>,
        shown: &str,
    ) -> Option<Option<String>> {
        let Some(program) = &rule.message_expression else { return Some(None) };
        let evaluation = program.evaluate(variables, PER_CALL_LIMIT);
        let left = self.budget.checked_sub(evaluation.cost);
        let exceeded = matches!(evaluation.result, Err(EvalError::CostExceeded));
        let Some(left) = left.filter(|_| !exceeded) else {
            let what = "messageExpression evaluation failed due to running out of cost budget, no further validation \
                        rules will be run";
            self.findings.errors.invalid(path, shown, what);
            return None;
        };
        self.budget = left;
        let Ok(Value::String(text)) = evaluation.result else { return Some(None) };
        let text = text.as_str().trim();
        let fits = !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
        Some(fits.then(|| text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with_rule(rule: Json) -> Json {
        json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "properties": {
                "a": {"type": "integer"}, "b": {"type": "integer"}, "s": {"type": "string"},
                "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                    "items": {"type": "object", "properties": {"k": {"type": "string", "maxLength": 9},
                        "v": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}},
            },
            "x-kubernetes-validations": [rule],
        }}})
    }

    fn compiled(rule: Json) -> (Rules, Vec<String>) {
        let mut errors = Errors::new();
        let rules = compile(&with_rule(rule), &Path::new("schema"), &mut errors);
        (rules, errors.iter().map(ToString::to_string).collect())
    }

    fn judged(rule: Json, new: &Json, old: Option<&Json>) -> (Vec<String>, Vec<String>) {
        let (rules, errors) = compiled(rule);
        assert_eq!(errors, Vec::<String>::new());
        let findings = validate(&rules, new, old, &Path::root());
        (findings.errors.iter().map(ToString::to_string).collect(), findings.warnings)
    }

    #[test]
    fn what_rules_say() {
        let new = json!({"spec": {"a": 2, "b": 1}});
        let cases = [
            (json!({"rule": "self.a > self.b"}), ""),
            (
                json!({"rule": "self.a < self.b"}),
                "spec: Invalid value: \"object\": failed rule: self.a < self.b",
            ),
            (json!({"rule": "self.a < self.b", "message": "no"}), "spec: Invalid value: \"object\": no"),
            (
                json!({"rule": "self.a < self.b", "messageExpression": "'a is %d'.format([self.a])"}),
                "spec: Invalid value: \"object\": a is 2",
            ),
            (
                json!({"rule": "self.a < self.b", "messageExpression": "self.s", "message": "no"}),
                "spec: Invalid value: \"object\": no",
            ),
            (
                json!({"rule": "false", "reason": "FieldValueForbidden", "fieldPath": ".a"}),
                "spec.a: Forbidden: failed rule: false",
            ),
            (
                json!({"rule": "self.s == ''"}),
                "spec: Invalid value: \"object\": no such key: s evaluating rule: self.s == ''",
            ),
            (json!({"rule": "oldSelf.a == self.a"}), ""),
            (
                json!({"rule": "oldSelf.hasValue()", "optionalOldSelf": true}),
                "spec: Invalid value: \"object\": failed rule: oldSelf.hasValue()",
            ),
        ];
        for (rule, expected) in cases {
            assert_eq!(judged(rule.clone(), &new, None).0.join("; "), expected, "{rule}");
        }
    }

    #[test]
    fn transitions_and_what_has_not_changed() {
        let old = json!({"spec": {"a": 1, "b": 2, "list": [{"k": "x", "v": 3}]}});
        let new = json!({"spec": {"a": 1, "b": 3, "list": [{"k": "y", "v": 0}, {"k": "x", "v": 2}]}});
        let (errors, warnings) = judged(json!({"rule": "self.b == oldSelf.b"}), &new, Some(&old));
        let expected = [
            "spec: Invalid value: \"object\": failed rule: self.b == oldSelf.b",
            "spec.list[1].v: Invalid value: \"integer\": failed rule: self >= oldSelf",
        ];
        assert_eq!((errors, warnings), (expected.map(str::to_owned).to_vec(), Vec::new()));
        let (errors, warnings) = judged(json!({"rule": "self.a > self.b"}), &old, Some(&old));
        let expected = "spec: Invalid value: \"object\": failed rule: self.a > self.b".to_owned();
        assert_eq!((errors, warnings), (Vec::new(), vec![expected]));
    }

    #[test]
    fn wrong_and_costly_rules_are_refused() {
        let at = "schema.properties[spec].x-kubernetes-validations[0]";
        let cases = [
            (json!({"rule": ""}), format!("{at}.rule: Required value: rule is not specified")),
            (
                json!({"rule": "1"}),
                format!("{at}.rule: Invalid value: \"1\": cel expression must evaluate to a bool"),
            ),
            (
                json!({"rule": "x"}),
                format!(
                    "{at}.rule: Invalid value: \"x\": compilation failed: ERROR: <input>:1:1: undeclared reference to \
                     'x' (in container '')\n | x\n | ^"
                ),
            ),
            (
                json!({"rule": "true", "fieldPath": ".none"}),
                format!("{at}.fieldPath: Invalid value: \".none\": fieldPath must be a valid path"),
            ),
        ];
        for (rule, expected) in cases {
            assert_eq!(compiled(rule.clone()).1, [expected], "{rule}");
        }
        let (_, errors) =
            compiled(json!({"rule": "self.list.all(x, self.list.all(y, x.k == y.k || x == y))"}));
        assert!(
            errors[0]
                .contains("Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try")
        );
        assert!(
            errors[1].starts_with(
                "schema: Forbidden: x-kubernetes-validations estimated rule & messageExpression"
            )
        );
    }
}
