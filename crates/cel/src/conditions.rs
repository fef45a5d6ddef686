//! `matchConditions` of webhooks and policies: whether a request concerns them.
//!
//! All conditions are evaluated within one budget; one that is false outweighs those that fail. What a failure means is
//! decided by the failure policy of the caller.

use std::sync::{Arc, LazyLock};

use api_machinery::field::{Errors, Path};
use serde_json::{Value as Json, json};

use crate::authorizer::{authorizer_type, request_resource_type};
use crate::schema::declare;
use crate::types::{Field, Object, Schema, Type};
use crate::value::Value;
use crate::{Activation, Environment, PER_CALL_LIMIT, Program};

/// The most that all conditions together may cost.
pub const BUDGET: u64 = 2_500_000;

/// The variables of admission: `object`, `oldObject`, `request`, `authorizer` and `authorizer.requestResource`.
pub fn environment() -> Environment {
    objects()
        .with_type("authorizer", authorizer_type())
        .with_type("authorizer.requestResource", request_resource_type())
}

/// The same where nobody may ask the authorizer.
pub(crate) fn objects() -> Environment {
    let environment = Environment::new().with_type("object", Type::Dyn).with_type("oldObject", Type::Dyn);
    environment.with("request", request_schema())
}

/// The declared type of the variable `request`; its value is an AdmissionRequest as JSON under this schema.
pub fn request_schema() -> Arc<Schema> {
    static REQUEST: LazyLock<Arc<Schema>> = LazyLock::new(|| {
        let text = || json!({"type": "string"});
        let of = |last: &str| json!({"type": "object", "properties": {"group": text(), "version": text(), last: text()}});
        let texts = || json!({"type": "array", "items": text()});
        let user = json!({"type": "object", "properties": {
            "username": text(), "uid": text(), "groups": texts(),
            "extra": {"type": "object", "additionalProperties": texts()},
        }});
        let request = json!({"type": "object", "properties": {
            "kind": of("kind"), "resource": of("resource"), "subResource": text(),
            "requestKind": of("kind"), "requestResource": of("resource"), "requestSubResource": text(),
            "name": text(), "namespace": text(), "operation": text(), "userInfo": user,
            "dryRun": {"type": "boolean"},
        }});
        let declared = declare(&request, false);
        let Some(Type::Object(object)) = declared.as_ref().map(|schema| &schema.ty) else {
            unreachable!("the schema above is an object's")
        };
        let mut fields = object.fields.clone();
        let options = Field { json: "options".to_owned(), schema: Arc::new(Schema::of(Type::Dyn)) };
        fields.insert("options".to_owned(), options);
        let name = "kubernetes.AdmissionRequest".to_owned();
        Arc::new(Schema::of(Type::Object(Arc::new(Object { name, fields }))))
    });
    Arc::clone(&REQUEST)
}

/// Compiled conditions.
#[derive(Debug, Default)]
pub struct Conditions(Vec<Condition>);

/// One of them.
#[derive(Debug)]
struct Condition {
    name: String,
    expression: String,
    program: Program,
}

/// What came of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every one is true.
    Matches,
    /// This one is false.
    Excluded(String),
    /// None is false, but some failed, for these reasons.
    Failed(Vec<String>),
}

impl Conditions {
    /// Compiles a list of `{name, expression}` whose place is `path`. What is wrong goes into `errors`.
    pub fn compile(
        list: &Json,
        environment: &Environment,
        path: &Path<'_>,
        errors: &mut Errors,
    ) -> Conditions {
        let mut conditions = Vec::new();
        for (index, condition) in list.as_array().into_iter().flatten().enumerate() {
            let item = path.index(index);
            let at = item.child("expression");
            let source = condition["expression"].as_str().unwrap_or_default();
            if source.trim().is_empty() {
                errors.required(&at, "");
                continue;
            }
            match environment.compile(source) {
                Ok(program) if *program.result() == Type::Bool => {
                    let name = condition["name"].as_str().unwrap_or_default().to_owned();
                    conditions.push(Condition { name, expression: source.trim().to_owned(), program });
                }
                Ok(_) => errors.invalid(&at, source, "must evaluate to bool"),
                Err(error) => errors.invalid(&at, source, format!("compilation failed: {error}")),
            }
        }
        Conditions(conditions)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Evaluates them over the variables of a request.
    pub fn judge<'a>(&'a self, variables: &dyn Activation<'a>) -> Verdict {
        let (mut budget, mut failures) = (BUDGET, Vec::new());
        for Condition { name, expression, program } in &self.0 {
            let evaluation = program.evaluate(variables, budget.min(PER_CALL_LIMIT));
            budget = budget.saturating_sub(evaluation.cost);
            match evaluation.result {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Verdict::Excluded(name.clone()),
                Ok(_) => failures.push(format!("expression '{expression}' must evaluate to bool")),
                Err(error) => failures.push(format!("expression '{expression}' resulted in error: {error}")),
            }
        }
        if failures.is_empty() { Verdict::Matches } else { Verdict::Failed(failures) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Variables;
    use crate::authorizer::{Authorizer, Decision, Question, authorizer, request_resource};

    struct OnlyGet;

    impl Authorizer for OnlyGet {
        fn authorize(&self, question: &Question) -> Decision {
            let allowed = question.verb == "get" && question.resource == "pods" && question.namespace == "ns";
            Decision { allowed, ..Decision::default() }
        }
    }

    fn judge(expressions: &[&str]) -> Verdict {
        let list: Vec<Json> =
            expressions.iter().map(|text| json!({"name": *text, "expression": *text})).collect();
        let mut errors = Errors::new();
        let conditions = Conditions::compile(&list.into(), &environment(), &Path::new("c"), &mut errors);
        assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
        let request = json!({
            "operation": "CREATE", "namespace": "ns", "resource": {"resource": "pods"}, "dryRun": false,
            "userInfo": {"username": "me", "groups": ["system:masters"]}, "options": {"kind": "CreateOptions"},
        });
        let object = json!({"metadata": {"name": "web", "labels": {"app": "web"}}});
        let schema = request_schema();
        let question =
            Question { resource: "pods".to_owned(), namespace: "ns".to_owned(), ..Question::default() };
        let variables = Variables(vec![
            ("object", Value::from_json(&object, None)),
            ("oldObject", Value::Null),
            ("request", Value::from_json(&request, Some(&schema))),
            ("authorizer", authorizer(&OnlyGet)),
            ("authorizer.requestResource", request_resource(&OnlyGet, question)),
        ]);
        conditions.judge(&variables)
    }

    #[test]
    fn verdicts() {
        let fine = [
            "request.operation == 'CREATE' && !('none' in request.userInfo.groups) && oldObject == null",
            "object.metadata.labels.app == 'web' && request.options.kind == 'CreateOptions'",
            "authorizer.requestResource.check('get').allowed()",
            "!authorizer.group('').resource('pods').namespace('other').check('get').allowed()",
            "!authorizer.serviceAccount('ns', 'a').path('/x').check('get').allowed()",
        ];
        assert_eq!(judge(&fine), Verdict::Matches);
        assert_eq!(judge(&["object.spec.x == 1", "false"]), Verdict::Excluded("false".to_owned()));
        let reason = "expression 'object.spec.x == 1' resulted in error: no such key: spec".to_owned();
        assert_eq!(judge(&["object.spec.x == 1", "true"]), Verdict::Failed(vec![reason]));
    }

    #[test]
    fn wrong_conditions_are_refused() {
        let list = json!([{"name": "a", "expression": "request.nothing"}, {"name": "b", "expression": "1"}, {"name": "c"}]);
        let mut errors = Errors::new();
        Conditions::compile(&list, &environment(), &Path::new("c"), &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(
            texts[0].contains("compilation failed: ERROR: <input>:1:8: undefined field 'nothing'"),
            "{}",
            texts[0]
        );
        assert_eq!(
            texts[1..],
            [
                "c[1].expression: Invalid value: \"1\": must evaluate to bool".to_owned(),
                "c[2].expression: Required value".to_owned(),
            ]
        );
    }
}
