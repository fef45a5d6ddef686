//! CertificateSigningRequests: what a request must look like, and who changes which part of one.
//!
//! `spec` is fixed from the start, `/approval` adds the conditions Approved and Denied, `/status` the certificate and the
//! condition Failed. Who may do so is admission's to say; that the request is signed with its own key is the signer's.

mod bundle;

pub(crate) use bundle::bundle_name;

use std::sync::Arc;

use api_machinery::field::Errors;
use api_machinery::names;
use api_machinery::resource::{Cell, Part, Resource, Rules, Verbs, copy_field};
use api_machinery::schema::Arena;
use api_machinery::table::human_duration;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::at::At;
use crate::check;
use crate::entry::{Family, columns, computed, selectable, subresource, with_status};
use crate::fill::text;
use crate::print::or_none;

const GROUP: &str = "certificates.k8s.io";
const KIND: &str = "CertificateSigningRequest";
/// Certificates of less than ten minutes are renewed all the time.
const LEAST_SECONDS: i64 = 600;
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let family = Family { arena, group: GROUP, version: "v1", package: "io.k8s.api.certificates.v1" };
    let mut subresources = with_status();
    subresources.others = vec![subresource("approval", (GROUP, "v1", KIND), Verbs::GET_PATCH_UPDATE)];
    vec![
        Resource {
            short_names: crate::entry::texts(&["csr"]),
            subresources,
            selectable: selectable(&["spec.signerName"]),
            columns: columns(&[
                ("Age", "string", 0, Cell::Age),
                ("SignerName", "string", 0, Cell::Path(".spec.signerName".into())),
                ("Requestor", "string", 0, Cell::Path(".spec.username".into())),
                ("RequestedDuration", "string", 0, computed(duration)),
                ("Condition", "string", 0, computed(condition)),
            ]),
            rules: Rules {
                name: names::path_segment_name,
                validate_create: validate,
                prepare_update: |new, old| {
                    copy_field(new, old, "spec");
                    copy_field(new, old, "status");
                },
                prepare_status: |new, old| {
                    copy_field(new, old, "spec");
                    keep_decisions(new, old);
                },
                validate_status_update,
                parts: &[Part { name: "approval", prepare: prepare_approval, validate: validate_approval }],
                ..Rules::default()
            },
            ..family.cluster_kind(KIND, "certificatesigningrequests")
        },
        bundle::entry(&family),
    ]
}

fn duration(request: &Value, _: Timestamp) -> Value {
    let seconds = request["spec"]["expirationSeconds"].as_i64();
    or_none(&seconds.map(human_duration).unwrap_or_default())
}

fn condition(request: &Value, _: Timestamp) -> Value {
    let has = |kind: &str| conditions(request).iter().any(|condition| text(condition, "type") == kind);
    let mut words = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        words.push_str(",Failed");
    }
    if !text(&request["status"], "certificate").is_empty() {
        words.push_str(",Issued");
    }
    words.into()
}

fn conditions(request: &Value) -> &[Value] {
    request.pointer("/status/conditions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_decision(condition: &Value) -> bool {
    matches!(text(condition, "type"), "Approved" | "Denied")
}

/// `/status` neither adds nor drops a decision.
fn keep_decisions(new: &mut Value, old: &Value) {
    let kept = conditions(old).iter().filter(|condition| is_decision(condition));
    let said = conditions(new).iter().filter(|condition| !is_decision(condition));
    let all: Vec<Value> = kept.chain(said).cloned().collect();
    set_conditions(new, all);
}

fn set_conditions(request: &mut Value, all: Vec<Value>) {
    let Some(fields) = request.as_object_mut() else { return };
    let status = fields.entry("status").or_insert_with(|| json!({}));
    if status.is_null() {
        *status = json!({});
    }
    let Some(status) = status.as_object_mut() else { return };
    match all.is_empty() {
        true => status.remove("conditions"),
        false => status.insert("conditions".to_owned(), all.into()),
    };
}

/// `/approval` changes conditions and nothing else.
fn prepare_approval(new: &mut Value, old: &Value) {
    let all = conditions(new).to_vec();
    copy_field(new, old, "spec");
    copy_field(new, old, "status");
    set_conditions(new, all);
}

fn validate(request: &Value, e: &mut Errors) {
    let root = At::root(request);
    let spec = root.get("spec");
    if let Err(why) = parse(spec.get("request").text()) {
        spec.get("request").invalid_text(e, why);
    }
    let usages = spec.get("usages");
    usages.must_be_set(e);
    let mut seen = std::collections::BTreeSet::new();
    for usage in usages.items() {
        if !USAGES.contains(&usage.text()) {
            usage.not_supported(e, &USAGES);
        }
        if !seen.insert(usage.text()) {
            usage.duplicate(e);
        }
    }
    let signer = spec.get("signerName");
    if signer.must_be_set(e) {
        if signer.text() == "kubernetes.io/legacy-unknown" {
            signer.invalid(e, "the legacy signerName is not allowed via this API version");
        } else {
            validate_signer(&signer, e);
        }
    }
    let seconds = spec.get("expirationSeconds");
    if seconds.int().is_some_and(|seconds| seconds < LEAST_SECONDS) {
        seconds.invalid(e, "may not specify a duration less than 600 seconds (10 minutes)");
    }
}

/// Why a base64 text is not a PKCS #10 request in PEM.
fn parse(encoded: &str) -> Result<(), String> {
    let bytes = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    let block = pem::parse(&bytes).ok().filter(|block| block.tag() == "CERTIFICATE REQUEST");
    let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let (rest, _) =
        X509CertificationRequest::from_der(block.contents()).map_err(|error| error.to_string())?;
    if rest.is_empty() { Ok(()) } else { Err("asn1: syntax error: trailing data".to_owned()) }
}

/// A domain, a slash, and a name that is made like one.
pub(crate) fn validate_signer(signer: &At, e: &mut Errors) {
    let form = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
    match signer.text().split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() && !path.contains('/') => {
            signer.all_invalid(e, names::is_dns1123_subdomain(domain));
            if !domain.contains('.') {
                signer.invalid_text(e, "should be a domain with at least two segments separated by dots");
            }
            for segment in path.split('.') {
                signer.all_invalid(e, names::is_dns1123_label(&segment.to_lowercase()));
            }
        }
        _ => signer.invalid_text(e, form),
    }
}

fn validate_conditions(new: &Value, old: &Value, e: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    let list = status.get("conditions");
    let mut seen = std::collections::BTreeSet::new();
    for condition in list.items() {
        let kind = condition.get("type");
        kind.must_be_set(e);
        if !seen.insert(kind.text()) {
            kind.duplicate(e);
        }
        match kind.text() {
            "Approved" | "Denied" | "Failed" => {
                check::required_one_of(&condition.get("status"), &["True"], e);
            }
            _ => check::required_one_of(&condition.get("status"), &["True", "False", "Unknown"], e),
        }
    }
    if seen.contains("Approved") && seen.contains("Denied") {
        list.invalid(e, "Approved and Denied conditions are mutually exclusive");
    }
    for kind in conditions(old).iter().map(|condition| text(condition, "type")) {
        if matches!(kind, "Approved" | "Denied" | "Failed") && !seen.contains(kind) {
            list.forbidden(e, &format!("updates may not remove a condition of type {kind:?}"));
        }
    }
}

fn validate_approval(new: &Value, old: &Value, e: &mut Errors) {
    validate_conditions(new, old, e);
    let had = |kind: &str| conditions(old).iter().any(|condition| text(condition, "type") == kind);
    if conditions(new).iter().any(|condition| text(condition, "type") == "Failed") && !had("Failed") {
        let root = At::root(new);
        let status = root.get("status");
        status.get("conditions").forbidden(e, "updates may not add a condition of type \"Failed\"");
    }
}

fn validate_status_update(new: &Value, old: &Value, e: &mut Errors) {
    validate_conditions(new, old, e);
    let root = At::root(new);
    let status = root.get("status");
    let certificate = status.get("certificate");
    let before = old.pointer("/status/certificate").and_then(Value::as_str).unwrap_or_default();
    if !before.is_empty() && before != certificate.text() {
        certificate.forbidden(e, "updates may not modify or remove a certificate once set");
    }
    if certificate.is_empty() || before == certificate.text() {
        return;
    }
    let blocks = STANDARD.decode(certificate.text()).ok().and_then(|bytes| pem::parse_many(bytes).ok());
    let good = blocks.is_some_and(|blocks| {
        let certificate = |block: &pem::Pem| {
            block.tag() == "CERTIFICATE" && x509_parser::parse_x509_certificate(block.contents()).is_ok()
        };
        !blocks.is_empty() && blocks.iter().all(certificate)
    });
    if !good {
        certificate.invalid_as(
            e,
            "<certificate data>",
            "must contain at least one CERTIFICATE PEM block and no others",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_table() {
        let table = [
            (json!({}), "Pending"),
            (json!({"conditions": [{"type": "Approved"}]}), "Approved"),
            (json!({"conditions": [{"type": "Approved"}], "certificate": "eA=="}), "Approved,Issued"),
            (json!({"conditions": [{"type": "Approved"}, {"type": "Failed"}]}), "Approved,Failed"),
            (json!({"conditions": [{"type": "Denied"}]}), "Denied"),
        ];
        for (status, want) in table {
            assert_eq!(condition(&json!({"status": status}), Timestamp::UNIX_EPOCH), want);
        }
        assert_eq!(duration(&json!({"spec": {"expirationSeconds": 3600}}), Timestamp::UNIX_EPOCH), "60m");
        assert_eq!(duration(&json!({"spec": {}}), Timestamp::UNIX_EPOCH), "<none>");
    }

    #[test]
    fn who_changes_what() {
        let old = json!({
            "spec": {"request": "a"}, "status": {"conditions": [{"type": "Approved", "status": "True"}]},
        });
        let mut new = json!({
            "spec": {"request": "b"},
            "status": {"certificate": "x", "conditions": [{"type": "Denied", "status": "True"}]},
        });
        let mut approval = new.clone();
        keep_decisions(&mut new, &old);
        assert_eq!(new["status"], json!({"certificate": "x", "conditions": old["status"]["conditions"]}));
        prepare_approval(&mut approval, &old);
        assert_eq!(approval["spec"], old["spec"]);
        assert_eq!(approval["status"], json!({"conditions": [{"type": "Denied", "status": "True"}]}));
        let mut errors = Errors::new();
        validate_approval(&approval, &old, &mut errors);
        let words = format!("{errors:?}");
        assert!(words.contains("may not remove a condition of type"), "{words}");
    }

    #[test]
    fn signer_names() {
        for (name, good) in [
            ("kubernetes.io/kube-apiserver-client", true),
            ("example.com/a.b", true),
            ("kubernetes.io", false),
            ("a/b", false),
            ("example.com/a/b", false),
            ("EXAMPLE.com/a", false),
        ] {
            let object = json!(name);
            let mut errors = Errors::new();
            validate_signer(&At::root(&object), &mut errors);
            assert_eq!(errors.is_empty(), good, "{name}: {errors:?}");
        }
    }
}
