//! Whether another server can be reached, as far as its Service and that one's endpoints tell, and how that is said in an
//! APIService. Pure: whether it answers, somebody has to ask.

use serde_json::{Value, json};

use crate::references::{items, text};

/// What is known of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it answers.
    pub available: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

impl Verdict {
    fn no(reason: &'static str, message: String) -> Verdict {
        Verdict { available: false, reason, message }
    }

    /// It was asked, and this came of it.
    pub fn asked(answer: Result<(), String>) -> Verdict {
        match answer {
            Ok(()) => Verdict { available: true, reason: "Passed", message: "all checks passed".to_owned() },
            Err(why) => Verdict::no("FailedDiscoveryCheck", why),
        }
    }

    /// This server answers itself.
    pub fn local() -> Verdict {
        let message = "Local APIServices are always available".to_owned();
        Verdict { available: true, reason: "Local", message }
    }

    /// The conditions of an APIService with this verdict; `None` if they have it already.
    pub fn conditions(&self, registration: &Value, now: &str) -> Option<Value> {
        let status = if self.available { "True" } else { "False" };
        let mut conditions: Vec<Value> =
            registration["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let mut known = json!({"type": "Available"});
        match conditions.iter_mut().find(|one| one["type"] == "Available") {
            Some(one) => {
                let same = one["status"] == status
                    && one["reason"] == self.reason
                    && one["message"] == self.message.as_str();
                if same {
                    return None;
                }
                known = one.clone();
                fill(&mut known, status, self, now);
                *one = known;
            }
            None => {
                fill(&mut known, status, self, now);
                conditions.push(known);
            }
        }
        Some(conditions.into())
    }
}

fn fill(condition: &mut Value, status: &str, verdict: &Verdict, now: &str) {
    if condition["status"] != status {
        condition["lastTransitionTime"] = now.into();
    }
    condition["status"] = status.into();
    condition["reason"] = verdict.reason.into();
    condition["message"] = verdict.message.as_str().into();
}

/// What is wrong with a Service that an APIService names, as far as objects tell. `slices` are those of the Service.
pub fn of_service<'a>(
    spec: &Value,
    service: Option<&Value>,
    slices: impl Iterator<Item = &'a Value>,
) -> Option<Verdict> {
    let (namespace, name) = (text(spec, "/service/namespace"), text(spec, "/service/name"));
    let port = spec["service"]["port"].as_u64().unwrap_or(443);
    let Some(service) = service else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return Some(Verdict::no("ServiceNotFound", message));
    };
    if !matches!(text(service, "/spec/type"), "ClusterIP" | "") {
        return None;
    }
    let mut ports = service.get("spec").into_iter().flat_map(|spec| items(spec, "ports"));
    let Some(port_name) = ports.find(|one| one["port"] == port).map(|one| text(one, "/name")) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(Verdict::no("ServicePortError", message));
    };
    let mut slices = slices.peekable();
    if slices.peek().is_none() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Verdict::no("EndpointsNotFound", message));
    }
    let serves = |slice: &Value| {
        let ready = |one: &Value| one["conditions"]["ready"] != false;
        let named = |one: &Value| text(one, "/name") == port_name && one["port"].is_u64();
        items(slice, "endpoints").any(ready) && items(slice, "ports").any(named)
    };
    if slices.any(serves) {
        return None;
    }
    let message = format!(
        "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
    );
    Some(Verdict::no("MissingEndpoints", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(service: Option<Value>, slices: &[Value]) -> (&'static str, String) {
        let spec = json!({"service": {"namespace": "kube-system", "name": "metrics", "port": 443}});
        let verdict = of_service(&spec, service.as_ref(), slices.iter());
        verdict.map(|verdict| (verdict.reason, verdict.message)).unwrap_or_default()
    }

    #[test]
    fn what_objects_tell() {
        let service = |port: u16| {
            Some(json!({"spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": port}]}}))
        };
        let slice = |port: &str, endpoints: Value| json!({"ports": [{"name": port, "port": 4443}], "endpoints": endpoints});
        let (ready, unready) =
            (json!([{"addresses": ["10.0.0.1"]}]), json!([{"conditions": {"ready": false}}]));
        let in_namespace = "service/metrics in \"kube-system\"";
        let table = [
            (None, vec![], "ServiceNotFound", format!("{in_namespace} is not present")),
            (service(80), vec![], "ServicePortError", format!("{in_namespace} is not listening on port 443")),
            (
                service(443),
                vec![],
                "EndpointsNotFound",
                format!("cannot find endpointslices for {in_namespace}"),
            ),
            (
                service(443),
                vec![slice("https", unready.clone()), slice("http", ready.clone())],
                "MissingEndpoints",
                format!("endpointslices for {in_namespace} have no addresses with port name \"https\""),
            ),
            (service(443), vec![slice("https", unready), slice("https", ready)], "", String::new()),
            (Some(json!({"spec": {"type": "ExternalName"}})), vec![], "", String::new()),
        ];
        for (service, slices, wanted, message) in table {
            assert_eq!(reason(service, &slices), (wanted, message));
        }
    }

    #[test]
    fn conditions_are_written_when_they_change() {
        let mut registration = json!({"status": {"conditions": [{"type": "Other", "status": "True"}]}});
        let failed = |why: &str| Verdict::asked(Err(why.to_owned()));
        let first = failed("no").conditions(&registration, "1").expect("new");
        assert_eq!(first[1]["lastTransitionTime"], "1");
        registration["status"]["conditions"] = first;
        assert_eq!(failed("no").conditions(&registration, "2"), None);
        let second = failed("still no").conditions(&registration, "2").expect("another message");
        assert_eq!(
            (&second[1]["lastTransitionTime"], &second[1]["message"]),
            (&json!("1"), &json!("still no"))
        );
        let third = Verdict::asked(Ok(())).conditions(&registration, "3").expect("better");
        let passed = json!({"type": "Available", "status": "True", "lastTransitionTime": "3", "reason": "Passed",
            "message": "all checks passed"});
        assert_eq!(third, json!([{"type": "Other", "status": "True"}, passed]));
    }
}
