//! What values may be: a structural schema in the form in which values are held against it.
//!
//! Small, since every definition that is used keeps one: most places say a type and nothing else.

use std::sync::OnceLock;

use cel::Pattern;
use serde_json::Value;

use super::formats::{self, Format};
use super::structure::{MAX_DEPTH, flag};

/// One place of a schema.
#[derive(Debug, Default)]
pub(super) struct Check {
    pub types: Types,
    pub nullable: bool,
    /// Whether it is an object of its own, with a kind and metadata.
    pub embedded: bool,
    /// By name.
    pub properties: Box<[(Box<str>, Check)]>,
    /// Of a map.
    pub values: Option<Box<Check>>,
    /// Of a list.
    pub items: Option<Box<Check>>,
    /// What few places have.
    pub more: Option<Box<More>>,
}

/// What few places say of their values.
#[derive(Debug, Default)]
pub(super) struct More {
    pub list: List,
    pub required: Box<[Box<str>]>,
    pub enumeration: Box<[Value]>,
    pub numbers: Option<Box<Numbers>>,
    pub max_length: Option<u32>,
    pub min_length: Option<u32>,
    pub max_items: Option<u32>,
    pub min_items: Option<u32>,
    pub max_properties: Option<u32>,
    pub min_properties: Option<u32>,
    pub pattern: Option<Box<LazyPattern>>,
    pub format: Option<&'static Format>,
    pub unique_items: bool,
    pub combined: Option<Box<Combined>>,
}

/// What is said of numbers.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub maximum: Option<Bound>,
    pub minimum: Option<Bound>,
    pub multiple_of: Option<f64>,
}

/// Schemas of the same value.
#[derive(Debug, Default)]
pub(super) struct Combined {
    pub all_of: Box<[Check]>,
    pub any_of: Box<[Check]>,
    pub one_of: Box<[Check]>,
    pub not: Option<Check>,
}

/// How items of a list are told apart.
#[derive(Debug, Default, PartialEq)]
pub(super) enum List {
    /// Not at all.
    #[default]
    Atomic,
    /// By what they are.
    Set,
    /// By these fields.
    Map(Box<[Box<str>]>),
}

/// A limit of a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub limit: f64,
    pub exclusive: bool,
}

/// A pattern that is compiled when the first text is held against it.
#[derive(Debug)]
pub(super) struct LazyPattern {
    pub source: Box<str>,
    compiled: OnceLock<Result<Box<Pattern>, String>>,
}

impl LazyPattern {
    /// The pattern, or why it is none.
    pub fn compiled(&self) -> Result<&Pattern, &str> {
        let compiled = self.compiled.get_or_init(|| Pattern::new(&self.source).map(Box::new));
        compiled.as_deref().map_err(String::as_str)
    }
}

/// A set of JSON types; an empty one allows all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Types(u8);

/// Names as messages show them; the position is the bit.
const TYPES: [&str; 6] = ["integer", "string", "number", "boolean", "array", "object"];

impl Types {
    fn of(schema: &Value) -> Types {
        if flag(schema, "x-kubernetes-int-or-string") {
            return Types(0b11);
        }
        let name = schema["type"].as_str().unwrap_or_default();
        Types(TYPES.iter().position(|known| *known == name).map_or(0, |bit| 1 << bit))
    }

    /// Whether any type will do.
    pub fn is_any(self) -> bool {
        self.0 == 0
    }

    /// Whether one of these names is among them.
    pub fn has(self, name: &str) -> bool {
        TYPES.iter().position(|known| *known == name).is_some_and(|bit| self.0 & (1 << bit) != 0)
    }

    /// As messages list them.
    pub fn names(self) -> String {
        let names =
            TYPES.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| *name);
        names.collect::<Vec<&str>>().join(",")
    }
}

impl Check {
    /// Reads a schema.
    pub fn read(schema: &Value) -> Check {
        Check::at(schema, 0)
    }

    fn at(schema: &Value, depth: usize) -> Check {
        if depth > MAX_DEPTH {
            return Check::default();
        }
        let below = |schema: &Value| schema.is_object().then(|| Box::new(Check::at(schema, depth + 1)));
        let properties = schema["properties"].as_object().into_iter().flatten();
        let more = More::at(schema, depth);
        Check {
            types: Types::of(schema),
            nullable: flag(schema, "nullable"),
            embedded: flag(schema, "x-kubernetes-embedded-resource"),
            properties: properties
                .map(|(name, inner)| (name.as_str().into(), Check::at(inner, depth + 1)))
                .collect(),
            values: below(&schema["additionalProperties"]),
            items: below(&schema["items"]),
            more: more.says_something().then(|| Box::new(more)),
        }
    }

    /// What is said of a property or of an entry of a map.
    pub fn property(&self, name: &str) -> Option<&Check> {
        let found = self.properties.binary_search_by(|(known, _)| (**known).cmp(name)).ok();
        found.map(|at| &self.properties[at].1).or(self.values.as_deref())
    }

    /// How items are told apart.
    pub fn list(&self) -> &List {
        self.more.as_ref().map_or(&List::Atomic, |more| &more.list)
    }

    /// The format that texts and numbers must have.
    pub fn format(&self) -> Option<&'static Format> {
        self.more.as_ref().and_then(|more| more.format)
    }
}

impl More {
    fn at(schema: &Value, depth: usize) -> More {
        let texts = |name: &str| -> Box<[Box<str>]> {
            let texts = schema[name].as_array().into_iter().flatten().filter_map(Value::as_str);
            texts.map(Box::from).collect()
        };
        // Nothing holds more than such a number could say.
        let count = |name: &str| schema[name].as_u64().map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        let list = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => List::Set,
            Some("map") => List::Map(texts("x-kubernetes-list-map-keys")),
            _ => List::Atomic,
        };
        let pattern = schema["pattern"].as_str().filter(|source| !source.is_empty());
        More {
            list,
            required: texts("required"),
            enumeration: schema["enum"].as_array().into_iter().flatten().cloned().collect(),
            numbers: Numbers::of(schema),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            pattern: pattern
                .map(|source| Box::new(LazyPattern { source: source.into(), compiled: OnceLock::new() })),
            format: formats::find(
                schema["format"].as_str().unwrap_or_default(),
                schema["type"].as_str().unwrap_or_default(),
            ),
            max_items: count("maxItems"),
            min_items: count("minItems"),
            unique_items: flag(schema, "uniqueItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            combined: Combined::of(schema, depth),
        }
    }

    fn says_something(&self) -> bool {
        let of_numbers = self.numbers.is_some();
        let of_texts = self.max_length.is_some() || self.min_length.is_some() || self.pattern.is_some();
        let of_items = self.max_items.is_some() || self.min_items.is_some() || self.unique_items;
        let of_objects =
            !self.required.is_empty() || self.max_properties.is_some() || self.min_properties.is_some();
        let of_all = !self.enumeration.is_empty() || self.format.is_some() || self.combined.is_some();
        of_numbers || of_texts || of_items || of_objects || of_all || self.list != List::Atomic
    }
}

impl Numbers {
    fn of(schema: &Value) -> Option<Box<Numbers>> {
        let bound = |name: &str, exclusive: &str| {
            schema[name].as_f64().map(|limit| Bound { limit, exclusive: flag(schema, exclusive) })
        };
        let numbers = Numbers {
            maximum: bound("maximum", "exclusiveMaximum"),
            minimum: bound("minimum", "exclusiveMinimum"),
            multiple_of: schema["multipleOf"].as_f64(),
        };
        let Numbers { maximum, minimum, multiple_of } = &numbers;
        let says = maximum.is_some() || minimum.is_some() || multiple_of.is_some();
        says.then(|| Box::new(numbers))
    }
}

impl Combined {
    fn of(schema: &Value, depth: usize) -> Option<Box<Combined>> {
        let all = |name: &str| -> Box<[Check]> {
            let alternatives = schema[name].as_array().into_iter().flatten();
            alternatives.map(|schema| Check::at(schema, depth + 1)).collect()
        };
        let not = &schema["not"];
        let combined = Combined {
            all_of: all("allOf"),
            any_of: all("anyOf"),
            one_of: all("oneOf"),
            not: not.is_object().then(|| Check::at(not, depth + 1)),
        };
        let Combined { all_of, any_of, one_of, not } = &combined;
        let says = !(all_of.is_empty() && any_of.is_empty() && one_of.is_empty()) || not.is_some();
        says.then(|| Box::new(combined))
    }
}
