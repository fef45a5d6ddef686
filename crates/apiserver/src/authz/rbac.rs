//! Role-based access control: roles and bindings compiled into a table that is looked up by subject.
//!
//! The table is compiled again only when a role or a binding has changed. A request that it would refuse waits until
//! the cache has caught up and is looked at once more, so that nobody is refused what was granted to him just now.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use api_machinery::field::go_quote;
use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::Value;

use super::rules::Rule;
use super::{Verdict, combine};
use crate::types::{Lookup, RequestInfo, UserInfo};

/// The group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

/// A binding with its role's rules.
#[derive(Debug)]
struct Bound {
    /// `ClusterRoleBinding "x" of ClusterRole "y"`, to which the subject is added.
    origin: String,
    /// The rules, or why there are none.
    rules: Result<Arc<[Rule]>, String>,
}

/// Where a binding counts, and for whom. The namespace is empty for all; users come as `u:NAME`, groups as `g:NAME`.
type Key = (String, String);

/// All bindings by subject.
#[derive(Debug, Default)]
struct Table {
    bound: BTreeMap<Key, Vec<(Arc<Bound>, String)>>,
}

/// Roles by namespace (empty for cluster roles) and name.
type Roles = BTreeMap<(String, String), Arc<[Rule]>>;

fn roles(cluster: &[Arc<Value>], namespaced: &[Arc<Value>]) -> Roles {
    let all = cluster.iter().chain(namespaced);
    all.map(|role| {
        let key = (meta::namespace(role).to_owned(), meta::name(role).to_owned());
        (key, Rule::of_role(role).into())
    })
    .collect()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

impl Table {
    fn compile(roles: &Roles, bindings: &[Arc<Value>]) -> Table {
        let mut table = Table::default();
        for binding in bindings {
            table.add(roles, binding);
        }
        table
    }

    fn add(&mut self, roles: &Roles, binding: &Value) {
        let namespace = meta::namespace(binding);
        let null = Value::Null;
        let role = binding.get("roleRef").unwrap_or(&null);
        let (kind, name) = (text(role, "kind"), text(role, "name"));
        let (bound_as, binding_name) = if namespace.is_empty() {
            ("ClusterRoleBinding", meta::name(binding).to_owned())
        } else {
            ("RoleBinding", format!("{}/{namespace}", meta::name(binding)))
        };
        let bound = Arc::new(Bound {
            origin: format!("{bound_as} {} of {kind} {}", go_quote(&binding_name), go_quote(name)),
            rules: resolve(roles, kind, name, namespace),
        });
        for subject in binding.get("subjects").and_then(Value::as_array).into_iter().flatten() {
            let Some((key, described)) = subject_key(subject, namespace) else { continue };
            let of = self.bound.entry((namespace.to_owned(), key)).or_default();
            of.push((bound.clone(), described));
        }
    }

    /// Every binding that applies to the user, those of the whole cluster first.
    fn of<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a (Arc<Bound>, String)> {
        let places = std::iter::once("").chain((!namespace.is_empty()).then_some(namespace));
        places.flat_map(move |place| {
            let name = std::iter::once(format!("u:{}", user.name));
            let groups = user.groups.iter().map(|group| format!("g:{group}"));
            name.chain(groups).filter_map(move |key| self.bound.get(&(place.to_owned(), key))).flatten()
        })
    }

    fn decide(&self, user: &UserInfo, info: &RequestInfo) -> Verdict {
        let mut errors: Vec<&str> = Vec::new();
        for (bound, subject) in self.of(user, &info.namespace) {
            match &bound.rules {
                Ok(rules) if rules.iter().any(|rule| rule.allows(info)) => {
                    return Verdict::Allow(format!("RBAC: allowed by {} to {subject}", bound.origin));
                }
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        Verdict::NoOpinion(if errors.is_empty() {
            String::new()
        } else {
            format!("RBAC: {}", combine(&errors))
        })
    }
}

fn resolve(roles: &Roles, kind: &str, name: &str, namespace: &str) -> Result<Arc<[Rule]>, String> {
    let (place, word) = match kind {
        "ClusterRole" => ("", "clusterrole"),
        "Role" => (namespace, "role"),
        other => return Err(format!("unsupported role reference kind: {}", go_quote(other))),
    };
    let found = roles.get(&(place.to_owned(), name.to_owned()));
    found.cloned().ok_or_else(|| format!("{word}.{GROUP} {} not found", go_quote(name)))
}

/// The key of a subject and how it is described.
fn subject_key(subject: &Value, namespace: &str) -> Option<(String, String)> {
    let (kind, name) = (text(subject, "kind"), text(subject, "name"));
    match kind {
        "User" => Some((format!("u:{name}"), format!("User {}", go_quote(name)))),
        "Group" => Some((format!("g:{name}"), format!("Group {}", go_quote(name)))),
        "ServiceAccount" => {
            let own = text(subject, "namespace");
            let place = if own.is_empty() { namespace } else { own };
            let described = format!("ServiceAccount {}", go_quote(&format!("{name}/{place}")));
            (!place.is_empty()).then(|| (format!("u:system:serviceaccount:{place}:{name}"), described))
        }
        _ => None,
    }
}

/// The authorizer.
pub struct Rbac {
    lookup: Arc<dyn Lookup>,
    compiled: RwLock<Option<Compiled>>,
}

#[derive(Clone)]
struct Compiled {
    at: [u64; 4],
    table: Arc<Table>,
    roles: Arc<Roles>,
}

impl Rbac {
    /// Reads roles and bindings through `lookup`.
    pub fn new(lookup: Arc<dyn Lookup>) -> Rbac {
        Rbac { lookup, compiled: RwLock::new(None) }
    }

    fn changed_at(&self) -> [u64; 4] {
        RESOURCES.map(|resource| self.lookup.changed_at(GROUP, resource))
    }

    async fn compiled(&self) -> Result<Compiled, ApiError> {
        // Read before the lists are: what changes meanwhile is compiled again the next time.
        let at = self.changed_at();
        let held = self.compiled.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(held) = held.filter(|held| held.at == at) {
            return Ok(held);
        }
        let list = |resource: &'static str| self.lookup.list(GROUP, resource, None);
        let roles = Arc::new(roles(&list("clusterroles").await?, &list("roles").await?));
        let mut bindings = list("clusterrolebindings").await?;
        bindings.extend(list("rolebindings").await?);
        let compiled = Compiled { at, table: Arc::new(Table::compile(&roles, &bindings)), roles };
        *self.compiled.write().unwrap_or_else(PoisonError::into_inner) = Some(compiled.clone());
        Ok(compiled)
    }

    /// Whether the roles that are bound to the user allow this.
    pub async fn decide(&self, user: &UserInfo, info: &RequestInfo) -> Result<Verdict, ApiError> {
        let first = self.compiled().await?;
        let verdict = first.table.decide(user, info);
        if matches!(verdict, Verdict::Allow(_)) {
            return Ok(verdict);
        }
        self.lookup.fresh().await?;
        if self.changed_at() == first.at {
            return Ok(verdict);
        }
        Ok(self.compiled().await?.table.decide(user, info))
    }

    /// The rules of a role, or why there are none.
    pub async fn role(
        &self,
        kind: &str,
        name: &str,
        namespace: &str,
    ) -> Result<Result<Arc<[Rule]>, String>, ApiError> {
        self.lookup.fresh().await?;
        Ok(resolve(&self.compiled().await?.roles, kind, name, namespace))
    }

    /// All rules that apply to a user in a namespace, or to whole cluster when that is empty, and what went wrong on the
    /// way.
    pub async fn rules(
        &self,
        user: &UserInfo,
        namespace: &str,
    ) -> Result<(Vec<Rule>, Vec<String>), ApiError> {
        self.lookup.fresh().await?;
        let compiled = self.compiled().await?;
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for (bound, _) in compiled.table.of(user, namespace) {
            match &bound.rules {
                Ok(found) => rules.extend(found.iter().cloned()),
                Err(error) => errors.push(error.clone()),
            }
        }
        Ok((rules, errors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table() -> Table {
        let role = |namespace: &str, name: &str, verb: &str| {
            Arc::new(json!({
                "metadata": {"name": name, "namespace": namespace},
                "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}],
            }))
        };
        let roles = roles(&[role("", "reader", "get")], &[role("a", "writer", "create")]);
        let binding = |namespace: &str, kind: &str, role: &str, subject: Value| {
            Arc::new(json!({
                "metadata": {"name": format!("to-{role}"), "namespace": namespace},
                "roleRef": {"kind": kind, "name": role}, "subjects": [subject],
            }))
        };
        let group = json!({"kind": "Group", "name": "readers"});
        Table::compile(
            &roles,
            &[
                binding("", "ClusterRole", "reader", group),
                binding("a", "Role", "writer", json!({"kind": "ServiceAccount", "name": "sa"})),
                binding("b", "ClusterRole", "reader", json!({"kind": "User", "name": "ann"})),
                binding("b", "Role", "writer", json!({"kind": "User", "name": "ann"})),
            ],
        )
    }

    #[test]
    fn bindings_count_where_they_are() {
        let table = table();
        let reader = UserInfo::new("x", &["readers"]);
        let account = UserInfo::new("system:serviceaccount:a:sa", &[]);
        let ann = UserInfo::new("ann", &[]);
        let broken = "RBAC: role.rbac.authorization.k8s.io \"writer\" not found";
        let by_group = "RBAC: allowed by ClusterRoleBinding \"to-reader\" of ClusterRole \"reader\" to Group \"readers\"";
        let by_account =
            "RBAC: allowed by RoleBinding \"to-writer/a\" of Role \"writer\" to ServiceAccount \"sa/a\"";
        let cases = [
            (&reader, "get", "", true, by_group),
            (&reader, "get", "z", true, by_group),
            (&reader, "create", "a", false, ""),
            (&account, "create", "a", true, by_account),
            (&account, "create", "b", false, ""),
            (&account, "create", "", false, ""),
            (&ann, "create", "b", false, broken),
            (&ann, "get", "a", false, ""),
        ];
        for (user, verb, namespace, allowed, reason) in cases {
            let info = RequestInfo {
                verb: verb.into(),
                resource: "pods".into(),
                namespace: namespace.into(),
                is_resource: true,
                ..RequestInfo::default()
            };
            let want =
                if allowed { Verdict::Allow(reason.into()) } else { Verdict::NoOpinion(reason.into()) };
            assert_eq!(table.decide(user, &info), want, "{} {verb} in {namespace:?}", user.name);
        }
        let info = RequestInfo {
            verb: "get".into(),
            resource: "pods".into(),
            namespace: "b".into(),
            is_resource: true,
            ..Default::default()
        };
        assert!(
            matches!(table.decide(&ann, &info), Verdict::Allow(_)),
            "one broken binding does not hide another"
        );
    }

    /// A cache that is one binding behind until it is asked to catch up.
    struct Behind(std::sync::atomic::AtomicBool);

    #[async_trait::async_trait]
    impl Lookup for Behind {
        async fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Result<Option<Arc<Value>>, ApiError> {
            Ok(None)
        }

        async fn list(&self, _: &str, plural: &str, _: Option<&str>) -> Result<Vec<Arc<Value>>, ApiError> {
            let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
            let role = json!({"metadata": {"name": "r"}, "rules": rules});
            let subjects = json!([{"kind": "User", "name": "ann"}]);
            let reference = json!({"kind": "ClusterRole", "name": "r"});
            let binding = json!({"metadata": {"name": "b"}, "roleRef": reference, "subjects": subjects});
            Ok(match plural {
                "clusterroles" => vec![Arc::new(role)],
                "clusterrolebindings" if self.caught_up() => vec![Arc::new(binding)],
                _ => Vec::new(),
            })
        }

        fn changed_at(&self, _: &str, _: &str) -> u64 {
            u64::from(self.caught_up())
        }

        async fn fresh(&self) -> Result<(), ApiError> {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            Ok(())
        }
    }

    impl Behind {
        fn caught_up(&self) -> bool {
            self.0.load(std::sync::atomic::Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn nobody_is_refused_what_was_granted_just_now() {
        let rbac = Rbac::new(Arc::new(Behind(false.into())));
        let info = RequestInfo {
            verb: "get".into(),
            resource: "pods".into(),
            is_resource: true,
            ..RequestInfo::default()
        };
        let verdict = rbac.decide(&UserInfo::new("bob", &[]), &info).await.expect("decided");
        assert_eq!(verdict, Verdict::NoOpinion(String::new()));
        let rbac = Rbac::new(Arc::new(Behind(false.into())));
        let verdict = rbac.decide(&UserInfo::new("ann", &[]), &info).await.expect("decided");
        assert!(matches!(verdict, Verdict::Allow(_)), "{verdict:?}");
    }
}
