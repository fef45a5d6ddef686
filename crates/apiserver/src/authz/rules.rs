//! One rule of a role: reading it, whether it allows a request, whether rules cover others, and how a rule is written
//! in an error. Pure; who is bound to which role is `rbac`'s to know.

use std::collections::{BTreeMap, BTreeSet};

use api_machinery::field::go_quote;
use serde_json::{Map, Value};

use crate::types::RequestInfo;

/// Everything, in any of a rule's lists.
const ALL: &str = "*";

/// A `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What may be done.
    pub verbs: Vec<String>,
    /// To resources of these groups.
    pub groups: Vec<String>,
    /// Plural names, `pods/log` or `*/scale`.
    pub resources: Vec<String>,
    /// Only objects of these names; empty means all.
    pub names: Vec<String>,
    /// Paths that name no resource, with `*` at the end for everything below.
    pub urls: Vec<String>,
}

impl Rule {
    /// Reads a rule off a role.
    pub fn from_value(rule: &Value) -> Rule {
        let list = |field: &str| -> Vec<String> {
            let list = rule.get(field).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        Rule {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            urls: list("nonResourceURLs"),
        }
    }

    /// All rules of a role.
    pub fn of_role(role: &Value) -> Vec<Rule> {
        let rules = role.get("rules").and_then(Value::as_array);
        rules.into_iter().flatten().map(Rule::from_value).collect()
    }

    /// As JSON, without what is empty.
    pub fn to_value(&self) -> Value {
        let mut rule = Map::new();
        for (field, list) in self.fields() {
            if !list.is_empty() {
                rule.insert(field.to_owned(), list.iter().map(String::as_str).collect::<Vec<_>>().into());
            }
        }
        rule.entry("verbs").or_insert_with(|| Value::Array(Vec::new()));
        Value::Object(rule)
    }

    fn fields(&self) -> [(&'static str, &Vec<String>); 5] {
        [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("nonResourceURLs", &self.urls),
            ("resourceNames", &self.names),
            ("verbs", &self.verbs),
        ]
    }

    /// Whether the rule allows a request.
    pub fn allows(&self, info: &RequestInfo) -> bool {
        if !info.is_resource {
            return has(&self.verbs, &info.verb) && self.urls.iter().any(|url| url_covers(url, &info.path));
        }
        has(&self.verbs, &info.verb)
            && has(&self.groups, &info.api_group)
            && self.allows_resource(&info.resource, &info.subresource)
            && (self.names.is_empty() || self.names.contains(&info.name))
    }

    fn allows_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|allowed| {
            allowed == ALL
                || match allowed.split_once('/') {
                    None => subresource.is_empty() && allowed == resource,
                    Some((first, second)) => {
                        second == subresource
                            && !subresource.is_empty()
                            && (first == resource || first == ALL)
                    }
                }
        })
    }

    /// The rule as upstream writes it: `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "list"]}`.
    pub fn describe(&self) -> String {
        let names = ["APIGroups", "Resources", "NonResourceURLs", "ResourceNames", "Verbs"];
        let parts: Vec<String> = names
            .iter()
            .zip(self.fields())
            .filter(|(_, (_, list))| !list.is_empty())
            .map(|(name, (_, list))| format!("{name}:{}", go_list(list)))
            .collect();
        format!("{{{}}}", parts.join(", "))
    }

    /// The rule as rules of one verb for one thing each.
    fn split(&self) -> Vec<Rule> {
        let mut split = Vec::new();
        let one = |text: &String| vec![text.clone()];
        let names: Vec<Vec<String>> =
            if self.names.is_empty() { vec![Vec::new()] } else { self.names.iter().map(one).collect() };
        for verb in &self.verbs {
            for (group, resource) in
                self.groups.iter().flat_map(|g| self.resources.iter().map(move |r| (g, r)))
            {
                for names in &names {
                    split.push(Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        names: names.clone(),
                        urls: Vec::new(),
                    });
                }
            }
            for url in &self.urls {
                split.push(Rule { verbs: one(verb), urls: one(url), ..Rule::default() });
            }
        }
        split
    }

    /// Whether everything that `part` allows is allowed by this rule.
    fn covers(&self, part: &Rule) -> bool {
        let lists = |mine: &Vec<String>, theirs: &Vec<String>| theirs.iter().all(|item| has(mine, item));
        lists(&self.verbs, &part.verbs)
            && lists(&self.groups, &part.groups)
            && part.resources.iter().all(|resource| self.covers_resource(resource))
            && (self.names.is_empty()
                || !part.names.is_empty() && part.names.iter().all(|n| self.names.contains(n)))
            && part.urls.iter().all(|url| self.urls.iter().any(|mine| mine == url || url_covers(mine, url)))
    }

    fn covers_resource(&self, resource: &str) -> bool {
        if has(&self.resources, resource) {
            return true;
        }
        let Some((_, subresource)) = resource.split_once('/') else { return false };
        self.resources.iter().any(|mine| mine.strip_prefix("*/") == Some(subresource))
    }
}

fn has(list: &[String], item: &str) -> bool {
    list.iter().any(|mine| mine == ALL || mine == item)
}

fn url_covers(pattern: &str, path: &str) -> bool {
    pattern == ALL
        || pattern == path
        || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// A list as Go's `%q` writes it.
pub fn go_list<T: AsRef<str>>(list: &[T]) -> String {
    let quoted: Vec<String> = list.iter().map(|item| go_quote(item.as_ref())).collect();
    format!("[{}]", quoted.join(" "))
}

/// What `wanted` allows and `held` does not, as descriptions in order; empty when everything is covered.
pub fn missing<'a>(held: impl Iterator<Item = &'a Rule> + Clone, wanted: &[Rule]) -> Vec<String> {
    let mut verbs: BTreeMap<[Vec<String>; 4], Vec<String>> = BTreeMap::new();
    for part in wanted.iter().flat_map(Rule::split) {
        if !held.clone().any(|rule| rule.covers(&part)) {
            let of = verbs.entry([part.groups, part.resources, part.names, part.urls]).or_default();
            of.extend(part.verbs.into_iter().filter(|verb| !of.contains(verb)).collect::<Vec<_>>());
        }
    }
    let described: BTreeSet<String> = verbs
        .into_iter()
        .map(|([groups, resources, names, urls], verbs)| {
            Rule { verbs, groups, resources, names, urls }.describe()
        })
        .collect();
    described.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        let mut lists = text.split(' ').map(|list| -> Vec<String> {
            let items = list.split(',').filter(|item| *item != "-");
            items.map(|item| if item == "core" { String::new() } else { item.to_owned() }).collect()
        });
        let mut next = || lists.next().unwrap_or_default();
        Rule { verbs: next(), groups: next(), resources: next(), names: next(), urls: next() }
    }

    fn info(text: &str) -> RequestInfo {
        let words: Vec<&str> = text.split(' ').collect();
        if let [verb, path] = words[..] {
            return RequestInfo { verb: verb.into(), path: path.into(), ..RequestInfo::default() };
        }
        let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
        RequestInfo {
            verb: words[0].into(),
            api_group: if words[1] == "core" { "" } else { words[1] }.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: words.get(3).copied().unwrap_or_default().into(),
            is_resource: true,
            ..RequestInfo::default()
        }
    }

    #[test]
    fn what_rules_allow() {
        let table = [
            ("get core pods", "get core pods", true),
            ("get core pods", "get core pods/log", false),
            ("get core pods/log", "get core pods/log", true),
            ("get core pods/log", "get core pods", false),
            ("get core *", "get core pods/log", true),
            ("get * */scale", "get apps deployments/scale", true),
            ("get * */scale", "get apps deployments/status", false),
            ("get * */scale", "get apps deployments", false),
            ("* * *", "escalate rbac clusterroles x", true),
            ("get core secrets a,b", "get core secrets b", true),
            ("get core secrets a,b", "get core secrets c", false),
            ("get core secrets a,b", "list core secrets", false),
            ("get apps deployments", "get core deployments", false),
            ("* * *", "get /healthz", false),
            ("get - - - /api/*", "get /api/v1", true),
            ("get - - - /api/*", "get /apis", false),
            ("get - - - *", "get /apis", true),
            ("get - - - /healthz", "get /healthz/etcd", false),
            ("get - - - /healthz", "post /healthz", false),
        ];
        for (held, asked, want) in table {
            assert_eq!(rule(held).allows(&info(asked)), want, "{held}: {asked}");
        }
    }

    #[test]
    fn what_is_missing() {
        let table: [(&[&str], &str, &[&str]); 9] = [
            (&["get,list core pods"], "get core pods", &[]),
            (&["get core pods", "list core pods"], "get,list core pods", &[]),
            (&["* * *"], "escalate,bind rbac clusterroles x", &[]),
            (
                &["get core pods"],
                "get,list,watch core pods",
                &["{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\" \"watch\"]}"],
            ),
            (
                &["get core secrets a"],
                "get core secrets",
                &["{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"],
            ),
            (&["get core secrets"], "get core secrets a", &[]),
            (&["update apps */scale"], "update apps deployments/scale", &[]),
            (
                &["update apps deployments/scale"],
                "update apps */scale",
                &["{APIGroups:[\"apps\"], Resources:[\"*/scale\"], Verbs:[\"update\"]}"],
            ),
            (&["get - - - /a/*"], "get - - - /a/b,/b", &["{NonResourceURLs:[\"/b\"], Verbs:[\"get\"]}"]),
        ];
        for (held, wanted, want) in table {
            let held: Vec<Rule> = held.iter().map(|text| rule(text)).collect();
            assert_eq!(missing(held.iter(), &[rule(wanted)]), want, "{wanted}");
        }
    }

    #[test]
    fn there_and_back() {
        let rule = rule("get,list apps deployments a");
        assert_eq!(Rule::from_value(&rule.to_value()), rule);
        assert_eq!(
            rule.describe(),
            "{APIGroups:[\"apps\"], Resources:[\"deployments\"], ResourceNames:[\"a\"], Verbs:[\"get\" \"list\"]}"
        );
    }
}
