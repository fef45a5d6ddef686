//! A cloud from end to end: kubelets that wait for it, `skiff cloud-controller-manager` in processes of its own and as
//! nobody but itself, and moto, a simulated AWS, on the machine's loopback. What goes wrong in a cloud is tested in
//! `crates/cloud`, behind a proxy that breaks requests.

use crate::components::{self, ELECTION, Node};
use crate::machine::{Cluster, Form, NODE, repository, until};
use crate::neighbour::Neighbour;

/// The private names that the cloud gives to machines with these addresses: the first node is found by it.
const FIRST: &str = "ip-172-30-0-2.ec2.internal";
/// The second says what it is.
const SECOND: &str = "second";
const SECOND_ADDRESS: &str = "172.30.0.3";
/// Where the cloud listens.
const CLOUD: &str = "http://127.0.0.1:5000/";

/// The simulated cloud.
struct Moto<'a> {
    cluster: &'a Cluster,
    vpc: String,
    subnet: String,
}

/// The texts of all elements of a name.
fn values(answer: &str, element: &str) -> Vec<String> {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let parts = answer.split(&open).skip(1);
    parts.filter_map(|part| part.split(&close).next()).map(str::to_owned).collect()
}

impl<'a> Moto<'a> {
    /// A cloud with a network of the cluster's addresses in two zones; `None`, loudly, where there is no moto.
    fn start(cluster: &'a Cluster) -> Option<Moto<'a>> {
        let program = repository().join("out/moto/bin/moto_server");
        if !program.exists() {
            let required = std::env::var_os("SKIFF_REQUIRE_CONTAINERD").is_some_and(|value| value == "1");
            assert!(!required, "{} is not there (scripts/setup --tests)", program.display());
            eprintln!("SKIPPED: {} is not there (scripts/setup --tests)", program.display());
            return None;
        }
        let log = cluster.state().join("moto.log");
        cluster.inside(&format!(
            "setsid {} -H 127.0.0.1 -p 5000 </dev/null >{} 2>&1 &",
            program.display(),
            log.display()
        ));
        let mut moto = Moto { cluster, vpc: String::new(), subnet: String::new() };
        until(60, "the cloud answers", || moto.try_ask("ec2", "Action=DescribeVpcs").is_ok());
        moto.vpc = moto.value("Action=CreateVpc&CidrBlock=172.30.0.0/16", "vpcId");
        let subnet = |range: &str, zone: &str| {
            let action =
                format!("Action=CreateSubnet&VpcId={}&CidrBlock={range}&AvailabilityZone={zone}", moto.vpc);
            moto.value(&action, "subnetId")
        };
        let subnets = [subnet("172.30.0.0/24", "us-east-1a"), subnet("172.30.1.0/24", "us-east-1b")];
        let tag = "Tag.1.Key=kubernetes.io/role/elb&Tag.1.Value=1";
        moto.ask(
            "ec2",
            &format!("Action=CreateTags&ResourceId.1={}&ResourceId.2={}&{tag}", subnets[0], subnets[1]),
        );
        let [first, _] = subnets;
        moto.subnet = first;
        Some(moto)
    }

    fn try_ask(&self, service: &str, action: &str) -> Result<String, String> {
        let version = if service == "ec2" { "2016-11-15" } else { "2015-12-01" };
        let scope = format!("AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request");
        self.cluster.try_inside(&format!(
            "curl -sf --max-time 20 {CLOUD} -H 'Authorization: {scope}, SignedHeaders=host, Signature=0' \
             -d '{action}&Version={version}'"
        ))
    }

    fn ask(&self, service: &str, action: &str) -> String {
        self.try_ask(service, action).unwrap_or_else(|error| panic!("{action}: {error}"))
    }

    /// The first element of this name in an answer of EC2's.
    fn value(&self, action: &str, element: &str) -> String {
        values(&self.ask("ec2", action), element).into_iter().next().unwrap_or_default()
    }

    /// Starts a machine; returns its ID.
    fn run_instance(&self, address: &str) -> String {
        let action = "Action=RunInstances&ImageId=ami-12c6146b&InstanceType=m5.large&MinCount=1&MaxCount=1";
        let place = format!("SubnetId={}&PrivateIpAddress={address}", self.subnet);
        self.value(&format!("{action}&{place}"), "instanceId")
    }

    /// The numbers of load balancers, listeners and target groups.
    fn balancers(&self) -> (usize, usize, usize) {
        let elb = |action: &str| self.ask("elasticloadbalancing", action);
        let balancers = values(&elb("Action=DescribeLoadBalancers"), "LoadBalancerArn");
        let listeners = balancers.iter().map(|arn| {
            let action = format!("Action=DescribeListeners&LoadBalancerArn={arn}");
            values(&elb(&action), "ListenerArn").len()
        });
        let groups = values(&elb("Action=DescribeTargetGroups"), "TargetGroupName");
        (balancers.len(), listeners.sum(), groups.len())
    }

    /// Where the only target group sends connections: machine and port.
    fn targets(&self) -> Vec<String> {
        let elb = |action: &str| self.ask("elasticloadbalancing", action);
        let groups = values(&elb("Action=DescribeTargetGroups"), "TargetGroupArn");
        let Some(group) = groups.first() else { return Vec::new() };
        let health = elb(&format!("Action=DescribeTargetHealth&TargetGroupArn={group}"));
        let ports = values(&health, "Port");
        let mut targets: Vec<String> =
            values(&health, "Id").iter().zip(ports).map(|(id, port)| format!("{id}:{port}")).collect();
        targets.sort();
        targets
    }

    /// What the only volume of a claim is: its size, its state, and the machine that it is attached to.
    fn volume(&self) -> Option<(String, String, Option<String>)> {
        let all = self.ask(
            "ec2",
            "Action=DescribeVolumes&Filter.1.Name=tag-key&Filter.1.Value.1=skiff.dev/persistent-volume",
        );
        let sizes = values(&all, "size");
        assert!(sizes.len() < 2, "several volumes: {all}");
        // The state of a volume comes before that of its attachment.
        let first = |element: &str| values(&all, element).into_iter().next();
        Some((sizes.into_iter().next()?, first("status")?, first("instanceId")))
    }
}

/// Starts a cloud controller manager on this port, with this log.
fn start_manager(cluster: &Cluster, moto: &Moto<'_>, port: u16) {
    let config = cluster.state().join("cloud.yaml");
    let text = format!(
        "aws: {{region: us-east-1, vpc: {}, ec2Endpoint: \"{CLOUD}\", elbEndpoint: \"{CLOUD}\"}}\n",
        moto.vpc
    );
    std::fs::write(&config, text).expect("a configuration");
    let kubeconfig = cluster.kubeconfig().with_file_name("cloud-controller-manager.kubeconfig");
    cluster.start_skiff_with(
        "AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test",
        &format!("cloud-controller-manager-{port}.log"),
        &format!(
            "cloud-controller-manager --kubeconfig {} --cloud-provider aws --cloud-config {} --cluster-name test \
             --configure-cloud-routes=false --node-monitor-period 1s --secure-port {port} {ELECTION}",
            kubeconfig.display(),
            config.display()
        ),
    );
}

const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";

/// What the cloud says of a node, once it is there.
fn initialized(cluster: &Cluster, node: &str, instance: &str) {
    let node = format!("node/{node}");
    let id = format!("aws:///us-east-1a/{instance}");
    cluster.wait_for(60, &node, ".spec.providerID", |found| found == id);
    cluster.wait_for(60, &node, ".spec.taints[*].key", |found| !found.contains(UNINITIALIZED));
    for (label, value) in [
        ("topology\\.kubernetes\\.io/zone", "us-east-1a"),
        ("topology\\.kubernetes\\.io/region", "us-east-1"),
        ("node\\.kubernetes\\.io/instance-type", "m5.large"),
    ] {
        cluster.wait_for(30, &node, &format!(".metadata.labels.{label}"), |found| found == value);
    }
    cluster.wait_for(30, &node, ".status.addresses[*].type", |found| found.contains("InternalDNS"));
    cluster.kubectl(&format!("wait --for=condition=Ready {node} --timeout=60s"));
}

const APPLICATION: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ebs}
provisioner: ebs.aws.skiff.dev
allowVolumeExpansion: true
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {storageClassName: ebs, accessModes: [ReadWriteOnce], resources: {requests: {storage: 3Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: db}
spec:
  nodeName: ip-172-30-0-2.ec2.internal
  terminationGracePeriodSeconds: 1
  containers: [{name: db, image: "skiff.local/busybox:1.35", command: [sleep, "1000"]}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
"#;

#[test]
fn a_cloud_makes_nodes_balancers_and_volumes_and_nothing_is_left() {
    let Some(cluster) = Cluster::machine("cloud", Form::Components) else { return };
    let Some(moto) = Moto::start(&cluster) else { return };
    let one = moto.run_instance(NODE);
    cluster.prepare();
    components::start_control_plane(&cluster, "--node-monitor-grace-period 20s");
    cluster.wait_for_server();
    cluster.certify_node(FIRST, NODE);
    let first = Node { name: FIRST, kubelet: "--cloud-provider=external", ..Node::first(&cluster) };
    components::start_node(&cluster, &first);
    cluster.kubectl(&format!("wait --for=create node/{FIRST} --timeout=60s"));
    let taints = cluster.kubectl(&format!("get node {FIRST} -o jsonpath='{{.spec.taints[*].key}}'"));
    assert!(taints.contains(UNINITIALIZED), "{taints}");

    start_manager(&cluster, &moto, 10258);
    initialized(&cluster, FIRST, &one);
    let leader = holder(&cluster);
    start_manager(&cluster, &moto, 10268);

    let two = moto.run_instance(SECOND_ADDRESS);
    let machine = Neighbour::connect(&cluster, SECOND, SECOND_ADDRESS);
    machine.start_components(&format!("--cloud-provider=external --provider-id aws:///us-east-1a/{two}"));
    cluster.apply(APPLICATION);
    cluster.kubectl(&format!("wait --for=create node/{SECOND} --timeout=60s"));
    initialized(&cluster, SECOND, &two);
    balanced(&cluster, &moto, [&one, &two]);
    volume(&cluster, &moto, &one);
    assert_eq!(holder(&cluster), leader, "the second waits");

    cluster.kill_nine("secure-port 10258");
    until(60, "the second leads", || holder(&cluster) != leader);
    moto.ask("ec2", &format!("Action=TerminateInstances&InstanceId.1={two}"));
    machine.switch_off();
    until(90, "the node goes with its machine", || {
        cluster.kubectl("get nodes -o name") == format!("node/{FIRST}")
    });
    until(60, "its target goes too", || moto.targets() == [format!("{one}:30080")]);
    // What the cloud said was not the kubelet's to forget.
    initialized(&cluster, FIRST, &one);
    cluster.kubectl("delete service web --timeout=60s");
    assert_eq!(moto.balancers(), (0, 0, 0), "nothing is left");
    let denied = "grep -h -i forbidden";
    let said =
        cluster.try_inside(&format!("{denied} {}/cloud-controller-manager-*.log", cluster.state().display()));
    assert!(said.is_err(), "its role is too small: {said:?}");
    let process = cluster.process("skiff cloud-controller-manager").expect("it leads");
    cluster.inside(&format!("kill {process}"));
    cluster.wait_for_end(&process);
    assert_eq!(holder(&cluster), "", "whoever waited would lead at once");
}

fn holder(cluster: &Cluster) -> String {
    cluster.kubectl(
        "get lease cloud-controller-manager --namespace kube-system -o jsonpath='{.spec.holderIdentity}'",
    )
}

/// A Service has its balancer, which leads to both machines.
fn balanced(cluster: &Cluster, moto: &Moto<'_>, machines: [&str; 2]) {
    cluster.wait_for(60, "service/web", ".status.loadBalancer.ingress[0].hostname", |name| {
        name.contains(".elb.")
    });
    assert_eq!(moto.balancers(), (1, 1, 1));
    let mut wanted = machines.map(|machine| format!("{machine}:30080"));
    wanted.sort();
    until(60, "both machines are targets", || moto.targets() == wanted);
}

/// A claim gets its volume, which is attached where its pod is, grows, and goes.
fn volume(cluster: &Cluster, moto: &Moto<'_>, machine: &str) {
    cluster.wait_for(60, "pvc/data", ".status.phase", |phase| phase == "Bound");
    let attached = Some(machine.to_owned());
    let is = |size: &str, state: &str, attached: &Option<String>| {
        moto.volume() == Some((size.to_owned(), state.to_owned(), attached.clone()))
    };
    until(60, "attached", || is("3", "in-use", &attached));
    cluster.wait_for(60, "volumeattachments", ".items[*].status.attached", |all| all == "true");
    cluster.kubectl(
        "patch pvc data --type merge -p '{\"spec\": {\"resources\": {\"requests\": {\"storage\": \"5Gi\"}}}}'",
    );
    // The claim's own capacity waits for a file system to grow, which nobody has mounted.
    cluster.wait_for(60, "pv", ".items[*].spec.capacity.storage", |size| size == "5Gi");
    until(60, "grown", || is("5", "in-use", &attached));
    cluster.kubectl("delete pod db --timeout=60s");
    until(60, "detached", || is("5", "available", &None));
    cluster.kubectl("delete pvc data --timeout=60s");
    until(60, "deleted", || moto.volume().is_none());
    until(60, "nothing is left", || cluster.kubectl("get pv,volumeattachments -o name").is_empty());
}
