//! Services on real packets: addresses, ports, names, refusals; and nothing untranslated leaves the node.

use crate::machine::{Cluster, Form, NODE, in_each_form, until};

in_each_form!(services_lead_to_pods_by_address_port_and_name);

const APPLICATION: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: skiff.local/busybox:1.35
          command: [sh, -c, "mkdir /www; hostname > /www/index.html; httpd -p 8081 -h /www; httpd -f -p 8080 -h /www"]
          ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 8081}]
          readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: NodePort
  selector: {app: echo}
  ports:
    - {name: http, port: 80, targetPort: http, nodePort: 30090}
    - {name: admin, port: 81, targetPort: admin, nodePort: 30091}
---
apiVersion: v1
kind: Service
metadata: {name: echo-headless}
spec: {clusterIP: None, selector: {app: echo}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "skiff.local/nginx:1.22", command: [sh, -c, "while :; do sleep 1; done"]}]
"#;

fn services_lead_to_pods_by_address_port_and_name(form: Form) {
    let Some(cluster) = Cluster::start("services", form) else { return };
    cluster.inside(
        "nft 'add table ip watch; add chain ip watch out { type filter hook postrouting priority 300; }; \
         add rule ip watch out oifname \"node0\" ip daddr { 10.42.0.0/16, 10.43.0.0/16 } counter'",
    );
    cluster.apply(APPLICATION);
    cluster.kubectl("rollout status deployment/echo --timeout=90s");
    cluster.kubectl("wait --for=condition=Ready pod/client --timeout=60s");
    let pods: Vec<String> = cluster
        .kubectl("get pods -l app=echo -o jsonpath='{.items[*].metadata.name}'")
        .split(' ')
        .map(str::to_owned)
        .collect();
    let service = cluster.kubectl("get service echo -o jsonpath='{.spec.clusterIP}'");

    for url in [
        &format!("http://{service}/"),
        &format!("http://{service}:81/"),
        &format!("http://{NODE}:30090/"),
        &format!("http://{NODE}:30091/"),
    ] {
        spreads(&cluster, url, &pods);
    }
    names_resolve(&cluster, &service);
    nobody_answers(&cluster);
    rules_come_back(&cluster, &service, &pods);

    let counted = cluster.inside("nft list chain ip watch out");
    assert!(counted.contains("counter packets 0 "), "untranslated packets left the node:\n{counted}");
}

/// Every pod answers.
fn spreads(cluster: &Cluster, url: &str, pods: &[String]) {
    let answers =
        cluster.inside(&format!("for i in $(seq 40); do curl -s --max-time 5 {url}; done | sort -u"));
    let mut wanted = pods.to_vec();
    wanted.sort();
    assert_eq!(answers.lines().collect::<Vec<_>>(), wanted, "through {url}");
}

fn from_pod(cluster: &Cluster, line: &str) -> Result<String, String> {
    let process = cluster.container_process("client");
    cluster.try_inside(&format!("nsenter --target {process} --net --mount -- /bin/sh -c '{line}'"))
}

fn names_resolve(cluster: &Cluster, service: &str) {
    for name in ["echo", "echo.default", "echo.default.svc.cluster.local"] {
        until(20, name, || from_pod(cluster, &format!("timeout 5 wget -q -O - http://{name}/")).is_ok());
    }
    let answer = from_pod(cluster, "nslookup -type=a echo.default.svc.cluster.local").expect("resolved");
    assert!(answer.contains(service), "{answer}");
    let headless =
        from_pod(cluster, "nslookup -type=a echo-headless.default.svc.cluster.local").expect("resolved");
    let addresses = cluster.kubectl("get pods -l app=echo -o jsonpath='{.items[*].status.podIP}'");
    for address in addresses.split(' ') {
        assert!(headless.contains(address), "{address} is not in\n{headless}");
    }
    assert!(from_pod(cluster, "nslookup -type=a missing.default.svc.cluster.local").is_err());
    let kubernetes =
        from_pod(cluster, "nslookup -type=a kubernetes.default.svc.cluster.local").expect("resolved");
    assert!(kubernetes.contains("10.43.0.1"), "{kubernetes}");
}

/// A service without endpoints refuses at once; so does an address that no service has.
fn nobody_answers(cluster: &Cluster) {
    let nobody = cluster.kubectl("get service nobody -o jsonpath='{.spec.clusterIP}'");
    for address in [&*nobody, "10.43.200.200"] {
        // 7 is curl's code for a refused connection; 28 would be waiting for luck.
        let code = cluster.inside(&format!("curl -s --max-time 5 http://{address}/; echo $?"));
        assert_eq!(code, "7", "{address} from the node");
        let refused = from_pod(cluster, &format!("timeout 5 wget -q -O - http://{address}/"))
            .expect_err("nobody answers");
        assert!(refused.contains("Connection refused"), "{address} from a pod: {refused}");
    }
    assert!(
        from_pod(cluster, "timeout 2 wget -q -O - http://10.42.250.250/").is_err(),
        "a pod address that nobody has"
    );
}

/// Others delete the rules; they are put back.
fn rules_come_back(cluster: &Cluster, service: &str, pods: &[String]) {
    let tables = cluster.inside("nft list tables | grep skiff");
    for table in tables.lines() {
        cluster.inside(&format!("nft delete {table}"));
    }
    let url = format!("http://{service}/");
    until(10, "the rules are back", || cluster.try_inside(&format!("curl -s --max-time 1 {url}")).is_ok());
    spreads(cluster, &url, pods);
}
