//! Small languages: selectors, quantities, expressions, paths into objects, addresses, tokens; and DNS messages.

use std::cell::LazyCell;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use api_machinery::entropy::Entropy;
use api_machinery::field::{Errors, Path as FieldPath};
use api_machinery::quantity::Quantity;
use api_machinery::selector::{FieldSelector, LabelSelector, validate_label_selector};
use api_machinery::{table, tunnel};
use apiserver::tokens::Tokens;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cel::types::{Schema, Type};
use cel::value::Value as CelValue;
use cel::{Environment, PER_CALL_LIMIT, Variables};
use component::kubeconfig::Kubeconfig;
use dns::answer::{self, Transport, Verdict};
use dns::zone::Zone;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

fn text(input: &[u8]) -> Option<&str> {
    std::str::from_utf8(input).ok()
}

const NO_TEXT: &str = "no text";

/// Label selectors in both forms: what is printed reads back.
pub fn label_selectors(input: &[u8]) -> String {
    let Some(text) = text(input) else { return NO_TEXT.to_owned() };
    let labels = json!({"a": "b", "c": ""});
    if let Ok(object) = serde_json::from_str::<Value>(text) {
        let mut errors = Errors::new();
        validate_label_selector(&object, &FieldPath::new("spec").child("selector"), &mut errors);
        return match LabelSelector::from_object(Some(&object)) {
            Ok(selector) => selector.matches(labels.as_object()).to_string(),
            Err(error) => error.to_string(),
        };
    }
    match LabelSelector::parse(text) {
        Ok(selector) => {
            let matches = selector.matches(labels.as_object());
            assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
            matches.to_string()
        }
        Err(error) => error.to_string(),
    }
}

/// Field selectors: what is printed reads back.
pub fn field_selectors(input: &[u8]) -> String {
    let Some(text) = text(input) else { return NO_TEXT.to_owned() };
    match FieldSelector::parse(text) {
        Ok(selector) => {
            let matches = selector.matches(|field| (field == "metadata.name").then_some("a"));
            assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
            matches.to_string()
        }
        Err(error) => error.to_string(),
    }
}

/// Quantities: the canonical form reads back as the same number, but for fractions of a unit.
pub fn quantities(input: &[u8]) -> String {
    let Some(text) = text(input) else { return NO_TEXT.to_owned() };
    match Quantity::parse(text) {
        Ok(quantity) => {
            let again = Quantity::parse(&quantity.to_string()).expect("the canonical form is well formed");
            assert_eq!(again.units(), quantity.units(), "{text}");
            let order = quantity.plus(quantity).cmp(&quantity);
            format!("{:?}{order:?}", quantity.notation())
        }
        Err(error) => error.to_string(),
    }
}

/// Expressions, compiled and evaluated at the limit of a real one.
pub fn cel(input: &[u8]) -> String {
    let Some(text) = text(input) else { return NO_TEXT.to_owned() };
    let environment = Environment::new()
        .with_type("n", Type::Int)
        .with_type("s", Type::String)
        .with_type("l", Type::list(Type::Int))
        .with_type("m", Type::map(Type::String, Type::Double));
    let program = match environment.compile(text) {
        Ok(program) => program,
        Err(error) => return error.to_string(),
    };
    let data = json!({"l": [3, 1, 2], "m": {"a": 1.5}});
    let m = Schema {
        inner: Some(Schema::of(Type::Double).into()),
        ..Schema::of(Type::map(Type::String, Type::Double))
    };
    let variables = Variables(vec![
        ("n", CelValue::Int(2)),
        ("s", CelValue::text("abc")),
        ("l", CelValue::from_json(&data["l"], None)),
        ("m", CelValue::from_json(&data["m"], Some(&m))),
    ]);
    let evaluation = program.evaluate(&variables, PER_CALL_LIMIT);
    match evaluation.result {
        Ok(_) => format!("{:?}", program.result()),
        Err(error) => error.to_string(),
    }
}

/// Paths of printer columns, one on each line, into an object.
pub fn printer_columns(input: &[u8]) -> String {
    let Some(text) = text(input) else { return NO_TEXT.to_owned() };
    let object = json!({"metadata": {"name": "a", "labels": {"a.b": "c"}}, "spec": {"list": [[1, 2], [3, {"a": [4]}]]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Done", "status": null}]}});
    let found: Vec<usize> = text.lines().map(|path| table::find(&object, path).len()).collect();
    format!("{:?}", found.iter().map(|found| "x".repeat(*found)).collect::<Vec<_>>().join("y"))
        .replace('"', "")
}

/// Ranges of addresses, as nodes and configurations name them.
pub fn addresses(input: &[u8]) -> String {
    let Some(text) = text(input) else { return NO_TEXT.to_owned() };
    let service: Result<apiserver::config::Cidr, _> = text.parse();
    if let Ok(range) = &service {
        let last = range.nth(range.size() - 1).expect("a range has a last address");
        assert!(range.contains(last) && range.contains(range.base), "{text}");
        assert_eq!(range.nth(range.size()), None);
    }
    let inside = ["10.42.0.1", "::1", "::ffff:10.42.0.1", "fd00::1"].map(|address| {
        let address: IpAddr = address.parse().expect("an address");
        let block: Result<tunnel::Block, _> = text.parse();
        let ordinary = text.parse().is_ok_and(tunnel::is_ordinary);
        block.map(|block| block.contains(address) || ordinary).map_err(|_| ordinary)
    });
    format!("{}{inside:?}", service.is_ok())
}

/// A kubeconfig file, wherever it came from.
pub fn kubeconfigs(input: &[u8]) -> String {
    let Some(text) = text(input) else { return NO_TEXT.to_owned() };
    match Kubeconfig::parse(text, Path::new("/nowhere/config")) {
        Ok(config) => {
            let certificate = config.certificate().map(|_| ()).map_err(|error| error.to_string());
            format!("{:?}{certificate:?}", config.token().is_some())
        }
        Err(error) => error.to_string(),
    }
}

const ISSUER: &str = "https://a";

thread_local! {
    static SIGNER: LazyCell<(EcdsaKeyPair, Tokens)> = LazyCell::new(|| {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random);
        let tokens = Tokens::new(document.as_ref(), ISSUER, Entropy::seeded(1)).expect("tokens");
        (key.expect("a key"), tokens)
    });

    static ZONE: LazyCell<Zone> = LazyCell::new(|| {
        let service = |value: Value| Arc::new(serde_json::from_value::<Service>(value).expect("a Service"));
        let slice = |value: Value| Arc::new(serde_json::from_value::<EndpointSlice>(value).expect("a slice"));
        let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        let services = [
            service(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.43.0.1", "ports": ports}})),
            service(json!({"metadata": {"name": "all", "namespace": "default"}, "spec": {"clusterIP": "None", "ports": ports}})),
            service(json!({"metadata": {"name": "out", "namespace": "default"},
                "spec": {"type": "ExternalName", "externalName": "example.com"}})),
        ];
        let slices = [slice(json!({"metadata": {"name": "all-1", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "all"}}, "addressType": "IPv4", "ports": ports,
            "endpoints": [{"addresses": ["10.42.0.1"], "conditions": {"ready": true}, "hostname": "a"}]}))];
        Zone::build("cluster.local", &services, &slices)
    });
}

/// A header and claims, each on a line, signed with the right key; `KID` stands for its name. Whatever else they say, tokens
/// that pass are of this algorithm and issuer and good now.
pub fn tokens(input: &[u8]) -> String {
    let Some((header, claims)) = text(input).and_then(|text| text.split_once('\n')) else {
        return NO_TEXT.to_owned();
    };
    SIGNER.with(|signer| {
        let (key, tokens) = &**signer;
        let kid = tokens.jwks()["keys"][0]["kid"].as_str().unwrap_or_default().to_owned();
        let header = header.replace("KID", &kid);
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(claims));
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        let now: Timestamp = "2026-01-01T00:30:00Z".parse().expect("a time");
        // Unsigned, or signed for something else, it is nothing.
        assert!(tokens.verify(&signed, tokens.audiences(), now).is_err());
        assert!(
            tokens
                .verify(&format!("{signed}x.{}", URL_SAFE_NO_PAD.encode(signature)), tokens.audiences(), now)
                .is_err()
        );
        match tokens.verify(&token, tokens.audiences(), now) {
            Ok(claims) => {
                let header: Value = serde_json::from_str(&header).expect("a header");
                assert_eq!(header["alg"], "ES256");
                assert_eq!(claims.iss, ISSUER);
                assert!(claims.aud.iter().any(|audience| audience == ISSUER));
                "fine".to_owned()
            }
            Err(error) => error.to_string(),
        }
    })
}

/// A question to the cluster's DNS, and the same bytes as what an upstream answers.
pub fn dns_queries(input: &[u8]) -> String {
    ZONE.with(|zone| {
        let mut said = String::new();
        for (transport, most) in [(Transport::Udp, 1232), (Transport::Tcp, 65535)] {
            for verdict in
                [answer::answer(zone, input, transport), answer::followed(zone, input, input, transport)]
            {
                said.push_str(match verdict {
                    Verdict::Answer(bytes) => {
                        assert!(bytes.len() <= most, "{} bytes over {transport:?}", bytes.len());
                        ["none,", "some,", "error,"][usize::from(bytes[3] & 15 > 0) * 2
                            + usize::from(bytes[3] & 15 == 0 && bytes[7] > 0)]
                    }
                    Verdict::Forward => "forward,",
                    Verdict::Follow(_) => "follow,",
                    Verdict::Ignore => "ignore,",
                });
            }
        }
        answer::server_failure(input);
        said
    })
}
