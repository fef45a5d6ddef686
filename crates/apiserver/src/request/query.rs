//! Query parameters: parsing, and the checks that list, watch and write options need.
//!
//! Unknown parameters are ignored, as upstream does (`pretty` among them); known ones must make sense.

use std::num::{IntErrorKind, ParseIntError};

use api_machinery::field::{Errors, Path, is_printable};
use api_machinery::status::{ApiError, Reason};
use api_machinery::structural::FieldValidation;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// Longest query that is looked at.
const MAX_QUERY: usize = 32 * 1024;
/// The longest name of who writes.
pub const MANAGER_MAX_BYTES: usize = 128;
/// More parameters than any client sends.
const MAX_PARAMETERS: usize = 256;

/// 414: no honest client gets there.
pub fn uri_too_long() -> ApiError {
    ApiError::new(Reason::Unknown, "the request URI is too long").with_code(414)
}

/// The decoded parameters in the order in which they were sent.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses what follows the `?`.
    pub fn parse(raw: &str) -> Result<Query, ApiError> {
        if raw.len() > MAX_QUERY {
            return Err(uri_too_long());
        }
        let mut pairs = Vec::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(key)?, decode(value)?));
            if pairs.len() > MAX_PARAMETERS {
                return Err(ApiError::bad_request("too many query parameters"));
            }
        }
        Ok(Query(pairs))
    }

    /// The first value of a parameter, also when it is empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A boolean as upstream reads it: present counts as true unless it says `0` or `false`.
    pub fn flag(&self, key: &str) -> bool {
        self.optional_flag(key).unwrap_or(false)
    }

    /// The same, telling absent from false.
    pub fn optional_flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// An integer parameter; empty counts as absent.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, ApiError> {
        match self.get(key) {
            None | Some("") => Ok(None),
            Some(text) => number(key, text).map(Some),
        }
    }

    /// All values of an integer parameter.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>, ApiError> {
        self.all(key).map(|text| number(key, text)).collect()
    }
}

fn number(key: &str, text: &str) -> Result<i64, ApiError> {
    text.parse().map_err(|error: ParseIntError| {
        let why = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        ApiError::bad_request(format!("{key}: strconv.ParseInt: parsing {text:?}: {why}"))
    })
}

fn decode(raw: &str) -> Result<String, ApiError> {
    let plus = raw.replace('+', " ");
    let text = percent_decode_str(&plus)
        .decode_utf8()
        .map_err(|_| ApiError::bad_request("the query is not valid UTF-8"))?;
    if text.contains('\0') {
        return Err(ApiError::bad_request("the query may not contain NUL"));
    }
    Ok(text.into_owned())
}

/// How exact a list must be about its revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Unset: the default for the verb.
    Default,
    /// `Exact`.
    Exact,
    /// `NotOlderThan`.
    NotOlderThan,
}

/// `ListOptions`, checked.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// `None` when unset; `Some(0)` means any.
    pub resource_version: Option<u64>,
    /// `resourceVersionMatch`.
    pub version_match: Match,
    /// Page size; `None` for everything.
    pub limit: Option<usize>,
    /// The opaque token, not looked into here.
    pub continue_token: Option<String>,
    /// How long a watch may last.
    pub timeout_seconds: Option<u64>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`, when set.
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads the options of a list or watch.
    pub fn parse(query: &Query, watch: bool) -> Result<ListOptions, ApiError> {
        let version = query.get("resourceVersion").unwrap_or_default();
        let token = query.get("continue").unwrap_or_default();
        let options = ListOptions {
            resource_version: resource_version(version)?,
            version_match: version_match(query, version, token, watch)?,
            limit: page_size(query)?,
            continue_token: (!token.is_empty()).then(|| token.to_owned()),
            timeout_seconds: query.integer("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok()),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.optional_flag("sendInitialEvents"),
        };
        if options.continue_token.is_some() && options.resource_version.is_some_and(|version| version != 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Ok(options)
    }
}

fn page_size(query: &Query) -> Result<Option<usize>, ApiError> {
    Ok(query.integer("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0))
}

/// A resource version out of a query: a number without sign, or nothing.
pub fn resource_version(text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let number = if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None };
    number.map(Some).ok_or_else(|| {
        ApiError::bad_request(format!(
            "invalid resource version: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

fn version_match(query: &Query, version: &str, token: &str, watch: bool) -> Result<Match, ApiError> {
    let mut errors = Errors::new();
    let field = Path::new("resourceVersionMatch");
    let text = query.get("resourceVersionMatch").unwrap_or_default();
    let initial = query.optional_flag("sendInitialEvents");
    if !watch && initial.is_some() {
        errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
    }
    if watch && initial.is_some() && text != "NotOlderThan" {
        errors.forbidden(&field, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if watch && initial.is_none() && !text.is_empty() {
        errors.forbidden(
            &field,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        );
    }
    if !watch && !text.is_empty() {
        if version.is_empty() {
            errors.forbidden(&field, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !token.is_empty() {
            errors.forbidden(&field, "resourceVersionMatch is forbidden when continue is provided");
        }
        if text == "Exact" && version == "0" {
            errors.forbidden(&field, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    let parsed = match text {
        "" => Match::Default,
        "Exact" => Match::Exact,
        "NotOlderThan" => Match::NotOlderThan,
        other => {
            errors.not_supported(&field, other, &["Exact", "NotOlderThan", ""]);
            Match::Default
        }
    };
    if errors.is_empty() {
        Ok(parsed)
    } else {
        Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", errors))
    }
}

/// `CreateOptions`, `UpdateOptions` and `PatchOptions`: they differ in name only.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Go through everything, store nothing.
    pub dry_run: bool,
    /// What to do with unknown and duplicate fields.
    pub field_validation: FieldValidation,
    /// Who writes, as the request says; mostly empty.
    pub manager: String,
    /// Whether an apply takes over what others own.
    pub force: Option<bool>,
}

impl WriteOptions {
    /// Reads the options of a create or update; `kind` names them in errors.
    pub fn parse(query: &Query, kind: &str) -> Result<WriteOptions, ApiError> {
        WriteOptions::read(query, kind, None, Errors::new())
    }

    /// Reads the options of a patch, which may be an apply.
    pub fn parse_patch(query: &Query, apply: bool) -> Result<WriteOptions, ApiError> {
        let mut errors = Errors::new();
        let force = query.optional_flag("force");
        if apply && query.get("fieldManager").unwrap_or_default().is_empty() {
            errors.required(&Path::new("fieldManager"), "is required for apply patch");
        }
        if !apply && force.is_some() {
            errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        }
        WriteOptions::read(query, "PatchOptions", force, errors)
    }

    fn read(
        query: &Query,
        kind: &str,
        force: Option<bool>,
        mut errors: Errors,
    ) -> Result<WriteOptions, ApiError> {
        let manager = query.get("fieldManager").unwrap_or_default();
        manager_is_fine(manager, &mut errors);
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let asked = query.get("fieldValidation").unwrap_or_default();
        let field_validation = FieldValidation::parse(asked).unwrap_or_else(|| {
            let path = Path::new("fieldValidation");
            errors.not_supported(&path, asked, &["", "Ignore", "Strict", "Warn"]);
            FieldValidation::Warn
        });
        if errors.is_empty() {
            Ok(WriteOptions { dry_run, field_validation, manager: manager.to_owned(), force })
        } else {
            Err(ApiError::invalid("meta.k8s.io", kind, "", errors))
        }
    }

    /// The options as admission sees them.
    pub fn to_value(&self, kind: &str) -> Value {
        let mut value = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            value["dryRun"] = json!(["All"]);
        }
        if !self.manager.is_empty() {
            value["fieldManager"] = self.manager.as_str().into();
        }
        if let Some(force) = self.force {
            value["force"] = force.into();
        }
        value
    }

    /// Whether an apply takes over what others own.
    pub fn forced(&self) -> bool {
        self.force == Some(true)
    }
}

fn manager_is_fine(manager: &str, errors: &mut Errors) {
    let path = Path::new("fieldManager");
    if manager.len() > MANAGER_MAX_BYTES {
        errors.too_long(&path, MANAGER_MAX_BYTES);
    }
    for (at, letter) in manager.char_indices().filter(|(_, letter)| !is_printable(*letter)) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(letter));
        errors.invalid(&path, manager, why);
    }
}

/// Reads `dryRun`, of which `All` is the only word.
pub fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Errors) -> bool {
    let mut dry = false;
    for value in values.filter(|value| !value.is_empty()) {
        if value == "All" {
            dry = true;
        } else {
            errors.not_supported(&Path::new("dryRun"), json!([value]), &["All"]);
        }
    }
    dry
}
