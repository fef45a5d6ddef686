//! Label selectors in their typed form, compiled once and matched often.

use std::collections::BTreeMap;

use api_machinery::selector::{LabelSelector as Compiled, Operator, Requirement, SelectorError};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels as objects have them.
pub type Labels = BTreeMap<String, String>;

/// Compiles a selector. Absence selects nothing, an empty selector everything.
pub fn compile(selector: Option<&LabelSelector>) -> Result<Compiled, SelectorError> {
    let Some(selector) = selector else { return Ok(Compiled::nothing()) };
    let mut requirements = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        requirements.push(Requirement::new(key, Operator::Equals, [value.clone()])?);
    }
    for expression in selector.match_expressions.iter().flatten() {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
        };
        let values = expression.values.iter().flatten().cloned();
        requirements.push(Requirement::new(&expression.key, operator, values)?);
    }
    Ok(Compiled::of(requirements))
}

/// Whether a compiled selector selects an object with these labels.
pub fn matches(selector: &Compiled, labels: Option<&Labels>) -> bool {
    selector.matches_with(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
}

/// Compiles and matches at once. A selector that cannot be compiled selects nothing.
pub fn selects(selector: Option<&LabelSelector>, labels: Option<&Labels>) -> bool {
    compile(selector).is_ok_and(|selector| matches(&selector, labels))
}
