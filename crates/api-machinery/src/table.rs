//! Server-side tables: columns, their cells, and ages as kubectl shows them.
//!
//! Which columns a kind has is the catalogue's to say.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

/// One column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// The heading.
    pub name: Cow<'static, str>,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: Cow<'static, str>,
    /// `name` for the name column, mostly empty.
    pub format: Cow<'static, str>,
    /// For people.
    pub description: Cow<'static, str>,
    /// 0 is always shown, more only in wide output.
    pub priority: i32,
    /// Where the cells come from.
    pub cell: Cell,
}

/// Where a cell comes from.
#[derive(Clone, Debug)]
pub enum Cell {
    /// A simple JSON path such as `.spec.replicas` or `.status.conditions[?(@.type=="Ready")].status`.
    Path(Cow<'static, str>),
    /// The age of the object.
    Age,
    /// Anything else, computed.
    Fn(fn(&Value, Timestamp) -> Value),
}
