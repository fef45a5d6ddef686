//! A kubelet alone, which begins with a bootstrap kubeconfig and a configuration as kubeadm writes them: it gets its
//! certificates by request, and others while it runs.

use crate::components;
use crate::machine::{Cluster, Form, NODE, until};
use crate::neighbour::Neighbour;

const NAME: &str = "begun";
const ADDRESS: &str = "172.30.0.4";

const TOKEN: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
type: bootstrap.kubernetes.io/token
stringData:
  token-id: abcdef
  token-secret: 0123456789abcdef
  usage-bootstrap-authentication: "true"
"#;

/// The command line of the kubelet, whose files are written.
fn kubelet(cluster: &Cluster, machine: &Neighbour<'_>) -> String {
    let pki = cluster.kubeconfig();
    let authority = pki.with_file_name("ca.crt").display().to_string();
    let (bootstrap, config) =
        (cluster.state().join("bootstrap.kubeconfig"), cluster.state().join("kubelet.yaml"));
    let text = format!(
        "apiVersion: v1\nkind: Config\n\
         clusters: [{{name: kubernetes, cluster: {{server: 'https://{NODE}:6443', certificate-authority: {authority}}}}}]\n\
         contexts: [{{name: c, context: {{cluster: kubernetes, user: tls-bootstrap-token-user}}}}]\ncurrent-context: c\n\
         users: [{{name: tls-bootstrap-token-user, user: {{token: abcdef.0123456789abcdef}}}}]\n"
    );
    std::fs::write(&bootstrap, text).expect("written");
    let text = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         authentication: {{anonymous: {{enabled: false}}, x509: {{clientCAFile: {authority}}}}}\n\
         clusterDNS: [10.43.0.10]\nclusterDomain: cluster.local\nrotateCertificates: true\nserverTLSBootstrap: true\n"
    );
    std::fs::write(&config, text).expect("written");
    let data = machine.data();
    format!(
        "kubelet --bootstrap-kubeconfig {} --kubeconfig {}/kubelet.conf --cert-dir {}/pki --config {} --root-dir {} \
         --hostname-override {NAME} --node-ip {ADDRESS} --cgroup-root {}",
        bootstrap.display(),
        data.display(),
        data.display(),
        config.display(),
        data.display(),
        machine.cgroup(),
    )
}

#[test]
fn a_kubelet_begins_with_a_bootstrap_kubeconfig_and_its_certificates_are_renewed() {
    let Some(cluster) = Cluster::machine("bootstrap", Form::Components) else { return };
    cluster.prepare();
    components::start_control_plane(&cluster, "--cluster-signing-duration 30s");
    cluster.wait_for_server();
    cluster.apply(TOKEN);
    let machine = Neighbour::connect(&cluster, NAME, ADDRESS);
    machine.start(&[("kubelet.log", kubelet(&cluster, &machine))]);
    cluster.kubectl(&format!("wait --for=create node/{NAME} --timeout=60s"));
    cluster.kubectl(&format!("wait --for=condition=Ready node/{NAME} --timeout=60s"));
    let process = cluster.process("skiff kubelet").expect("it runs");

    let written = std::fs::read_to_string(machine.data().join("kubelet.conf")).expect("a kubeconfig");
    assert!(written.contains("kubelet-client-current.pem") && !written.contains("token"), "{written}");
    let files =
        ["client", "server"].map(|name| machine.data().join(format!("pki/kubelet-{name}-current.pem")));
    let read = || files.clone().map(|file| std::fs::read_to_string(file).unwrap_or_default());
    until(60, "there are two certificates", || read().iter().all(|text| text.contains("PRIVATE KEY")));
    let first = read();
    until(90, "each is another", || read().iter().zip(&first).all(|(new, old)| new != old));
    let kept = cluster.state().join("first.pem");
    std::fs::write(&kept, &first[0]).expect("written");
    until(60, "the first is no good any more", || {
        cluster.try_inside(&format!("openssl x509 -in {} -noout -checkend 0", kept.display())).is_err()
    });
    let lease = format!("get lease -n kube-node-lease {NAME} -o jsonpath='{{.spec.renewTime}}'");
    let renewed = cluster.kubectl(&lease);
    until(60, "the node renews its lease", || cluster.kubectl(&lease) != renewed);
    cluster.kubectl("wait --for=create serviceaccount/default --timeout=30s");
    cluster.kubectl("run there --image=skiff.local/busybox:1.35 -- sh -c 'echo hello; exec sleep 1000'");
    cluster.kubectl("wait --for=condition=Ready pod/there --timeout=60s");
    until(60, "logs arrive", || cluster.try_kubectl("logs there").is_ok_and(|log| log == "hello"));
    assert_eq!(cluster.process("skiff kubelet").as_ref(), Ok(&process), "nothing was started again");
}
