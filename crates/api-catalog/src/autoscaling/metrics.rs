//! The five kinds of metrics: the field that each is in, and how `v1` (in annotations) and `v2` write the same one.

use serde_json::{Map, Value, json};

use crate::fill::{at, object_at, set, text};

/// One kind of metrics.
pub(super) struct Source {
    /// What `type` says.
    pub kind: &'static str,
    /// The field of that source.
    pub field: &'static str,
    /// Names of the same thing: `v1`'s field, and the way to it in `v2`. Written for targets; see [`Part`].
    names: &'static [(&'static str, &'static str)],
}

/// All of them, in the order of upstream's messages.
pub(super) const SOURCES: [Source; 5] = [
    Source {
        kind: "ContainerResource",
        field: "containerResource",
        names: &[
            ("name", "name"),
            ("container", "container"),
            ("targetAverageUtilization", "target.averageUtilization"),
            ("targetAverageValue", "target.averageValue"),
        ],
    },
    Source {
        kind: "External",
        field: "external",
        names: &[
            ("metricName", "metric.name"),
            ("metricSelector", "metric.selector"),
            ("targetValue", "target.value"),
            ("targetAverageValue", "target.averageValue"),
        ],
    },
    Source {
        kind: "Object",
        field: "object",
        names: &[
            ("target", "describedObject"),
            ("metricName", "metric.name"),
            ("selector", "metric.selector"),
            ("targetValue", "target.value"),
            ("averageValue", "target.averageValue"),
        ],
    },
    Source {
        kind: "Pods",
        field: "pods",
        names: &[
            ("metricName", "metric.name"),
            ("selector", "metric.selector"),
            ("targetAverageValue", "target.averageValue"),
        ],
    },
    Source {
        kind: "Resource",
        field: "resource",
        names: &[
            ("name", "name"),
            ("targetAverageUtilization", "target.averageUtilization"),
            ("targetAverageValue", "target.averageValue"),
        ],
    },
];

/// The source of a kind of metrics.
pub(super) fn source(kind: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| source.kind == kind)
}

/// Whether metrics say what is aimed at or what was measured: the names differ in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Target,
    Current,
}

impl Source {
    fn names(&self, part: Part) -> impl Iterator<Item = (String, String)> {
        self.names.iter().map(move |(old, way)| match way.strip_prefix("target.") {
            Some(rest) if part == Part::Current => {
                (old.replacen("target", "current", 1), format!("current.{rest}"))
            }
            _ => ((*old).to_owned(), (*way).to_owned()),
        })
    }
}

/// A metric of `v2` as `v1` writes it; none of a kind that is not known.
pub(super) fn to_v1(metric: &Value, part: Part) -> Option<Value> {
    let source = source(text(metric, "type"))?;
    let mut fields = Map::new();
    for (old, way) in source.names(part) {
        let way: Vec<&str> = way.split('.').collect();
        if let Some(value) = at(&metric[source.field], &way) {
            fields.insert(old, value.clone());
        }
    }
    Some(json!({"type": source.kind, source.field: fields}))
}

/// A metric of `v1` as `v2` writes it; none of a kind that is not known.
pub(super) fn to_v2(metric: &Value, part: Part) -> Option<Value> {
    let source = source(text(metric, "type"))?;
    let mut fields = json!({});
    for (old, way) in source.names(part) {
        let (parents, last) = way.rsplit_once('.').unwrap_or(("", &way));
        let parents: Vec<&str> = parents.split('.').filter(|step| !step.is_empty()).collect();
        if let Some(value) = at(&metric[source.field], &[&*old])
            && let Some(parent) = object_at(&mut fields, &parents)
        {
            set(parent, last, value.clone());
        }
    }
    if part == Part::Target
        && let Some(target) = object_at(&mut fields, &["target"])
    {
        let has = |field: &str| at(target, &[field]).is_some();
        let kind = match (has("averageUtilization"), has("averageValue")) {
            (true, _) => "Utilization",
            (false, true) => "AverageValue",
            (false, false) => "Value",
        };
        set(target, "type", kind);
    }
    Some(json!({"type": source.kind, source.field: fields}))
}
