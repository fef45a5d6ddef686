//! A place in an object: the value there (if any) and the way to it from the root.
//!
//! Rules walk objects with it. Places live on the stack and point to their parents, so a path is spelled out only
//! when something is wrong. It does not know kinds, and never panics on a value of the wrong type: that reads as
//! absent, since types were checked before.

use api_machinery::field::{Errors, Path};
use serde_json::{Map, Value};

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Field(&'p str),
    Index(usize),
    Key(&'p str),
}

/// A place in an object.
#[derive(Clone, Copy)]
pub struct At<'p, 'v> {
    parent: Option<&'p At<'p, 'v>>,
    step: Step<'p>,
    value: Option<&'v Value>,
}

impl<'p, 'v> At<'p, 'v> {
    /// The object itself.
    pub fn root(value: &'v Value) -> At<'p, 'v> {
        At { parent: None, step: Step::Root, value: Some(value) }
    }

    /// A part of an object, which errors call `name`; JSON null counts as absent.
    pub fn named(name: &'p str, value: &'v Value) -> At<'p, 'v> {
        At { parent: None, step: Step::Field(name), value: Some(value).filter(|value| !value.is_null()) }
    }

    /// A field of this object; JSON null counts as absent.
    pub fn get<'b>(&'b self, field: &'b str) -> At<'b, 'v> {
        let value = self.value.and_then(|v| v.get(field)).filter(|v| !v.is_null());
        At { parent: Some(self), step: Step::Field(field), value }
    }

    /// A value of this object that errors look for under another name.
    pub fn at<'b>(&'b self, name: &'b str, value: Option<&'v Value>) -> At<'b, 'v> {
        At { parent: Some(self), step: Step::Field(name), value }
    }

    /// An entry of this map, spelled `path[key]`.
    pub fn key<'b>(&'b self, key: &'b str) -> At<'b, 'v> {
        let value = self.value.and_then(|v| v.get(key)).filter(|v| !v.is_null());
        At { parent: Some(self), step: Step::Key(key), value }
    }

    /// An element of this list, or the place where it would be.
    pub fn index<'b>(&'b self, index: usize) -> At<'b, 'v> {
        let value = self.value.and_then(|v| v.get(index)).filter(|v| !v.is_null());
        At { parent: Some(self), step: Step::Index(index), value }
    }

    /// The elements of this list; none if it is not one.
    pub fn items<'b>(&'b self) -> impl Iterator<Item = At<'b, 'v>> {
        (0..self.len()).map(move |index| self.index(index))
    }

    /// The entries of this map with their keys; none if it is not one.
    pub fn entries<'b>(&'b self) -> impl Iterator<Item = (&'v str, At<'b, 'v>)> {
        self.object().into_iter().flatten().map(move |(key, _)| (key.as_str(), self.key(key)))
    }

    /// The value here, if any.
    pub fn value(&self) -> Option<&'v Value> {
        self.value
    }

    /// Whether there is a value here.
    pub fn is_set(&self) -> bool {
        self.value.is_some()
    }

    /// The text here; empty if there is none.
    pub fn text(&self) -> &'v str {
        self.value.and_then(Value::as_str).unwrap_or("")
    }

    /// The integer here.
    pub fn int(&self) -> Option<i64> {
        self.value.and_then(Value::as_i64)
    }

    /// The flag here; false if there is none.
    pub fn flag(&self) -> bool {
        self.value.and_then(Value::as_bool).unwrap_or(false)
    }

    /// The map here.
    pub fn object(&self) -> Option<&'v Map<String, Value>> {
        self.value.and_then(Value::as_object)
    }

    /// The list here.
    pub fn array(&self) -> &'v [Value] {
        self.value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or(&[])
    }

    /// The texts of the list here.
    pub fn texts(&self) -> impl Iterator<Item = &'v str> + use<'v> {
        self.array().iter().filter_map(Value::as_str)
    }

    /// How many elements the list here has.
    pub fn len(&self) -> usize {
        self.array().len()
    }

    /// How many entries the map here has.
    pub fn len_of_map(&self) -> usize {
        self.object().map_or(0, Map::len)
    }

    /// Nothing here, or an empty text, list or map.
    pub fn is_empty(&self) -> bool {
        match self.value {
            None | Some(Value::Null) => true,
            Some(Value::String(s)) => s.is_empty(),
            Some(Value::Array(a)) => a.is_empty(),
            Some(Value::Object(o)) => o.is_empty(),
            Some(_) => false,
        }
    }

    /// The way here, as errors spell it.
    pub fn path(&self) -> String {
        let mut text = String::new();
        self.spell(&mut text);
        // Upstream's name of the object itself.
        if text.is_empty() { "[]".to_owned() } else { text }
    }

    // Rules nest as deep as schemas do, so recursion ends soon.
    fn spell(&self, text: &mut String) {
        if let Some(parent) = self.parent {
            parent.spell(text);
        }
        match self.step {
            Step::Root => {}
            Step::Field(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Key(key) => text.push_str(&format!("[{key}]")),
        }
    }

    fn shown(&self) -> Value {
        self.value.cloned().unwrap_or(Value::Null)
    }

    /// A value must be here.
    pub fn required(&self, e: &mut Errors, detail: &str) {
        e.required(&Path::new(&self.path()), detail);
    }

    /// A value must be here, and not be empty. Says whether it is.
    pub fn must_be_set(&self, e: &mut Errors) -> bool {
        if self.is_empty() {
            self.required(e, "");
        }
        !self.is_empty()
    }

    /// The value here is wrong.
    pub fn invalid(&self, e: &mut Errors, detail: impl Into<String>) {
        self.invalid_as(e, self.shown(), detail);
    }

    /// The value here is wrong, and is shown as `shown`.
    pub fn invalid_as(&self, e: &mut Errors, shown: impl Into<Value>, detail: impl Into<String>) {
        e.invalid(&Path::new(&self.path()), shown, detail);
    }

    /// The text here is wrong; absence is shown as an empty text.
    pub fn invalid_text(&self, e: &mut Errors, detail: impl Into<String>) {
        self.invalid_as(e, self.text(), detail);
    }

    /// The value here is wrong, and is shown as text whatever it is, as quantities are.
    pub fn invalid_text_or_value(&self, e: &mut Errors, detail: &str) {
        let shown = match self.value {
            Some(Value::Number(number)) => Value::from(number.to_string()),
            _ => self.shown(),
        };
        self.invalid_as(e, shown, detail);
    }

    /// Every message is one error about the text here.
    pub fn all_invalid(&self, e: &mut Errors, messages: Vec<String>) {
        for message in messages {
            self.invalid_text(e, message);
        }
    }

    /// The value here must not be set or changed.
    pub fn forbidden(&self, e: &mut Errors, detail: &str) {
        e.forbidden(&Path::new(&self.path()), detail);
    }

    /// The value here appears elsewhere as well.
    pub fn duplicate(&self, e: &mut Errors) {
        self.duplicate_as(e, self.shown());
    }

    /// As [`At::duplicate`], shown as `shown`.
    pub fn duplicate_as(&self, e: &mut Errors, shown: impl Into<Value>) {
        e.duplicate(&Path::new(&self.path()), shown);
    }

    /// The value here refers to something that is not there.
    pub fn not_found(&self, e: &mut Errors) {
        e.not_found(&Path::new(&self.path()), self.shown());
    }

    /// The text here is none of those that are supported.
    pub fn not_supported(&self, e: &mut Errors, supported: &[&str]) {
        e.not_supported(&Path::new(&self.path()), self.text(), supported);
    }

    /// As [`At::not_supported`], shown as `shown`.
    pub fn not_supported_as(&self, e: &mut Errors, shown: impl Into<Value>, supported: &[&str]) {
        e.not_supported(&Path::new(&self.path()), shown, supported);
    }

    /// A text must be here, and be one of these.
    pub fn required_value(&self, e: &mut Errors, valid: &[&str]) {
        let quoted: Vec<String> = valid.iter().map(|value| format!("\"{value}\"")).collect();
        self.required(e, &format!("valid values: {}", quoted.join(", ")));
    }

    /// The value here is longer than `max` bytes.
    pub fn too_long(&self, e: &mut Errors, max: usize) {
        e.too_long(&Path::new(&self.path()), max);
    }

    /// The list here has more than `max` elements.
    pub fn too_many(&self, e: &mut Errors, count: usize, max: usize) {
        e.too_many(&Path::new(&self.path()), count, max);
    }
}
