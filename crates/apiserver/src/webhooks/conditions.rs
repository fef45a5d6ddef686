//! Whether the conditions of a webhook hold for a request.
//!
//! Expressions are evaluated without waiting. What they ask of the authorizer is not known then: it is asked afterwards, and
//! they are evaluated once more with what is known by now.

use std::cell::RefCell;

use api_machinery::status::ApiError;
use cel::authorizer::{Authorizer, Decision, Question, authorizer, request_resource};
use cel::conditions::{Conditions, Verdict, request_schema};
use cel::value::Value as CelValue;
use cel::{Activation, Variables};
use serde_json::Value;

use crate::authn::account_user;
use crate::server::ApiServer;
use crate::types::{self, RequestInfo, UserInfo};

/// The most that all conditions of a webhook may ask of the authorizer.
const MOST_QUESTIONS: usize = 64;

/// What expressions may speak of.
pub struct Input<'a> {
    /// The `AdmissionRequest` without its objects.
    pub request: &'a Value,
    /// The object as it would be.
    pub object: Option<&'a Value>,
    /// The object as it is.
    pub old: Option<&'a Value>,
    /// The resource of the request, for `authorizer.requestResource`.
    pub resource: Question,
    /// Who asks.
    pub user: &'a UserInfo,
}

/// What was answered so far, and what is still to be asked.
#[derive(Default)]
struct Known {
    answers: Vec<(Question, Decision)>,
    open: RefCell<Option<Question>>,
}

impl Authorizer for Known {
    fn authorize(&self, question: &Question) -> Decision {
        if let Some((_, decision)) = self.answers.iter().find(|(known, _)| known == question) {
            return decision.clone();
        }
        self.open.borrow_mut().get_or_insert_with(|| question.clone());
        Decision::default()
    }
}

/// Judges conditions, asking the authorizer what they want to know.
pub async fn judge(
    server: &ApiServer,
    conditions: &Conditions,
    input: &Input<'_>,
) -> Result<Verdict, ApiError> {
    let mut answers = Vec::new();
    loop {
        let (verdict, open) = attempt(conditions, input, &mut answers);
        let Some(question) = open else { return Ok(verdict) };
        if answers.len() >= MOST_QUESTIONS {
            return Ok(Verdict::Failed(vec!["too many authorizer checks".to_owned()]));
        }
        let decision = ask(server, input.user, &question).await;
        answers.push((question, decision));
    }
}

/// One evaluation, and the first question in it that was not answered yet.
fn attempt(
    conditions: &Conditions,
    input: &Input<'_>,
    answers: &mut Vec<(Question, Decision)>,
) -> (Verdict, Option<Question>) {
    let known = Known { answers: std::mem::take(answers), open: RefCell::default() };
    let verdict = conditions.judge(&variables(input, &known));
    *answers = known.answers;
    (verdict, known.open.into_inner())
}

fn variables<'a>(input: &'a Input<'_>, known: &'a Known) -> impl Activation<'a> {
    static SCHEMA: std::sync::LazyLock<std::sync::Arc<cel::types::Schema>> =
        std::sync::LazyLock::new(request_schema);
    let object =
        |object: Option<&'a Value>| object.map_or(CelValue::Null, |object| CelValue::from_json(object, None));
    Variables(vec![
        ("object", object(input.object)),
        ("oldObject", object(input.old)),
        ("request", CelValue::from_json(input.request, Some(&SCHEMA))),
        ("authorizer", authorizer(known)),
        ("authorizer.requestResource", request_resource(known, input.resource.clone())),
    ])
}

async fn ask(server: &ApiServer, user: &UserInfo, question: &Question) -> Decision {
    let account =
        question.service_account.as_ref().map(|(namespace, name)| account_user(namespace, name, ""));
    let info = RequestInfo {
        verb: question.verb.clone(),
        api_group: question.group.clone(),
        api_version: if question.path.is_none() { "*".to_owned() } else { String::new() },
        resource: question.resource.clone(),
        subresource: question.subresource.clone(),
        namespace: question.namespace.clone(),
        name: question.name.clone(),
        path: question.path.clone().unwrap_or_default(),
        is_resource: question.path.is_none(),
        label_selector: question.label_selector.clone(),
        field_selector: question.field_selector.clone(),
    };
    match server.gate().authorize(account.as_ref().unwrap_or(user), &info).await {
        Ok(types::Decision::Allow) => Decision { allowed: true, ..Decision::default() },
        Ok(types::Decision::Deny(reason)) => Decision { reason, ..Decision::default() },
        Err(error) => Decision { error: Some(error.message().to_owned()), ..Decision::default() },
    }
}
