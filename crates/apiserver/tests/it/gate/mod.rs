//! The server behind the gate of a real cluster: certificates, tokens, roles, nodes and admission, asked from outside.

mod aggregation;
mod grants;
mod identities;
mod join;
mod limits;
mod nodes;
mod operator;
mod proxies;
mod streams;
mod tunnels;
mod webhooks;

use std::sync::Arc;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use apiserver::catalog::Catalog;
use apiserver::config::Authentication;
use apiserver::gate::{GateConfig, controller_manager};
use apiserver::limits::Limits;
use apiserver::pki::{Client, Names, Pki};
use apiserver::proxy::{Kubelets, NoKubelets};
use apiserver::tokens::Tokens;
use apiserver::types::{PeerCertificates, UserInfo};
use apiserver::{ApiServer, Config, Dependencies};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use store::simdisk::SimDisk;
use store::{EmbeddedStore, Options};

use crate::fixture::{read, request};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A cluster's API server with its certificates.
struct Cluster {
    server: Arc<ApiServer>,
    pki: Pki,
    tokens: Arc<Tokens>,
    folder: tempfile::TempDir,
}

/// An administrator.
fn admin() -> UserInfo {
    UserInfo::new("admin", &["system:masters", "system:authenticated"])
}

/// Somebody without any rights of his own.
fn user(name: &str) -> UserInfo {
    UserInfo::new(name, &["system:authenticated"])
}

impl Cluster {
    async fn new() -> Cluster {
        Cluster::with(Config::default(), Arc::new(NoKubelets), true).await
    }

    /// Where whoever shows no credentials may see what is harmless (`anonymous`), or nothing.
    async fn with(config: Config, kubelets: Arc<dyn Kubelets>, anonymous: bool) -> Cluster {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Clock::system();
        let names = Names { node_name: "a".to_owned(), ..Names::default() };
        let pki =
            Pki::load_or_create(folder.path(), &names, &clock, &Entropy::from_os()).expect("certificates");
        let tokens = Arc::new(pki.tokens(ISSUER, Entropy::from_os()).expect("a key"));
        let store = EmbeddedStore::open(Arc::new(SimDisk::new(1)), Options::simulated(1)).expect("a store");
        let dependencies = Dependencies {
            store: Arc::new(store),
            catalog: Catalog::built_in(),
            clock: clock.clone(),
            entropy: Entropy::seeded(1),
            kubelets,
        };
        let gate = GateConfig {
            clock,
            entropy: Entropy::seeded(2),
            tokens: tokens.clone(),
            limits: Limits::default(),
        };
        let gate = apiserver::gate::gate(gate, anonymous);
        let config = Config {
            proxy_client: Some(pki.proxy_client().expect("the front proxy")),
            authentication: Authentication {
                client_ca: pki.ca_certificate().to_owned(),
                request_header: Some(pki.request_header()),
            },
            ..config
        };
        let server = ApiServer::start(config, dependencies, gate).await.expect("a server");
        Cluster { server, pki, tokens, folder }
    }

    /// What is in a file of the server's data directory.
    fn file(&self, path: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(path)).expect("a file")
    }

    /// A request as somebody.
    async fn send(&self, user: &UserInfo, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let (parts, body) = request(method, path, body).into_parts();
        read(self.server.call(user.clone(), http::Request::from_parts(parts, body.into())).await).await
    }

    /// The same, where anything but success is a failure of the test.
    async fn must(&self, user: &UserInfo, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (code, value) = self.send(user, method, path, body).await;
        assert!((200..300).contains(&code), "{} {method} {path}: {code} {value}", user.name);
        value
    }

    /// The message of a request that must be refused with this code.
    async fn refused(
        &self,
        user: &UserInfo,
        code: u16,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> String {
        let (got, value) = self.send(user, method, path, body).await;
        assert_eq!(got, code, "{} {method} {path}: {value}", user.name);
        value["message"].as_str().unwrap_or_default().to_owned()
    }

    /// A request as the listener would hand it on: with headers, and perhaps with a client's certificate.
    async fn outside(
        &self,
        certificate: Option<Client>,
        headers: &[(&str, &str)],
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let (mut parts, body) = request(method, path, body).into_parts();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().expect("a header");
            parts.headers.append(name, value.parse().expect("a value"));
        }
        if let Some(client) = certificate {
            let chain = [self.pki.client(client).certificate().clone()];
            parts.extensions.insert(PeerCertificates(chain.into()));
        }
        let body = Full::new(body).map_err(Into::into).boxed_unsync();
        read(self.server.handle(http::Request::from_parts(parts, body)).await).await
    }

    /// Binds a cluster role to a user everywhere.
    async fn grant(&self, name: &str, role: &str) {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("{name}-{role}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        });
        self.must(&admin(), "POST", &format!("{RBAC}/clusterrolebindings"), Some(&binding)).await;
    }

    /// A service account, as its controller makes it.
    async fn account(&self, name: &str) {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        let path = "/api/v1/namespaces/default/serviceaccounts";
        self.must(&controller_manager(), "POST", path, Some(&account)).await;
    }

    /// A pod that is bound to a node.
    async fn pod(&self, name: &str, node: &str, spec: Value) -> Value {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        });
        for (field, value) in spec.as_object().into_iter().flatten() {
            pod["spec"][field] = value.clone();
        }
        self.must(&controller_manager(), "POST", "/api/v1/namespaces/default/pods", Some(&pod)).await
    }
}
