//! Cases, bombs and laws of decoding.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::{Arena, Field, Node, NodeId, SchemaRef};

/// `{spec: {replicas: int, paused: bool, items: [{name: string}], labels: map of strings, free: any}}`.
fn schema() -> SchemaRef {
    let mut arena = Arena::new();
    let field = |name: &str, node: NodeId| Field { name: name.to_owned(), node, required: false };
    let string = arena.add(Node::of(Kind::String));
    let integer = arena.add(Node::of(Kind::Integer));
    let boolean = arena.add(Node::of(Kind::Boolean));
    let free = arena.add(Node::of(Kind::Any));
    let item = arena.add(Node::of(Kind::Object(vec![field("name", string)])));
    let items = arena.add(Node::of(Kind::Array(item)));
    let labels = arena.add(Node::of(Kind::Map(string)));
    let spec = arena.add(Node::of(Kind::Object(vec![
        field("replicas", integer),
        field("paused", boolean),
        field("items", items),
        field("labels", labels),
        field("free", free),
    ])));
    let root = arena.add(Node::of(Kind::Object(vec![field("spec", spec)])));
    SchemaRef { arena: arena.into(), root }
}

#[test]
fn findings_come_in_the_order_of_the_bytes() {
    let text = br#"{"spec": {"x1": 1, "x2": 1, "x2": 2, "replicas": 1, "replicas": 2,
        "items": [{"name": "a", "y": {"z": 1}}, {"name": "b", "name": "c"}],
        "labels": {"l": "1", "l": "2"}, "free": {"q": null, "q": 1}, "paused": null}}"#;
    let schema = schema();
    let decoded = json(text, Some(schema.view())).expect("is JSON");
    assert_eq!(
        decoded.findings,
        [
            "unknown field \"spec.x1\"",
            "unknown field \"spec.x2\"",
            "duplicate field \"spec.replicas\"",
            "unknown field \"spec.items[0].y\"",
            "duplicate field \"spec.items[1].name\"",
            "duplicate field \"spec.labels.l\"",
            "duplicate field \"spec.free.q\"",
        ]
    );
    let expected = json!({"spec": {
        "replicas": 2, "items": [{"name": "a"}, {"name": "c"}], "labels": {"l": "2"}, "free": {"q": 1},
    }});
    assert_eq!(decoded.value, expected);
    let untyped = json(text, None).expect("is JSON");
    assert_eq!(untyped.value["spec"]["paused"], Value::Null);
    assert_eq!(untyped.findings[0], "duplicate field \"spec.x2\"");
}

#[test]
fn findings_are_bounded() {
    let fields: Vec<String> = (0..1000).map(|number| format!("\"x{number}\":1")).collect();
    let schema = schema();
    let decoded = json(format!("{{{}}}", fields.join(",")).as_bytes(), Some(schema.view())).expect("is JSON");
    assert_eq!(decoded.findings.len(), MAX_FINDINGS);
}

#[test]
fn yaml_is_read_like_json() {
    let text =
        b"spec:\n  replicas: 1\n  replicas: 2\n  x: 1\n  labels: {1: a, true: b}\n  items:\n  - name: a\n";
    let schema = schema();
    let decoded = yaml(text, Some(schema.view())).expect("is YAML");
    assert_eq!(decoded.findings, ["duplicate field \"spec.replicas\"", "unknown field \"spec.x\""]);
    let expected =
        json!({"spec": {"replicas": 2, "labels": {"1": "a", "true": "b"}, "items": [{"name": "a"}]}});
    assert_eq!(decoded.value, expected);
    let json_in_yaml = br#"{"a": [1, 2.5, "x", null, true]}"#;
    assert_eq!(yaml(json_in_yaml, None).expect("is YAML").value, json!({"a": [1, 2.5, "x", null, true]}));
    assert_eq!(yaml(b"a: &x {b: 1}\nc: *x\n", None).expect("is YAML").value["c"], json!({"b": 1}));
}

#[test]
fn malformed() {
    for text in ["", "{", "{\"a\"", "{\"a\": 1,}", "[1 2]", "{} {}", "nul", "\"\\ud800\"", "1e999", "{1: 2}"]
    {
        let error = json(text.as_bytes(), None).expect_err(text);
        assert_eq!(ApiError::from(error).code(), 400, "{text}");
    }
    assert_eq!(
        json(b"{\"a\":", None),
        Err(DecodeError::Malformed("unexpected end of JSON input".to_owned()))
    );
    for text in ["a: [", "a: b: c", "{a: 1", "a: .inf", "--- 1\n--- 2\n", "\u{0}"] {
        let error = yaml(text.as_bytes(), None).expect_err(text);
        assert_eq!(ApiError::from(error).code(), 400, "{text}");
    }
    assert!(json(b"\"\xff\"", None).is_err() && yaml(b"\xff", None).is_err());
}

/// What a client has read and writes again is the same number, digit by digit.
#[test]
fn numbers_are_as_exact_as_they_can_be() {
    for text in ["-922337203680.575808", "0.1", "1.8446744444444442e+98", "5e-324", "1.7976931348623157e308"]
    {
        let value = json(text.as_bytes(), None).expect("is JSON").value;
        assert_eq!(value.as_f64(), text.parse().ok(), "{text}");
        assert_eq!(json(value.to_string().as_bytes(), None).expect("is JSON").value, value);
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(json(nested(MAX_DEPTH).as_bytes(), None).is_ok());
    assert!(!is_too_deep(&json(nested(MAX_DEPTH).as_bytes(), None).expect("is not too deep").value));
    assert!(is_too_deep(&json!([json(nested(MAX_DEPTH).as_bytes(), None).expect("is not too deep").value])));
    assert_eq!(json(nested(MAX_DEPTH + 1).as_bytes(), None), Err(DecodeError::TooDeep));
    let schema = schema();
    for text in [nested(1_500_000), "[".repeat(3_000_000), "{\"a\":".repeat(500_000)] {
        assert_eq!(json(text.as_bytes(), None), Err(DecodeError::TooDeep));
        assert_eq!(json(text.as_bytes(), Some(schema.view())), Err(DecodeError::TooDeep));
        let ignored = format!("{{\"unknown\":{}", &text[..text.len() - 16]);
        assert_eq!(json(ignored.as_bytes(), Some(schema.view())), Err(DecodeError::TooDeep));
    }
    assert_eq!(json(&vec![b' '; MAX_BYTES + 1], None), Err(DecodeError::TooLarge));
    assert_eq!(yaml(&vec![b' '; MAX_BYTES + 1], None), Err(DecodeError::TooLarge));
}

#[test]
fn yaml_bombs_fail_fast() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..10 {
        let alias = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(",")));
    }
    let brackets = "[".repeat(3_000_000);
    let flat = format!("x: &x {}\ny: [{}]\n", "z".repeat(100_000), vec!["*x"; 90].join(","));
    let blocks: String = (0..2000).map(|depth| format!("{}- \n", " ".repeat(depth))).collect();
    for text in [bomb, brackets, "- ".repeat(1_000_000), "{a: ".repeat(700_000), blocks] {
        let start = tokio::time::Instant::now();
        assert!(yaml(text.as_bytes(), None).is_err());
        let spent = start.elapsed();
        assert!(spent.as_millis() < 1_000, "{spent:?} for {}", &text[..20]);
    }
    // Ninety copies of 100 kB would be 9 MB.
    assert!(yaml(flat.as_bytes(), None).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let schema = schema();
        for format in [Format::Json, Format::Yaml] {
            for schema in [None, Some(schema.view())] {
                if let Ok(decoded) = decode(format, &bytes, schema) {
                    prop_assert!(!is_too_deep(&decoded.value));
                }
            }
        }
    }

    #[test]
    fn almost_json_never_panics(text in "[\\[\\]{}:,\"a0-9.eE \\\\u\\-ntrf&*#|>!]{0,60}") {
        let strict: Option<Value> = serde_json::from_str(&text).ok();
        let decoded = json(text.as_bytes(), None).ok().map(|decoded| decoded.value);
        prop_assert_eq!(decoded, strict);
        if let Ok(decoded) = yaml(text.as_bytes(), None) {
            prop_assert!(!is_too_deep(&decoded.value));
        }
    }
}
