//! Rules under arbitrary input: they may complain, and must not panic.

use api_catalog::catalog;
use api_machinery::field::Errors;
use api_machinery::resource::Resource;
use api_machinery::schema::{Kind, View};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::TestRng;
use serde_json::{Map, Value, json};

/// Words that rules look for, and some that they do not.
const WORDS: [&str; 24] = [
    "",
    "a",
    "Always",
    "Never",
    "RollingUpdate",
    "Recreate",
    "ClusterIP",
    "NodePort",
    "None",
    "TCP",
    "10.0.0.1",
    "10.0.0.0/8",
    "25%",
    "101%",
    "-1",
    "1Gi",
    "x/y/z",
    "..",
    "é\u{0}",
    "metadata.labels['a']",
    "Exists",
    "In",
    "* * * * *",
    "2026-01-01T00:00:00Z",
];

/// Makes values: mostly of the type that a schema says, sometimes of another.
struct Maker {
    rng: TestRng,
}

impl Maker {
    fn below(&mut self, n: usize) -> usize {
        (self.rng.next_u64() % n as u64) as usize
    }

    fn word(&mut self) -> Value {
        let index = self.below(WORDS.len());
        Value::from(WORDS[index])
    }

    fn anything(&mut self) -> Value {
        match self.below(8) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(-1),
            3 => json!(i64::MAX),
            4 => json!(1.5),
            5 => json!([{}, "a", 1]),
            6 => json!({"a": {"b": []}}),
            _ => self.word(),
        }
    }

    fn value(&mut self, schema: View, depth: usize) -> Value {
        if self.below(20) == 0 {
            return self.anything();
        }
        match schema.kind() {
            Kind::Object(fields) if depth > 0 => {
                let mut map = Map::new();
                for field in fields {
                    if self.below(3) > 0 {
                        map.insert(field.name.clone(), self.value(schema.arena.view(field.node), depth - 1));
                    }
                }
                Value::Object(map)
            }
            Kind::Map(values) if depth > 0 => {
                let (key, values) = (self.word(), schema.arena.view(*values));
                json!({key.as_str().unwrap_or("k"): self.value(values, depth - 1)})
            }
            Kind::Array(items) if depth > 0 => {
                let items = schema.arena.view(*items);
                (0..self.below(3)).map(|_| self.value(items, depth - 1)).collect()
            }
            Kind::Object(_) | Kind::Map(_) => json!({}),
            Kind::Array(_) => json!([]),
            Kind::Integer | Kind::Number => json!([0, 1, -1, 80, 65536, i64::MAX, i64::MIN][self.below(7)]),
            Kind::Boolean => json!(self.below(2) == 0),
            Kind::IntOrString | Kind::Quantity if self.below(2) == 0 => json!(self.below(200)),
            _ => self.word(),
        }
    }
}

fn exercise(resource: &Resource, old: &Value, new: &Value) {
    let rules = &resource.rules;
    let (mut old, mut new) = (old.clone(), new.clone());
    let mut errors = Errors::new();
    (rules.default)(&mut old);
    (rules.prepare_create)(&mut old);
    (rules.validate)(&old, &mut errors);
    (rules.validate_create)(&old, &mut errors);
    let mut by_status = new.clone();
    (rules.prepare_status)(&mut by_status, &old);
    (rules.validate_status_update)(&by_status, &old, &mut errors);
    (rules.prepare_update)(&mut new, &old);
    (rules.default)(&mut new);
    (rules.validate)(&new, &mut errors);
    (rules.validate_update)(&new, &old, &mut errors);
    (rules.name)(new.pointer("/metadata/name").and_then(Value::as_str).unwrap_or(""), true);
    if let Some(grace) = rules.graceful_delete {
        grace(&new, None);
    }
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("time");
    for column in &resource.columns {
        api_machinery::table::cell(column, &new, now);
    }
    if let Some(view) = resource.view_of {
        (view.to_stored)(&mut new);
        (view.from_stored)(&mut new);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn rules_never_panic(seed in any::<[u8; 32]>()) {
        let rng = TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &seed);
        let mut maker = Maker { rng };
        for resource in catalog().iter() {
            let schema = resource.schema.view();
            let (old, new) = (maker.value(schema, 9), maker.value(schema, 9));
            exercise(resource, &old, &new);
        }
    }
}

#[test]
fn rules_never_panic_on_what_is_no_object() {
    for resource in catalog().iter() {
        for value in
            [Value::Null, json!([]), json!("a"), json!(1), json!({"metadata": 1, "spec": [], "status": "x"})]
        {
            exercise(resource, &value, &value);
            exercise(resource, &json!({}), &value);
        }
    }
}

#[test]
fn a_view_and_its_stored_form_hold_the_same() {
    let view = catalog().get("events.k8s.io", "v1", "events").expect("events").view_of.expect("a view");
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"name": "a"}, "note": "n",
        "deprecatedCount": 2, "reportingController": "c"});
    let mut object = event.clone();
    (view.to_stored)(&mut object);
    let stored = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "a"}, "message": "n", "count": 2,
        "reportingComponent": "c"});
    assert_eq!(object, stored);
    (view.from_stored)(&mut object);
    assert_eq!(object, event);
}

#[test]
fn an_autoscaler_of_v1_holds_in_annotations_what_only_v2_can_say() {
    let view = catalog().get("autoscaling", "v1", "horizontalpodautoscalers").expect("autoscalers").view_of;
    let view = view.expect("a view");
    let stored = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "a"},
    "spec": {"maxReplicas": 3, "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1}]}}, "metrics": [
        {"type": "Pods", "pods": {"metric": {"name": "m", "selector": {"matchLabels": {"a": "b"}}},
            "target": {"type": "AverageValue", "averageValue": "1"}}},
        {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "m"},
            "target": {"type": "Value", "value": "2"}}},
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
    ]},
    "status": {"currentReplicas": 1, "conditions": [{"type": "AbleToScale", "status": "True"}], "currentMetrics": [
        {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 5, "averageValue": "1m"}}},
    ]}});
    let mut object = stored.clone();
    (view.from_stored)(&mut object);
    assert_eq!(object["apiVersion"], "autoscaling/v1");
    let expected = json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 70});
    assert_eq!(object["spec"], expected);
    assert_eq!(object["status"], json!({"currentReplicas": 1, "currentCPUUtilizationPercentage": 5}));
    let note = |name: &str| {
        let text =
            object["metadata"]["annotations"][format!("autoscaling.alpha.kubernetes.io/{name}")].as_str();
        serde_json::from_str::<Value>(text.expect("an annotation")).expect("JSON")
    };
    assert_eq!(note("behavior"), json!({"ScaleUp": {"Policies": [{"Type": "Pods", "Value": 1}]}}));
    assert_eq!(note("metrics")[0]["pods"]["targetAverageValue"], "1");
    assert_eq!(note("metrics")[1]["object"]["target"], json!({"kind": "Service", "name": "s"}));
    assert_eq!(note("current-metrics")[0]["resource"]["currentAverageUtilization"], 5);
    (view.to_stored)(&mut object);
    object["metadata"].as_object_mut().expect("metadata").remove("annotations");
    assert_eq!(object, stored);
}
