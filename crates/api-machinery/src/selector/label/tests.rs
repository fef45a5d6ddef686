//! Cases and laws of label selectors.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn parsing() {
    let cases = [
        ("", Ok("")),
        ("a", Ok("a")),
        ("!a", Ok("!a")),
        ("b=1,a==2", Ok("a==2,b=1")),
        ("a=", Ok("a=")),
        ("a!=", Ok("a!=")),
        (" a  in ( c , b ) ", Ok("a in (b,c)")),
        ("a notin ()", Ok("a notin ()")),
        ("a in (,b)", Ok("a in (,b)")),
        ("a in (in,notin)", Ok("a in (in,notin)")),
        ("in in (x)", Ok("in in (x)")),
        ("a>1,b<2", Ok("a>1,b<2")),
        ("example.com/a=b", Ok("example.com/a=b")),
        ("a=b,", Err("found '', expected: identifier after ','")),
        (",a", Err("found ',', expected: !, identifier, or 'end of string'")),
        ("a b", Err("unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt")),
        ("a in b", Err("unable to parse requirement: found 'b' expected: '('")),
        ("a in (b", Err("unable to parse requirement: found '', expected: ',' or ')'")),
        ("a=b c", Err("found 'c', expected: ',' or 'end of string'")),
        ("!a=b", Err("found '=', expected: ',' or 'end of string'")),
        (
            "a>x",
            Err("unable to parse requirement: values[0]: Invalid value: \"x\": \
                 for 'Gt', 'Lt' operators, the value must be an integer"),
        ),
        (
            "a/b/c=d",
            Err(
                "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must consist of \
                 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
                 (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                 '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' \
                 (e.g. 'example.com/MyName')",
            ),
        ),
    ];
    for (text, expected) in cases {
        let got = LabelSelector::parse(text).map(|selector| selector.to_string()).map_err(|error| error.0);
        assert_eq!(got.as_deref().map_err(String::as_str), expected, "{text}");
    }
}

#[test]
fn matching() {
    let labels = json!({"app": "web", "tier": "1", "empty": ""});
    let labels = labels.as_object();
    let cases = [
        ("", true),
        ("app=web", true),
        ("app!=web", false),
        ("other!=web", true),
        ("app in (a,web)", true),
        ("app notin (a,web)", false),
        ("other notin (a)", true),
        ("other in (a)", false),
        ("app", true),
        ("!app", false),
        ("!other", true),
        ("empty=", true),
        ("other=", false),
        ("tier>0,tier<2", true),
        ("tier>1", false),
        ("app>1", false),
        ("app=web,tier=2", false),
    ];
    for (text, expected) in cases {
        assert_eq!(LabelSelector::parse(text).expect("is well formed").matches(labels), expected, "{text}");
    }
    assert!(LabelSelector::everything().matches(None));
    assert!(!LabelSelector::nothing().matches(labels));
}

#[test]
fn object_form() {
    let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
        {"key": "c", "operator": "In", "values": ["e", "d"]},
        {"key": "f", "operator": "DoesNotExist"},
    ]});
    let parsed = LabelSelector::from_object(Some(&selector)).expect("is well formed");
    assert_eq!(parsed.to_string(), "a=b,c in (d,e),!f");
    assert_eq!(parsed.exact("a"), Some("b"));
    assert_eq!(parsed.exact("c"), None);
    assert!(LabelSelector::from_object(None).expect("is well formed").is_nothing());
    assert!(LabelSelector::from_object(Some(&json!({}))).expect("is well formed").is_empty());
    let wrong = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
    assert_eq!(
        LabelSelector::from_object(Some(&wrong)),
        Err(SelectorError("\"Near\" is not a valid label selector operator".to_owned()))
    );
}

#[test]
fn validation_of_the_object_form() {
    let selector = json!({"matchLabels": {"a b": "-"}, "matchExpressions": [
        {"key": "a", "operator": "In"},
        {"key": "", "operator": "Exists", "values": ["x"]},
        {"key": "b", "operator": "Near"},
    ]});
    let mut errors = Errors::new();
    validate_label_selector(&selector, &Path::new("spec").child("selector"), &mut errors);
    let fields: Vec<(&str, &str)> =
        errors.iter().map(|error| (error.field.as_str(), error.kind.reason())).collect();
    assert_eq!(
        fields,
        [
            ("spec.selector.matchLabels", "FieldValueInvalid"),
            ("spec.selector.matchLabels", "FieldValueInvalid"),
            ("spec.selector.matchExpressions[0].values", "FieldValueRequired"),
            ("spec.selector.matchExpressions[1].values", "FieldValueForbidden"),
            ("spec.selector.matchExpressions[1].key", "FieldValueInvalid"),
            ("spec.selector.matchExpressions[1].key", "FieldValueInvalid"),
            ("spec.selector.matchExpressions[2].operator", "FieldValueInvalid"),
        ]
    );
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let key = "([a-z]{1,3}\\.[a-z]{1,3}/)?[a-zA-Z0-9]([-_.a-z]{0,4}[a-z])?";
    let value = "([a-zA-Z0-9]([-_.a-z]{0,4}[a-z])?)?";
    (key, 0..9usize, prop::collection::btree_set(value, 1..4), any::<i64>())
        .prop_map(|(key, operator, values, bound)| {
            let one = || values.iter().take(1).cloned().collect::<Vec<_>>();
            let (operator, values) = match operator {
                0 => (Operator::Equals, one()),
                1 => (Operator::DoubleEquals, one()),
                2 => (Operator::NotEquals, one()),
                3 => (Operator::In, values.iter().cloned().collect()),
                4 => (Operator::NotIn, values.iter().cloned().collect()),
                5 => (Operator::Exists, Vec::new()),
                6 => (Operator::DoesNotExist, Vec::new()),
                7 => (Operator::GreaterThan, vec![bound.unsigned_abs().to_string()]),
                _ => (Operator::LessThan, vec![bound.unsigned_abs().to_string()]),
            };
            (key, operator, values)
        })
        .prop_filter_map("bounds are 64-bit", |(key, operator, values)| {
            Requirement::new(key, operator, values).ok()
        })
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(requirements in prop::collection::vec(requirement(), 0..6)) {
        let selector = LabelSelector::of(requirements);
        prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
    }

    #[test]
    fn nothing_makes_it_panic(text in "[a-c=!<>(), in\0]{0,40}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
        }
    }

    /// As the documentation of the API says it, one requirement after the other.
    #[test]
    fn an_object_is_selected_if_every_requirement_holds(
        requirements in prop::collection::vec(("[a-c]", 0..8usize, prop::collection::btree_set("[1-4]", 1..3)), 0..4),
        labels in prop::collection::btree_map("[a-c]", "[1-4x]", 0..4),
    ) {
        let mut texts = Vec::new();
        let mut selected = true;
        for (key, operator, values) in requirements {
            let (label, first) = (labels.get(&key), values.first().expect("a value"));
            let set = values.iter().cloned().collect::<Vec<_>>().join(",");
            let number = label.and_then(|label| label.parse::<i64>().ok());
            let bound: i64 = first.parse().expect("a number");
            let (text, holds) = match operator {
                0 => (format!("{key}={first}"), label == Some(first)),
                1 => (format!("{key}!={first}"), label != Some(first)),
                2 => (format!("{key} in ({set})"), label.is_some_and(|label| values.contains(label))),
                3 => (format!("{key} notin ({set})"), !label.is_some_and(|label| values.contains(label))),
                4 => (key, label.is_some()),
                5 => (format!("!{key}"), label.is_none()),
                6 => (format!("{key}>{first}"), number.is_some_and(|number| number > bound)),
                _ => (format!("{key}<{first}"), number.is_some_and(|number| number < bound)),
            };
            texts.push(text);
            selected &= holds;
        }
        let selector = LabelSelector::parse(&texts.join(",")).expect("is well formed");
        let labels: Map<String, Value> =
            labels.into_iter().map(|(key, value)| (key, value.into())).collect();
        prop_assert_eq!(selector.matches(Some(&labels)), selected, "{}", selector);
    }

    #[test]
    fn a_requirement_and_its_opposite_split_all_objects(
        value in prop::option::of("[a-c]"), values in prop::collection::vec("[a-c]", 1..3),
    ) {
        let pairs = [(Operator::In, Operator::NotIn), (Operator::Exists, Operator::DoesNotExist)];
        for (yes, no) in pairs {
            let values = || if yes == Operator::In { values.clone() } else { Vec::new() };
            let yes = Requirement::new("k", yes, values()).expect("is well formed");
            let no = Requirement::new("k", no, values()).expect("is well formed");
            prop_assert_ne!(yes.allows(value.as_deref()), no.allows(value.as_deref()));
        }
    }
}
