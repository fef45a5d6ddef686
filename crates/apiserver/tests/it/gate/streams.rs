//! exec, attach and port-forward: from a client over TLS through the server to a kubelet that echoes, who may, and what is
//! asked of the kubelet.

use http::Method;
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::proxies::{ask, message, read, root};
use super::tunnels::Machine;
use super::{RBAC, admin};
use crate::fixture::PATIENCE;
use crate::kubelets::local;

const POD: &str = "/api/v1/namespaces/default/pods/p";
const SPDY: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];

#[tokio::test]
async fn streams_are_bytes_between_the_client_and_the_kubelet() {
    let machine = Machine::start(local()).await;
    let root = root(&machine);
    let exec =
        "exec?container=plain&command=sh&command=-c&command=echo%20%26%20more&stdin=true&stdout=1&tty=false";
    let table = [
        (
            Method::POST,
            exec,
            "/exec/default/p/plain?input=1&output=1&command=sh&command=%2Dc&command=echo%20%26%20more",
        ),
        (
            Method::GET,
            "attach?container=stream&stdout=true&stderr=true&tty=true",
            "/attach/default/p/stream?output=1&error=1&tty=1",
        ),
        (Method::POST, "portforward?ports=80&ports=443", "/portForward/default/p?port=80&port=443"),
        (Method::GET, "portforward", "/portForward/default/p"),
    ];
    for (method, path, asked) in table {
        let answer = ask(&machine, &root, &format!("{method} {POD}/{path}"), &SPDY, "").await;
        assert_eq!(answer.status(), 101, "{path}");
        assert_eq!(answer.headers()["upgrade"], "SPDY/3.1");
        let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.expect("an upgrade"));
        stream.write_all(b"hello").await.expect("written");
        stream.shutdown().await.expect("half closed");
        let mut heard = String::new();
        let reading = stream.read_to_string(&mut heard);
        tokio::time::timeout(PATIENCE, reading).await.expect("it ends").expect("text");
        assert_eq!(heard, "hello");
        drop(stream);
        let notes = std::mem::take(&mut *machine.kubelet.asked.lock().expect("notes"));
        assert_eq!(notes, [asked]);
    }
    machine.stop().await;
}

#[tokio::test]
async fn what_is_no_stream_says_why() {
    let machine = Machine::start(local()).await;
    let root = root(&machine);
    let refused = async |path: &str, headers: &[(&str, &str)]| {
        let answer = ask(&machine, &root, &format!("POST {POD}/{path}"), headers, "").await;
        let close = answer.headers().get("connection").is_some_and(|value| value == "close");
        let (code, _, text) = read(answer).await;
        (code, message(&text), close)
    };
    let no = |code, why: &str, close| (code, why.to_owned(), close);
    let path = "exec?container=plain&command=a&stdout=1";
    assert_eq!(refused(path, &[]).await, no(400, "Upgrade request required", false));
    assert_eq!(
        refused("exec?container=none&command=a", &SPDY).await,
        no(400, "container none is not valid for pod p", true)
    );
    let several =
        "a container name must be specified for pod p, choose one of: [plain redirect waiting broken stream]";
    assert_eq!(refused("attach?stdout=1", &SPDY).await, no(400, several, true));
    let port = "ports: strconv.ParseInt: parsing \"0x50\": invalid syntax";
    assert_eq!(refused("portforward?ports=80&ports=0x50", &SPDY).await, no(400, port, true));
    assert!(machine.kubelet.asked.lock().expect("notes").is_empty(), "the kubelet was asked nothing");
    // What the kubelet says against it is told, and nothing that is sent behind it is read.
    let answer = refused("exec?container=broken&command=a&stdout=1", &SPDY).await;
    assert_eq!(answer, no(500, "it broke", true));
    machine.stop().await;
}

#[tokio::test]
async fn whoever_may_only_look_opens_no_stream() {
    let machine = Machine::start(local()).await;
    let role = |name: &str, verbs: &[&str]| {
        let rules = json!([{"apiGroups": [""], "resources": ["pods/exec", "pods/attach", "pods/portforward"], "verbs": verbs}]);
        let role = json!({"metadata": {"name": name}, "rules": rules});
        let binding = json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}]});
        (role, binding)
    };
    for (name, verbs) in [("looks", &["get"][..]), ("both", &["get", "create"])] {
        let (role, binding) = role(name, verbs);
        let namespaced = format!("{RBAC}/namespaces/default");
        machine.cluster.must(&admin(), "POST", &format!("{namespaced}/roles"), Some(&role)).await;
        machine.cluster.must(&admin(), "POST", &format!("{namespaced}/rolebindings"), Some(&binding)).await;
    }
    machine.cluster.server.lookup().fresh().await.expect("a view that is not older");
    let open = async |name: &str, path: &str| {
        let identity = machine.identity(name, "people", SignedDuration::from_hours(1));
        let answer = ask(&machine, &identity, &format!("GET {POD}/{path}"), &SPDY, "").await;
        if answer.status() == 101 {
            (101, String::new())
        } else {
            let (code, _, text) = read(answer).await;
            (code, message(&text))
        }
    };
    let path = "exec?container=plain&command=a&stdout=1";
    let why = "pods \"p\" is forbidden: User \"looks\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"default\"";
    assert_eq!(open("looks", path).await, (403, why.to_owned()));
    assert!(machine.kubelet.asked.lock().expect("notes").is_empty());
    assert_eq!(open("both", path).await.0, 101);
    machine.stop().await;
}

#[tokio::test]
async fn policies_see_what_is_to_be_run() {
    let machine = Machine::start(local()).await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let rules = json!([{"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/exec"]}]);
    let policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "!('rm' in object.command) && object.container == 'plain'"}]}});
    let binding =
        json!({"metadata": {"name": "p"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    let policies = format!("{group}/validatingadmissionpolicies");
    machine.cluster.must(&admin(), "POST", &policies, Some(&policy)).await;
    let bindings = format!("{group}/validatingadmissionpolicybindings");
    machine.cluster.must(&admin(), "POST", &bindings, Some(&binding)).await;
    machine.cluster.server.lookup().fresh().await.expect("a view that is not older");
    let root = root(&machine);
    let run = async |command: &str| {
        let path = format!("POST {POD}/exec?container=plain&command={command}&stdout=1");
        ask(&machine, &root, &path, &SPDY, "").await
    };
    assert_eq!(run("ls").await.status(), 101);
    let (code, _, text) = read(run("rm").await).await;
    let status: Value = serde_json::from_str(&text).expect("a status");
    assert_eq!(code, 422, "{status}");
    machine.stop().await;
}
