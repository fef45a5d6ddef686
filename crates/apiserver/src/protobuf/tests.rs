//! Bodies written by hand and what they must become.

use super::*;

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).expect("seven bits"));
    out
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn body(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, version), bytes(2, kind)].concat();
    [MAGIC.to_vec(), bytes(1, meta), bytes(2, raw), bytes(3, ""), bytes(4, "")].concat()
}

fn read(group: &str, version: &str, plural: &str, body: &[u8]) -> Result<Value, ApiError> {
    object(body, api_catalog::catalog().get(group, version, plural).expect("a kind"))
}

/// What client-go sends for `kubectl create namespace x`, unset fields included.
#[test]
fn a_namespace() {
    let meta = [
        bytes(1, "x"),
        bytes(2, ""),
        bytes(3, ""),
        bytes(4, ""),
        bytes(5, ""),
        bytes(6, ""),
        number(7, 0),
        bytes(8, ""),
        bytes(11, [bytes(1, "k"), bytes(2, "v")].concat()),
    ]
    .concat();
    let raw = [bytes(1, meta), bytes(2, ""), bytes(3, bytes(1, ""))].concat();
    let expected = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"k": "v"}},
        "spec": {}, "status": {},
    });
    let body = body("v1", "Namespace", &raw);
    assert_eq!(read("", "v1", "namespaces", &body), Ok(expected.clone()));
    assert_eq!(any(&body), Ok(expected));
}

#[test]
fn a_pod_with_all_sorts_of_fields() {
    let quantity = |text: &str| bytes(1, text);
    let resources = bytes(2, [bytes(1, "cpu"), bytes(2, quantity("100m"))].concat());
    let port = [bytes(1, "http"), number(2, 0), number(3, 80), bytes(4, "TCP"), bytes(5, "")].concat();
    let get = [bytes(1, "/"), bytes(2, [number(1, 1), number(2, 0), bytes(3, "http")].concat())].concat();
    let probe = [bytes(1, bytes(2, get)), number(2, 0), number(4, 5)].concat();
    let container = [
        bytes(1, "c"),
        bytes(2, "i"),
        bytes(3, "a"),
        bytes(3, "b"),
        bytes(6, port),
        bytes(8, resources),
        bytes(10, probe),
        number(16, 0),
    ]
    .concat();
    let map = [bytes(1, bytes(1, "page")), number(3, 0o644)].concat();
    let volume = [bytes(1, "v"), bytes(2, bytes(19, map))].concat();
    let spec = [bytes(1, volume), bytes(2, container), number(4, 0), number(5, 0), number(11, 0)].concat();
    let created = [number(1, 1_767_225_600), number(2, 0)].concat();
    let raw = [bytes(1, [bytes(1, "p"), bytes(8, created)].concat()), bytes(2, spec)].concat();
    let expected = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "activeDeadlineSeconds": 0,
            "containers": [{
                "name": "c", "image": "i", "command": ["a", "b"],
                "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
                "resources": {"requests": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
            }],
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "v", "configMap": {"name": "page", "defaultMode": 0o644}}],
        },
    });
    assert_eq!(read("", "v1", "pods", &body("v1", "Pod", &raw)), Ok(expected));
}

#[test]
fn bytes_maps_of_lists_and_negative_numbers() {
    let raw = [bytes(2, [bytes(1, "k"), bytes(2, [0, 255])].concat()), bytes(3, "Opaque")].concat();
    let secret = read("", "v1", "secrets", &body("v1", "Secret", &raw)).expect("a secret");
    assert_eq!((&secret["data"]["k"], &secret["type"]), (&json!("AP8="), &json!("Opaque")));
    let extra = [bytes(1, "scopes"), bytes(2, [bytes(1, "a"), bytes(1, "b")].concat())].concat();
    let raw = bytes(2, [bytes(3, "u"), bytes(5, extra)].concat());
    let review = body("authorization.k8s.io/v1", "SubjectAccessReview", &raw);
    let review = read("authorization.k8s.io", "v1", "subjectaccessreviews", &review).expect("a review");
    assert_eq!(review["spec"], json!({"user": "u", "extra": {"scopes": ["a", "b"]}}));
    let raw = [bytes(1, bytes(1, "p")), number(2, (-5i64).cast_unsigned())].concat();
    let class = body("scheduling.k8s.io/v1", "PriorityClass", &raw);
    assert_eq!(read("scheduling.k8s.io", "v1", "priorityclasses", &class).expect("a class")["value"], -5);
    let options = any(&body("v1", "DeleteOptions", &number(1, 0))).expect("options");
    assert_eq!(options["gracePeriodSeconds"], 0);
}

#[test]
fn what_is_wrong_is_refused() {
    let good = body("v1", "Namespace", &bytes(1, bytes(1, "x")));
    for end in 0..good.len() {
        // Cut anywhere, it is either refused or a smaller namespace, and never a panic.
        if let Ok(value) = read("", "v1", "namespaces", &good[..end]) {
            assert!(value["metadata"]["name"].is_null() || value["metadata"]["name"] == "x", "{value}");
        }
    }
    let message = |body: &[u8]| read("", "v1", "namespaces", body).expect_err("refused").message().to_owned();
    assert!(message(b"{}").contains("does not begin"));
    let unknown = body("v1", "Namespace", &bytes(900, "set"));
    assert!(message(&unknown).contains("unknown field number 900 in io.k8s.api.core.v1.Namespace"));
    let wrong = body("v1", "Namespace", &number(1, 5));
    assert!(message(&wrong).contains("a number where bytes belong"));
    assert_eq!(any(&body("v9", "Nothing", b"")).expect_err("no such kind").code(), 400);
}
