//! Content types: what a body is, and what an answer should be, from the headers of a request.
//!
//! Protobuf is not written: answers fall back to JSON, which every client that asks for it lists too. Bodies in it are
//! read by the API server before they come here.

use crate::decode::Format;
use crate::status::ApiError;

/// What bodies may be.
pub const MEDIA_TYPES: [&str; 2] = ["application/json", "application/yaml"];

/// What a list of objects, or an object, is turned into on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transform {
    /// As it is.
    None,
    /// `meta.k8s.io` `Table`.
    Table,
    /// `PartialObjectMetadata`.
    PartialObjectMetadata,
    /// `PartialObjectMetadataList`.
    PartialObjectMetadataList,
}

/// What an answer should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// How it is written.
    pub format: Format,
    /// What it is turned into.
    pub transform: Transform,
    /// The version of that: `v1`, or `v1beta1` from old clients.
    pub version: String,
}

/// The format of a body; no header at all is JSON.
pub fn content_type(header: Option<&str>) -> Result<Format, ApiError> {
    let media = header.unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match media.as_str() {
        "" | "application/json" => Ok(Format::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Format::Yaml),
        _ => Err(ApiError::unsupported_media_type(&MEDIA_TYPES)),
    }
}

/// One clause of an `Accept` header.
struct Clause<'a> {
    media: String,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Clause<'_> {
    fn parse(text: &str) -> Option<Clause<'_>> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next()?.to_ascii_lowercase();
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let quality = parameters.iter().find(|(name, _)| *name == "q");
        let quality = quality.map_or(1.0, |(_, value)| value.parse().unwrap_or(0.0));
        (!media.is_empty()).then_some(Clause { media, parameters, quality })
    }

    fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(other, _)| *other == name).map_or("", |(_, value)| value)
    }

    fn accepted(&self, tables: bool) -> Option<Accepted> {
        let format = match self.media.as_str() {
            "application/json" | "application/*" | "*/*" => Format::Json,
            "application/yaml" => Format::Yaml,
            _ => return None,
        };
        let transform = match self.parameter("as") {
            "" => Transform::None,
            "Table" if tables => Transform::Table,
            "PartialObjectMetadata" if tables => Transform::PartialObjectMetadata,
            "PartialObjectMetadataList" if tables => Transform::PartialObjectMetadataList,
            _ => return None,
        };
        let version = self.parameter("v");
        let known = self.parameter("g") == "meta.k8s.io" && matches!(version, "v1" | "v1beta1");
        if transform != Transform::None && !known {
            return None;
        }
        Some(Accepted { format, transform, version: version.to_owned() })
    }
}

/// What the client likes best of what there is. `tables`: whether this answer can be turned into something else.
pub fn accept(header: Option<&str>, tables: bool) -> Result<Accepted, ApiError> {
    let header = header.map(str::trim).filter(|header| !header.is_empty()).unwrap_or("*/*");
    let mut clauses: Vec<Clause<'_>> =
        header.split(',').filter_map(Clause::parse).filter(|clause| clause.quality > 0.0).collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    let found = clauses.iter().find_map(|clause| clause.accepted(tables));
    found.ok_or_else(|| ApiError::not_acceptable(&MEDIA_TYPES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        assert_eq!(content_type(None), Ok(Format::Json));
        assert_eq!(content_type(Some("application/json; charset=utf-8")), Ok(Format::Json));
        assert_eq!(content_type(Some("application/YAML")), Ok(Format::Yaml));
        let refused = content_type(Some("application/vnd.kubernetes.protobuf")).expect_err("not spoken");
        assert_eq!(refused.code(), 415);
        assert_eq!(
            refused.message(),
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml"
        );
    }

    #[test]
    fn answers() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let cases = [
            (None, true, Ok((Format::Json, Transform::None))),
            (Some("*/*"), true, Ok((Format::Json, Transform::None))),
            (Some("application/yaml, */*;q=0.1"), true, Ok((Format::Yaml, Transform::None))),
            (Some("*/*;q=0.1, application/yaml;q=0.9"), true, Ok((Format::Yaml, Transform::None))),
            (Some(table), true, Ok((Format::Json, Transform::Table))),
            (Some(table), false, Ok((Format::Json, Transform::None))),
            (
                Some("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json"),
                true,
                Ok((Format::Json, Transform::None)),
            ),
            (
                Some("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
                true,
                Ok((Format::Json, Transform::PartialObjectMetadataList)),
            ),
            (Some("application/json;as=Table;v=v9;g=meta.k8s.io"), true, Err(406)),
            (Some("text/html"), true, Err(406)),
            (Some("application/json;q=0"), true, Err(406)),
        ];
        for (header, tables, expected) in cases {
            let got = accept(header, tables);
            let got = got.map(|got| (got.format, got.transform)).map_err(|error| error.code());
            assert_eq!(got, expected, "{header:?}");
        }
    }
}
