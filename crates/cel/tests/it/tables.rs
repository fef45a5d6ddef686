//! Expressions and what must come of them, one a line: `expression => expected`.

use cel::types::Type;
use cel::value::Value;
use cel::{Environment, PER_CALL_LIMIT, Variables};

/// Lines that say something.
fn lines(table: &str) -> impl Iterator<Item = (&str, &str)> {
    table
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(" => ").unwrap_or_else(|| panic!("no `=>` in {line}")))
}

fn environment() -> Environment {
    Environment::new().with_type("self", Type::Dyn).with_type("n", Type::Int).with_type("s", Type::String)
}

fn data() -> serde_json::Value {
    serde_json::json!({
        "name": "web", "replicas": 3, "ratio": 0.5, "on": true, "none": null, "ports": [80, 443],
        "labels": {"app": "web", "tier": "front"}, "items": [{"k": 1}, {"k": 2}],
    })
}

fn with<T>(expression: &str, see: impl FnOnce(cel::Evaluation<'_>) -> T) -> T {
    let data = data();
    let program = environment().compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let variables = Variables(vec![
        ("self", Value::from_json(&data, None)),
        ("n", Value::Int(5)),
        ("s", Value::text("hello")),
    ]);
    see(program.evaluate(&variables, PER_CALL_LIMIT))
}

#[test]
fn values() {
    for (expression, expected) in lines(include_str!("values.txt")) {
        // Through `dyn`, so that types differ only where they must.
        let same = format!("dyn({expression}) == dyn({expected})");
        let outcome =
            with(&same, |evaluation| evaluation.result.map(|value| matches!(value, Value::Bool(true))));
        let shown = with(expression, |evaluation| format!("{:?}", evaluation.result));
        assert_eq!(outcome, Ok(true), "{expression} => {expected}, but is {shown}");
    }
}

#[test]
fn failures() {
    for (expression, expected) in lines(include_str!("failures.txt")) {
        let error = with(expression, |evaluation| evaluation.result.map(|value| format!("{value:?}")));
        assert_eq!(error.map_err(|error| error.to_string()), Err(expected.to_owned()), "{expression}");
    }
}

#[test]
fn refusals() {
    for (expression, expected) in lines(include_str!("refusals.txt")) {
        let error = environment().compile(expression).map(|_| ()).expect_err(expression);
        let first = error.to_string().lines().next().unwrap_or_default().to_owned();
        assert_eq!(first, format!("ERROR: <input>:{expected}"), "{expression}");
    }
}

#[test]
fn costs() {
    for (expression, expected) in lines(include_str!("costs.txt")) {
        let cost = with(expression, |evaluation| evaluation.cost);
        assert_eq!(cost.to_string(), expected, "{expression}");
    }
}

#[test]
fn places_are_shown() {
    let error = environment().compile("n == 'x'").map(|_| ()).expect_err("types differ");
    let expected = "ERROR: <input>:1:3: found no matching overload for '_==_' applied to '(int, string)'\n \
                    | n == 'x'\n | ..^";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn hostile_rules_end_early() {
    let long: Vec<String> = (0..2_000).map(|number| format!("aaaaaaaaaaaaaaaa{number:04}")).collect();
    let data = serde_json::json!({"list": long, "text": "a".repeat(100_000), "pattern": "((a{50}){20}b?)*$"});
    let environment = Environment::new().with_type("self", Type::Dyn);
    let rules = [
        "self.list.all(a, self.list.all(b, self.list.all(c, c != '')))",
        "self.list.map(a, self.list.map(b, a + b)).size() > 0",
        "self.text.matches(self.pattern)",
        "self.list.exists(a, a.matches(a + '{1000}'))",
        "self.text.replace('', self.text).size() > 0",
        "cel.bind(a, self.list + self.list, cel.bind(b, a + a + a + a + a + a + a + a, \
         cel.bind(c, b + b + b + b + b + b + b + b, cel.bind(d, c + c + c + c + c + c + c + c, \
         d + d + d + d + d + d + d + d)))).size() > 0",
        "self.list.all(a, self.list.all(b, self == self))",
    ];
    for rule in rules {
        let program = environment.compile(rule).unwrap_or_else(|error| panic!("{rule}: {error}"));
        let variables = Variables(vec![("self", Value::from_json(&data, None))]);
        let evaluation = program.evaluate(&variables, PER_CALL_LIMIT);
        let error = evaluation.result.map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(error, Err("operation cancelled: actual cost limit exceeded".to_owned()), "{rule}");
    }
}

#[test]
fn sources_are_bounded() {
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
    let sources = [
        deep("(", ")"),
        deep("[", "]"),
        deep("{1:", "}"),
        format!("1{}", " + 1".repeat(10_000)),
        format!("self{}", ".a".repeat(10_000)),
        "true ? ".repeat(10_000),
        " ".repeat(200_000),
    ];
    for source in sources {
        assert!(environment().compile(&source).is_err(), "{:.20}", source);
    }
    assert!(environment().compile(&format!("true{}", " && true".repeat(5_000))).is_ok());
}

#[test]
fn the_deepest_that_is_allowed_fits_a_small_stack() {
    let nested =
        |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(95), close.repeat(95));
    let sources = [
        format!("1{} == 241", " + 1".repeat(240)),
        nested("[1].all(x, ", "true", ")"),
        nested("(", "true", ")"),
        format!("{} == {}", nested("[", "1", "]"), nested("[", "1", "]")),
        nested("false ? false : ", "true", ""),
        nested("cel.bind(x, 1, ", "x == 1", ")"),
    ];
    for source in sources {
        let yes = with(&source, |evaluation| matches!(evaluation.result, Ok(Value::Bool(true))));
        assert!(yes, "{source:.40}");
    }
}
