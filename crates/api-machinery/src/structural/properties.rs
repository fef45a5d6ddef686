//! What must hold for any schema and any value: pruning and defaulting are what a few lines of plain recursion say, and
//! decoding under a schema is decoding and pruning.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::{apply_defaults, prune};
use crate::decode;
use crate::schema::{Arena, Field, Kind, Node, NodeId, SchemaRef};

/// A schema as a tree, which is easier to say things about.
#[derive(Clone, Debug)]
struct Shape {
    nullable: bool,
    default: Option<Value>,
    kind: Form,
}

#[derive(Clone, Debug)]
enum Form {
    Leaf(Kind),
    Object { fields: BTreeMap<String, Shape>, open: bool },
    Map(Box<Shape>),
    List(Box<Shape>),
}

impl Shape {
    fn add(&self, arena: &mut Arena) -> NodeId {
        let kind = match &self.kind {
            Form::Leaf(kind) => kind.clone(),
            Form::Object { fields, .. } => {
                let field = |(name, shape): (&String, &Shape)| Field {
                    name: name.clone(),
                    node: shape.add(arena),
                    required: false,
                };
                Kind::Object(fields.iter().map(field).collect())
            }
            Form::Map(values) => Kind::Map(values.add(arena)),
            Form::List(items) => Kind::Array(items.add(arena)),
        };
        let mut node = Node { nullable: self.nullable, ..Node::of(kind) };
        node.preserve_unknown = matches!(self.kind, Form::Object { open: true, .. });
        if let Some(default) = &self.default {
            node.extra_mut().default = Some(default.clone());
        }
        arena.add(node)
    }

    fn schema(&self) -> SchemaRef {
        let mut arena = Arena::new();
        let root = self.add(&mut arena);
        SchemaRef { arena: arena.into(), root }
    }

    fn keeps_null(&self) -> bool {
        self.nullable || matches!(self.kind, Form::Leaf(Kind::Any))
    }

    fn pruned(&self, value: &Value) -> Value {
        let inner = |shape: &Shape, value: &Value| match value {
            Value::Null => shape.keeps_null().then_some(Value::Null),
            value => Some(shape.pruned(value)),
        };
        match (&self.kind, value) {
            (Form::Object { fields, open }, Value::Object(object)) => object
                .iter()
                .filter_map(|(key, value)| match fields.get(key) {
                    Some(shape) => Some((key.clone(), inner(shape, value)?)),
                    None => open.then(|| (key.clone(), value.clone())),
                })
                .collect::<Map<_, _>>()
                .into(),
            (Form::Map(shape), Value::Object(object)) => object
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), inner(shape, value)?)))
                .collect::<Map<_, _>>()
                .into(),
            (Form::List(shape), Value::Array(items)) => items.iter().map(|item| shape.pruned(item)).collect(),
            _ => value.clone(),
        }
    }

    fn defaulted(&self, value: &Value) -> Value {
        match (&self.kind, value) {
            (Form::Object { fields, .. }, Value::Object(object)) => {
                let mut filled = object.clone();
                for (key, shape) in fields {
                    let value =
                        object.get(key).or(shape.default.as_ref()).map(|value| shape.defaulted(value));
                    filled.extend(value.map(|value| (key.clone(), value)));
                }
                filled.into()
            }
            (Form::Map(shape), Value::Object(object)) => object
                .iter()
                .map(|(key, value)| (key.clone(), shape.defaulted(value)))
                .collect::<Map<_, _>>()
                .into(),
            (Form::List(shape), Value::Array(items)) => {
                items.iter().map(|item| shape.defaulted(item)).collect()
            }
            _ => value.clone(),
        }
    }
}

/// Values whose fields are those of the schemas, mostly.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        2 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        2 => (-2..3i64).prop_map(Value::from),
        2 => "[x-z]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::btree_map("[a-e]", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    let with = |kind: BoxedStrategy<Form>| {
        (kind, any::<bool>(), prop::option::weighted(0.3, value()))
            .prop_map(|(kind, nullable, default)| Shape { nullable, default, kind })
    };
    let leaf = prop::sample::select(vec![Kind::String, Kind::Integer, Kind::Any]);
    let leaf = with(leaf.prop_map(Form::Leaf).boxed());
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let object = (prop::collection::btree_map("[a-d]", inner.clone(), 0..4), prop::bool::weighted(0.2));
        let object = object.prop_map(|(fields, open)| Form::Object { fields, open });
        let map = inner.clone().prop_map(|shape| Form::Map(Box::new(shape)));
        let list = inner.prop_map(|shape| Form::List(Box::new(shape)));
        with(prop_oneof![4 => object, 1 => map, 1 => list].boxed())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pruning_is_what_it_should_be_and_needed_once(shape in shape(), value in value()) {
        let schema = shape.schema();
        let mut pruned = value.clone();
        let findings = prune(&mut pruned, schema.view());
        prop_assert_eq!(&pruned, &shape.pruned(&value));
        let mut again = pruned.clone();
        prop_assert_eq!(prune(&mut again, schema.view()), Vec::<String>::new(), "after {:?}", findings);
        prop_assert_eq!(again, pruned);
    }

    #[test]
    fn defaulting_is_what_it_should_be_and_needed_once(shape in shape(), value in value()) {
        let schema = shape.schema();
        let mut filled = value.clone();
        apply_defaults(&mut filled, schema.view());
        prop_assert_eq!(&filled, &shape.defaulted(&value));
        let mut again = filled.clone();
        apply_defaults(&mut again, schema.view());
        prop_assert_eq!(again, filled);
    }

    #[test]
    fn decoding_under_a_schema_prunes(shape in shape(), value in value()) {
        let schema = shape.schema();
        let decoded = decode::json(value.to_string().as_bytes(), Some(schema.view())).expect("is JSON");
        let mut pruned = value;
        let findings = prune(&mut pruned, schema.view());
        prop_assert_eq!((decoded.value, decoded.findings), (pruned, findings));
    }
}
