//! Whether a quota allows a write, and what it has used afterwards. Pure.

use api_machinery::quantity::Quantity;
use jiff::Timestamp;
use pod_rules::amounts::{self, Amounts};
use pod_rules::quota::{Kind, Quota, missing_requests};
use serde_json::Value;

/// What a write costs.
pub(super) struct Cost<'a> {
    pub(super) object: &'a Value,
    kind: Kind,
    old: Option<&'a Value>,
    /// All that the object costs.
    whole: Amounts,
    /// What it costs more than before.
    more: Amounts,
}

impl<'a> Cost<'a> {
    pub(super) fn of(kind: Kind, object: &'a Value, old: Option<&'a Value>, now: Timestamp) -> Cost<'a> {
        let whole = kind.usage(object, now);
        let before = old.map(|old| kind.usage(old, now)).unwrap_or_default();
        let more = |(name, amount): (&String, &Quantity)| {
            let more = amount.minus(before.get(name).copied().unwrap_or(Quantity::ZERO));
            (name.clone(), if more.is_negative() { Quantity::ZERO } else { more })
        };
        Cost { more: whole.iter().map(more).collect(), object, kind, old, whole }
    }

    /// What the quota has used after the write; `None` if it is not about it.
    pub(super) fn used(&self, quota: &Quota) -> Result<Option<Amounts>, String> {
        let counted = || quota.hard.keys().map(String::as_str).filter(|name| self.kind.counts(name));
        if counted().next().is_none() || !quota.has(&self.kind, self.object) {
            return Ok(None);
        }
        if let Some(why) = missing_requests(self.object, counted()).filter(|_| self.kind == Kind::Pod) {
            return Err(format!("failed quota: {}: {why}", quota.name));
        }
        if !counted().all(|name| quota.used.contains_key(name)) {
            let names: Vec<&str> = counted().collect();
            return Err(format!("status unknown for quota: {}, resources: {}", quota.name, names.join(",")));
        }
        let negative: Vec<&str> = self
            .whole
            .iter()
            .filter(|(_, amount)| amount.is_negative())
            .map(|(name, _)| name.as_str())
            .collect();
        if !negative.is_empty() {
            return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
        }
        let knows = self.old.is_some_and(|old| quota.has(&self.kind, old));
        let mut asked = if knows { self.more.clone() } else { self.whole.clone() };
        asked.retain(|name, amount| quota.hard.contains_key(name) && !amount.is_zero());
        if asked.is_empty() {
            return Ok(None);
        }
        let mut used = quota.used.clone();
        amounts::add(&mut used, &asked);
        asked.retain(|name, _| used[name] > quota.hard[name]);
        if asked.is_empty() {
            return Ok(Some(used));
        }
        let of = |from: &Amounts| {
            let shown = asked
                .keys()
                .map(|name| format!("{name}={}", from.get(name).copied().unwrap_or(Quantity::ZERO)));
            shown.collect::<Vec<_>>().join(",")
        };
        let (requested, before, limited) = (of(&asked), of(&quota.used), of(&quota.hard));
        let name = &quota.name;
        Err(format!("exceeded quota: {name}, requested: {requested}, used: {before}, limited: {limited}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn quota(spec: Value, hard: Value, used: Value) -> Quota {
        Quota::of(&json!({"metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used}}))
    }

    fn outcome(kind: (&str, &str), object: &Value, old: Option<&Value>, quota: &Quota) -> Value {
        let kind = Kind::of(kind.0, kind.1).expect("counted");
        match Cost::of(kind, object, old, Timestamp::UNIX_EPOCH).used(quota) {
            Ok(used) => used.map_or(Value::Null, |used| amounts::write(&used)),
            Err(why) => why.into(),
        }
    }

    #[test]
    fn pods() {
        let pod = json!({"status": {"qosClass": "Burstable"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}}}]}});
        let bare = json!({"status": {"qosClass": "BestEffort"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let none = json!({});
        let best = json!({"scopes": ["BestEffort"]});
        let table = [
            (&pod, &none, json!({"pods": "2"}), json!({"pods": "1"}), json!({"pods": "2"})),
            (
                &pod,
                &none,
                json!({"pods": "1", "requests.cpu": "1"}),
                json!({"pods": "1", "requests.cpu": "900m"}),
                json!(
                    "exceeded quota: q, requested: pods=1,requests.cpu=200m, used: pods=1,requests.cpu=900m, limited: pods=1,requests.cpu=1"
                ),
            ),
            (
                &pod,
                &none,
                json!({"pods": "9", "memory": "1Gi"}),
                json!({"pods": "1", "memory": "512Mi"}),
                json!("exceeded quota: q, requested: memory=1Gi, used: memory=512Mi, limited: memory=1Gi"),
            ),
            (
                &bare,
                &none,
                json!({"requests.cpu": "1", "limits.memory": "1Gi"}),
                json!({"requests.cpu": "0", "limits.memory": "0"}),
                json!("failed quota: q: must specify limits.memory for: a,b; requests.cpu for: a,b"),
            ),
            (
                &pod,
                &none,
                json!({"pods": "2"}),
                json!({}),
                json!("status unknown for quota: q, resources: pods"),
            ),
            (&pod, &none, json!({"secrets": "0"}), json!({"secrets": "0"}), Value::Null),
            (&pod, &best, json!({"pods": "0"}), json!({"pods": "0"}), Value::Null),
            (
                &bare,
                &best,
                json!({"pods": "0"}),
                json!({"pods": "0"}),
                json!("exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"),
            ),
            (&pod, &none, json!({}), json!({}), Value::Null),
        ];
        for (pod, spec, hard, used, want) in table {
            let quota = quota(spec.clone(), hard, used);
            assert_eq!(outcome(("", "pods"), pod, None, &quota), want, "{quota:?}");
        }
    }

    #[test]
    fn changes_cost_what_they_add() {
        let service = |kind: &str| json!({"spec": {"type": kind, "ports": [{"port": 1}, {"port": 2}]}});
        let all = json!({"services": "1", "services.nodeports": "2"});
        let table = [
            ("NodePort", "ClusterIP", "0", json!({"services": "1", "services.nodeports": "2"})),
            (
                "NodePort",
                "ClusterIP",
                "1",
                json!(
                    "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=1, limited: services.nodeports=2"
                ),
            ),
            ("ClusterIP", "NodePort", "2", Value::Null),
            ("ClusterIP", "ClusterIP", "2", Value::Null),
        ];
        for (new, old, ports, want) in table {
            let quota = quota(json!({}), all.clone(), json!({"services": "1", "services.nodeports": ports}));
            let found = outcome(("", "services"), &service(new), Some(&service(old)), &quota);
            assert_eq!(found, want, "{old} becomes {new}");
        }
        // Coming into a scope costs everything.
        let claim = |class: Value| json!({"spec": {"volumeAttributesClassName": class}});
        let scoped = json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "VolumeAttributesClass", "operator": "In", "values": ["gold"]}]}});
        let quota =
            quota(scoped, json!({"persistentvolumeclaims": "2"}), json!({"persistentvolumeclaims": "1"}));
        let claims = ("", "persistentvolumeclaims");
        let found = outcome(claims, &claim("gold".into()), Some(&claim(Value::Null)), &quota);
        assert_eq!(found, json!({"persistentvolumeclaims": "2"}));
        assert_eq!(outcome(claims, &claim("gold".into()), Some(&claim("gold".into())), &quota), Value::Null);
        assert_eq!(outcome(("apps", "deployments"), &json!({}), None, &quota), Value::Null);
    }
}
