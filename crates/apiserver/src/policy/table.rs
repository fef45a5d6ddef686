//! Reads the tables of roles beside it, which are part of the program: a mistake in them is a bug that tests find.

use serde_json::{Value, json};

use crate::authz::rbac::GROUP;
use crate::authz::rules::Rule;

const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];
const EVENTS: &str = "create,patch,update core,events.k8s.io events";

/// A role and its binding.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Set for roles of one namespace.
    pub namespace: Option<String>,
    /// The role's name.
    pub name: String,
    /// The binding's name, where it differs.
    pub binding: Option<String>,
    /// Whom it is bound to; `None` for roles without a binding.
    pub subjects: Option<Vec<Subject>>,
    /// The sum that it is a part of.
    pub into: Option<String>,
    /// The sum that it is.
    pub of: Option<String>,
    /// What it allows.
    pub rules: Vec<Rule>,
}

/// Whom a role is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// By name.
    User(String),
    /// By name.
    Group(String),
    /// By namespace and name.
    ServiceAccount(String, String),
}

impl Subject {
    fn parse(text: &str) -> Option<Subject> {
        let (kind, name) = text.split_once(':')?;
        Some(match kind {
            "user" => Subject::User(name.to_owned()),
            "group" => Subject::Group(name.to_owned()),
            "sa" => {
                let (namespace, name) = name.split_once('/')?;
                Subject::ServiceAccount(namespace.to_owned(), name.to_owned())
            }
            _ => return None,
        })
    }

    /// As it is in a binding.
    pub fn to_value(&self) -> Value {
        match self {
            Subject::User(name) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
            Subject::Group(name) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
            Subject::ServiceAccount(namespace, name) => {
                json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
            }
        }
    }
}

/// Roles of the cluster.
pub fn cluster_roles() -> Vec<Entry> {
    parse(include_str!("cluster_roles.txt"))
}

/// Roles of controllers.
pub fn controller_roles() -> Vec<Entry> {
    parse(include_str!("controller_roles.txt"))
}

/// Roles of single namespaces.
pub fn namespace_roles() -> Vec<Entry> {
    parse(include_str!("namespace_roles.txt"))
}

fn parse(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(first) = words.first().filter(|word| !word.starts_with('#')) else { continue };
        if !line.starts_with(' ') {
            entries.push(entry(line, &words));
            continue;
        }
        let last = entries.last_mut().unwrap_or_else(|| panic!("a rule before the first role: {line}"));
        match (*first, &words[1..]) {
            ("to", ["nobody"]) => last.subjects = Some(Vec::new()),
            ("to", subjects) => {
                let subjects = subjects.iter().map(|word| Subject::parse(word));
                let subjects: Option<Vec<Subject>> = subjects.collect();
                last.subjects = Some(subjects.unwrap_or_else(|| panic!("not a subject: {line}")));
            }
            _ => last.rules.push(rule(line)),
        }
    }
    entries
}

fn entry(line: &str, words: &[&str]) -> Entry {
    let (kind, name) = match words {
        [kind, name, ..] => (*kind, *name),
        _ => panic!("a role without a name: {line}"),
    };
    let mut entry = Entry { name: name.to_owned(), ..Entry::default() };
    if kind == "controller" {
        entry.name = format!("system:controller:{name}");
        entry.subjects = Some(vec![Subject::ServiceAccount("kube-system".to_owned(), name.to_owned())]);
        if words.get(2) == Some(&"events") {
            entry.rules.push(rule(EVENTS));
        }
        return entry;
    }
    if let Some((namespace, name)) = name.split_once('/') {
        (entry.namespace, entry.name) = (Some(namespace.to_owned()), name.to_owned());
    }
    for pair in words[2..].chunks(2) {
        match pair {
            ["of", sum] => entry.of = Some((*sum).to_owned()),
            ["into", sum] => entry.into = Some((*sum).to_owned()),
            ["as", name] => entry.binding = Some((*name).to_owned()),
            _ => panic!("not understood: {line}"),
        }
    }
    entry
}

fn rule(line: &str) -> Rule {
    let words: Vec<&str> = line.split_whitespace().collect();
    let list = |word: &str| -> Vec<String> {
        word.split(',').map(|item| if item == "core" { String::new() } else { item.to_owned() }).collect()
    };
    let (verbs, rest) = words.split_first().unwrap_or_else(|| panic!("an empty rule"));
    let verbs = verbs
        .split(',')
        .flat_map(|verb| match verb {
            "read" => READ.to_vec(),
            "write" => WRITE.to_vec(),
            other => vec![other],
        })
        .map(str::to_owned)
        .collect();
    match rest {
        ["url", urls] => Rule { verbs, urls: list(urls), ..Rule::default() },
        [groups, resources] => {
            Rule { verbs, groups: list(groups), resources: list(resources), ..Rule::default() }
        }
        [groups, resources, names] => Rule {
            verbs,
            groups: list(groups),
            resources: list(resources),
            names: list(names),
            urls: Vec::new(),
        },
        _ => panic!("not a rule: {line}"),
    }
}
