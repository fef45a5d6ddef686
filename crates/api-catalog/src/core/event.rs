//! Events: one stored form, core's; `events.k8s.io` is a view of it.

use api_machinery::field::Errors;
use api_machinery::resource::{Cell, Column, Selectable, ViewOf};
use jiff::Timestamp;
use serde_json::Value;

use crate::at::At;
use crate::check;
use crate::entry::{columns, computed, selectable as plain};
use crate::fill::{get, remove, set, text};
use crate::print::{number, since};

pub(crate) fn table() -> Vec<Column> {
    let mut all = columns(&[
        ("Last Seen", "string", 0, computed(last_seen)),
        ("Type", "string", 0, Cell::Path(".type".into())),
        ("Reason", "string", 0, Cell::Path(".reason".into())),
        ("Object", "string", 0, computed(object)),
        (
            "Subobject",
            "string",
            1,
            computed(|event, _| Value::from(text(&event["involvedObject"], "fieldPath"))),
        ),
        ("Source", "string", 1, computed(source)),
        ("Message", "string", 0, computed(|event, _| Value::from(text(event, "message").trim()))),
        ("First Seen", "string", 1, computed(first_seen)),
        ("Count", "string", 1, computed(count)),
    ]);
    // The name says little, and comes last.
    let mut name = all.remove(0);
    name.priority = 1;
    all.push(name);
    all
}

fn moment<'a>(event: &'a Value, field: &str) -> &'a Value {
    match get(event, field) {
        Some(time) => time,
        None => &event["eventTime"],
    }
}

fn first_seen(event: &Value, now: Timestamp) -> Value {
    Value::from(since(moment(event, "firstTimestamp"), now))
}

fn last_seen(event: &Value, now: Timestamp) -> Value {
    let series = &event["series"]["lastObservedTime"];
    let time = match (get(event, "lastTimestamp"), series.is_null()) {
        (_, false) => series,
        (Some(last), _) => last,
        (None, _) => moment(event, "firstTimestamp"),
    };
    Value::from(since(time, now))
}

fn count(event: &Value, _: Timestamp) -> Value {
    match (get(&event["series"], "count"), number(&event["count"])) {
        (Some(count), _) => count.clone(),
        (None, 0) => Value::from(1),
        (None, count) => Value::from(count),
    }
}

fn object(event: &Value, _: Timestamp) -> Value {
    let about = &event["involvedObject"];
    match text(about, "name") {
        "" => Value::from(text(about, "kind").to_lowercase()),
        name => Value::from(format!("{}/{name}", text(about, "kind").to_lowercase())),
    }
}

fn source(event: &Value, _: Timestamp) -> Value {
    let component = match text(&event["source"], "component") {
        "" => text(event, "reportingComponent"),
        component => component,
    };
    match text(&event["source"], "host") {
        "" => Value::from(component),
        host => Value::from(format!("{component}, {host}")),
    }
}

pub(crate) fn selectable() -> Vec<Selectable> {
    let mut fields = plain(&[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "type",
    ]);
    let source = Selectable {
        field: "source".into(),
        pointers: vec!["/source/component".into(), "/reportingComponent".into()],
        absent: "".into(),
    };
    fields.push(source);
    fields
}

/// The same fields under the view's names, in the stored form's places: selectors run on what is stored.
pub(crate) fn view_selectable() -> Vec<Selectable> {
    let named = |(field, place): (&'static str, &'static str)| Selectable {
        field: field.into(),
        pointers: vec![place.into()],
        absent: "".into(),
    };
    let mut fields = selectable();
    fields.extend(VIEW_FIELDS.into_iter().map(named));
    fields
}

const VIEW_FIELDS: [(&str, &str); 8] = [
    ("regarding.kind", "/involvedObject/kind"),
    ("regarding.namespace", "/involvedObject/namespace"),
    ("regarding.name", "/involvedObject/name"),
    ("regarding.uid", "/involvedObject/uid"),
    ("regarding.apiVersion", "/involvedObject/apiVersion"),
    ("regarding.resourceVersion", "/involvedObject/resourceVersion"),
    ("regarding.fieldPath", "/involvedObject/fieldPath"),
    ("reportingController", "/reportingComponent"),
];

/// Events of the new form (with `eventTime`) must be complete; old ones need only be about something here.
pub(crate) fn validate(event: &Value, e: &mut Errors) {
    let root = At::root(event);
    let metadata = root.get("metadata");
    let about = root.get("involvedObject");
    let namespace = metadata.get("namespace").text();
    let (of, home) = (about.get("namespace"), about.get("namespace").text());
    // What lives in the cluster has its events in `default`.
    let fits =
        if home.is_empty() { matches!(namespace, "default" | "kube-system" | "") } else { home == namespace };
    if !fits {
        of.invalid_text(e, "does not match event.namespace");
    }
    if !root.get("eventTime").is_set() {
        return;
    }
    const MAX_NAME: usize = 128;
    for (field, max) in [("reportingInstance", MAX_NAME), ("action", MAX_NAME), ("reason", MAX_NAME)] {
        let at = root.get(field);
        if at.must_be_set(e) && at.text().len() > max {
            at.too_long(e, max);
        }
    }
    let controller = root.get("reportingComponent");
    if controller.must_be_set(e) {
        controller.all_invalid(e, api_machinery::names::is_qualified_name(controller.text()));
    }
    check::required_one_of(&root.get("type"), &["Normal", "Warning"], e);
    if root.get("message").text().len() > 1024 {
        root.get("message").too_long(e, 1024);
    }
}

/// Of an event of the new form only its series and labels may change.
pub(crate) fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    if get(old, "eventTime").is_none() {
        return;
    }
    let (new, old) = (At::root(new), At::root(old));
    const FIXED: [&str; 10] = [
        "involvedObject",
        "reason",
        "message",
        "source",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
        "type",
    ];
    for field in FIXED {
        check::immutable(&new.get(field), &old.get(field), e);
    }
}

/// Names of the same field in the view and in the stored form.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// `events.k8s.io` events are core's with other field names.
pub(crate) const VIEW: ViewOf = ViewOf {
    group: "",
    version: "v1",
    plural: "events",
    to_stored: |event| {
        rename(event, NAMES.into_iter());
        set(event, "apiVersion", "v1");
    },
    from_stored: |event| {
        rename(event, NAMES.into_iter().map(|(view, stored)| (stored, view)));
        set(event, "apiVersion", "events.k8s.io/v1");
    },
};

fn rename(object: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
    for (from, to) in names {
        if let Some(value) = remove(object, from) {
            set(object, to, value);
        }
    }
}
