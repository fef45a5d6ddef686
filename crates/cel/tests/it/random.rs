//! Whatever is written: no panic, no hang; and what the checker lets pass has the overloads that it needs.

use cel::types::Type;
use cel::value::{EvalError, Value};
use cel::{Environment, Variables};
use proptest::prelude::*;

fn environment() -> Environment {
    Environment::new()
        .with_type("n", Type::Int)
        .with_type("s", Type::String)
        .with_type("l", Type::list(Type::Int))
        .with_type("m", Type::map(Type::String, Type::Double))
}

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "n",
        "s",
        "l",
        "m",
        "1",
        "2u",
        "1.5",
        "'a'",
        "b'x'",
        "true",
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        ".",
        "?",
        ":",
        ",",
        "+",
        "-",
        "*",
        "/",
        "==",
        "<",
        "&&",
        "||",
        "!",
        "in",
        " ",
        "size(",
        ".all(x, ",
        ".map(x, ",
        "has(m.a)",
        ".?a",
        "[?0]",
        "cel.bind(y, ",
        "y",
        "x",
        "optional.of(",
        ".orValue(",
        ".matches(",
        "'''",
        "\"",
        "\\",
        "\n",
        "é",
        "//",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// Expressions that are mostly well formed.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "n",
        "s",
        "l",
        "m",
        "1",
        "0",
        "2u",
        "1.5",
        "'a'",
        "b'x'",
        "true",
        "[]",
        "{}",
        "[n]",
        "optional.none()",
        "duration('1s')",
        "timestamp(0)",
        "quantity('1')",
        "ip('::1')",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(5, 40, 3, |inner| {
        let shape = prop::sample::select(vec![
            "(A + B)",
            "(A - B)",
            "(A == B)",
            "(A < B)",
            "(A && B)",
            "(A in B)",
            "A[B]",
            "(A ? B : C)",
            "[A, B]",
            "{A: B}",
            "size(A)",
            "A.all(x, B)",
            "A.exists(x, x == B)",
            "A.map(x, B)",
            "A.filter(x, B)",
            "(A + [n]).sum()",
            "string(A)",
            "type(A)",
            "A.contains(B)",
            "optional.of(A).orValue(B)",
            "A.optMap(x, x)",
            "cel.bind(y, A, B)",
            "A.min()",
            "A.join(B)",
            "A.indexOf(B)",
            "A.transformList(i, v, v)",
            "A.add(B)",
            "sets.contains(A, B)",
            "-A",
        ]);
        (shape, inner.clone(), inner.clone(), inner)
            .prop_map(|(shape, a, b, c)| shape.replace('A', &a).replace('B', &b).replace('C', &c))
    })
}

fn run(source: &str) -> Option<Result<(), EvalError>> {
    let data = serde_json::json!({"l": [3, 1, 2], "m": {"a": 1.5}});
    let program = environment().compile(source).ok()?;
    let m = cel::types::Schema {
        inner: Some(cel::types::Schema::of(Type::Double).into()),
        ..cel::types::Schema::of(Type::map(Type::String, Type::Double))
    };
    let variables = Variables(vec![
        ("n", Value::Int(2)),
        ("s", Value::text("abc")),
        ("l", Value::from_json(&data["l"], None)),
        ("m", Value::from_json(&data["m"], Some(&m))),
    ]);
    let evaluation = program.evaluate(&variables, 100_000);
    Some(evaluation.result.map(|_| ()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_judged(source in "\\PC{0,60}") {
        run(&source);
    }

    #[test]
    fn any_tokens_are_judged(source in pieces()) {
        run(&source);
    }

    #[test]
    fn what_is_checked_has_its_overloads(source in expression()) {
        prop_assert_ne!(run(&source), Some(Err(EvalError::NoOverload)));
    }
}

#[test]
fn random_expressions_are_not_all_refused() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut drawn = || expression().new_tree(&mut runner).map(|tree| run(&tree.current()).is_some());
    let passed = (0..500).filter(|_| matches!(drawn(), Ok(true))).count();
    assert!(passed > 15, "only {passed} of 500 pass the checker");
}
