//! The AWS provider when the cloud throttles, breaks, loses answers, lies, or sends pages.

use std::collections::BTreeMap;
use std::time::Duration;

use cloud::aws::client::Parameters;
use cloud::provider::{
    Answer, LoadBalancerPort, LoadBalancerSpec, LoadBalancers, NodeRef, Progress, ProviderError, Route,
    Routes, ServiceId, VolumeSpec, Volumes,
};
use component::ObjectKey;

use crate::moto::{Fault, Moto, error, settle, values};

pub fn service(uid: &str) -> ServiceId {
    ServiceId { key: ObjectKey::new("default", "web"), uid: uid.to_owned() }
}

pub fn spec(uid: &str, ports: &[(&str, u16, u16)], nodes: &[&str]) -> LoadBalancerSpec {
    let port = |(protocol, port, node_port): &(&str, u16, u16)| LoadBalancerPort {
        protocol: (*protocol).to_owned(),
        port: *port,
        node_port: *node_port,
    };
    let node = |id: &&str| NodeRef {
        name: (*id).to_owned(),
        provider_id: Some(format!("aws:///us-east-1a/{id}")),
        addresses: Vec::new(),
    };
    LoadBalancerSpec {
        service: service(uid),
        ports: ports.iter().map(port).collect(),
        nodes: nodes.iter().map(node).collect(),
        health_check_port: None,
        requested_address: None,
        annotations: BTreeMap::new(),
    }
}

#[tokio::test]
async fn a_load_balancer_is_made_changed_and_removed() {
    let Some(moto) = Moto::start().await else { return };
    let provider = moto.provider();
    let aws: &dyn LoadBalancers = &provider;
    let (one, two) = (moto.run_instance().await, moto.run_instance().await);
    let wanted = spec("u1", &[("TCP", 80, 30080), ("UDP", 53, 30053)], &[&one]);
    let refused = aws.ensure(&wanted).await.expect_err("no subnets");
    assert!(refused.to_string().ends_with("is tagged kubernetes.io/role/elb"), "{refused}");
    moto.tag_subnets().await;
    let ingress = aws.ensure(&wanted).await.expect("made");
    assert!(ingress[0].hostname.as_deref().is_some_and(|name| name.contains("elb")), "{ingress:?}");
    assert_eq!(moto.balancers().await, (1, 2, 2));
    assert_eq!(moto.targets().await, [format!("{one}:30053"), format!("{one}:30080")]);
    // Again: nothing is written.
    let writes = |moto: &Moto| {
        [
            "CreateLoadBalancer",
            "CreateListener",
            "ModifyListener",
            "CreateTargetGroup",
            "ModifyTargetGroup",
            "RegisterTargets",
        ]
        .iter()
        .map(|action| moto.count(action))
        .sum::<usize>()
    };
    let before = writes(&moto);
    assert_eq!(aws.ensure(&wanted).await.expect("as it was"), ingress);
    assert_eq!(writes(&moto), before);
    // Other nodes.
    aws.update(&spec("u1", &[("TCP", 80, 30080), ("UDP", 53, 30053)], &[&two])).await.expect("updated");
    assert_eq!(moto.targets().await, [format!("{two}:30053"), format!("{two}:30080")]);
    // Other ports: a protocol that changes, a node port that moves, one more, one less.
    let changed = spec("u1", &[("TCP", 53, 30054), ("TCP", 443, 30443)], &[&one, &two]);
    assert_eq!(aws.ensure(&changed).await.expect("changed"), ingress);
    assert_eq!(moto.balancers().await, (1, 2, 2));
    assert_eq!(moto.targets().await.len(), 4);
    // Another Service's is left alone.
    aws.ensure(&spec("u2", &[("TCP", 80, 31080)], &[&one])).await.expect("another");
    assert_eq!(moto.balancers().await, (2, 3, 3));
    aws.delete(&service("u1")).await.expect("removed");
    aws.delete(&service("u1")).await.expect("removed before");
    assert_eq!(moto.balancers().await, (1, 1, 1));
    moto.stop().await;
}

#[tokio::test]
async fn whichever_request_breaks_nothing_is_made_twice_and_nothing_is_left() {
    let Some(moto) = Moto::start().await else { return };
    moto.tag_subnets().await;
    let node = moto.run_instance().await;
    let provider = moto.provider();
    let aws: &dyn LoadBalancers = &provider;
    let wanted = spec("u1", &[("TCP", 80, 30080), ("TCP", 443, 30443)], &[&node]);
    let steps = ["CreateLoadBalancer", "CreateTargetGroup", "RegisterTargets", "CreateListener"];
    for broken in steps {
        // Half-way: whatever is retried. Then the Service is deleted.
        moto.fail(broken, (0..4).map(|_| Fault::Refuse(503, None, error("ServiceUnavailable"))));
        let failed = aws.ensure(&wanted).await.expect_err("half-way");
        assert!(matches!(failed, ProviderError::Transient(_)), "{failed}");
        moto.calm();
        aws.delete(&wanted.service).await.expect("removed");
        assert_eq!(moto.balancers().await, (0, 0, 0), "after {broken}");
        // Done, but nobody heard: the repeated request finds what there is.
        moto.fail(broken, [Fault::LoseAnswer]);
        if aws.ensure(&wanted).await.is_err() {
            aws.ensure(&wanted).await.expect("the second time");
        }
        assert_eq!(moto.balancers().await, (1, 2, 2), "after a lost answer of {broken}");
        for broken in ["DeleteLoadBalancer", "DeleteTargetGroup"] {
            moto.fail(broken, (0..4).map(|_| Fault::Refuse(500, None, String::new())));
            aws.delete(&wanted.service).await.expect_err("half-way");
        }
        aws.delete(&wanted.service).await.expect("removed");
        assert_eq!(moto.balancers().await, (0, 0, 0));
    }
    // A deletion that is only said to be done is not believed.
    aws.ensure(&wanted).await.expect("made");
    moto.fail("DeleteLoadBalancer", [Fault::Lie("<DeleteLoadBalancerResponse/>".to_owned())]);
    aws.delete(&wanted.service).await.expect_err("it is still there");
    aws.delete(&wanted.service).await.expect("removed");
    assert_eq!(moto.balancers().await, (0, 0, 0));
    moto.stop().await;
}

#[tokio::test]
async fn throttling_is_retried_for_a_moment_and_then_told() {
    let Some(moto) = Moto::start().await else { return };
    let provider = moto.provider();
    let aws: &dyn Volumes = &provider;
    let throttle = |seconds| Fault::Refuse(503, seconds, error("RequestLimitExceeded"));
    moto.fail(
        "DescribeVolumes",
        [throttle(None), throttle(Some(1)), Fault::Refuse(429, None, String::new())],
    );
    aws.delete("vol-0123456789abcdef0").await.expect("what is gone is deleted");
    assert_eq!(moto.count("DescribeVolumes"), 5, "three times refused, and told twice");
    moto.fail("DescribeVolumes", [throttle(Some(40))]);
    let told = aws.delete("vol-0123456789abcdef0").await.expect_err("throttled");
    assert!(
        matches!(told, ProviderError::Throttled { retry_after, .. } if retry_after == Duration::from_secs(40)),
        "{told}"
    );
    assert_eq!(moto.count("DescribeVolumes"), 6, "the cloud is left in peace");
    moto.stop().await;
}

#[tokio::test]
async fn answers_that_cannot_be_believed_change_nothing() {
    let Some(moto) = Moto::start().await else { return };
    let provider = moto.provider();
    let aws: &dyn Volumes = &provider;
    let nonsense = ["not XML", "<Response>", "", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"];
    for body in nonsense {
        moto.fail("DescribeVolumes", [Fault::Lie(body.to_owned())]);
        let failed = aws.delete("vol-1").await.expect_err("no answer");
        assert!(matches!(failed, ProviderError::Transient(_)), "{failed}");
    }
    // Larger than any page, and pages without end.
    moto.fail("DescribeVolumes", (0..4).map(|_| Fault::Lie(format!("<a>{}</a>", " ".repeat(9 << 20)))));
    aws.delete("vol-1").await.expect_err("too large");
    let page = "<R><volumeSet/><nextToken>again</nextToken></R>".to_owned();
    moto.fail("DescribeVolumes", [Fault::Lie(page.clone()), Fault::Lie(page)]);
    let endless = aws.delete("vol-1").await.expect_err("endless");
    assert!(endless.to_string().contains("does not end"), "{endless}");
    // Permanent refusals are not repeated.
    let before = moto.count("DescribeVolumes");
    moto.fail("DescribeVolumes", [Fault::Refuse(403, None, error("UnauthorizedOperation"))]);
    let refused = aws.delete("vol-1").await.expect_err("forbidden");
    assert!(matches!(refused, ProviderError::Permanent(_)), "{refused}");
    assert_eq!(moto.count("DescribeVolumes"), before + 1);
    moto.stop().await;
}

#[tokio::test]
async fn lists_are_followed_to_their_last_page() {
    let Some(moto) = Moto::start().await else { return };
    let provider = moto.provider();
    let aws: &dyn LoadBalancers = &provider;
    let group = |name: &str| {
        format!(
            "<member><TargetGroupName>{name}</TargetGroupName><TargetGroupArn>arn:{name}</TargetGroupArn></member>"
        )
    };
    let page = |groups: &str, next: &str| {
        Fault::Lie(format!(
            "<DescribeTargetGroupsResponse><DescribeTargetGroupsResult><TargetGroups>{groups}</TargetGroups>{next}</DescribeTargetGroupsResult></DescribeTargetGroupsResponse>"
        ))
    };
    moto.fail(
        "DescribeTargetGroups",
        [page(&group("other"), "<NextMarker>2</NextMarker>"), page(&group("x"), "")],
    );
    aws.delete(&service("u1")).await.expect("nothing to do");
    assert_eq!((moto.count("DescribeTargetGroups"), moto.count("DeleteTargetGroup")), (2, 0));
    moto.stop().await;
}

fn volume(name: &str) -> VolumeSpec {
    VolumeSpec {
        name: name.to_owned(),
        claim: ObjectKey::new("default", "data"),
        gibibytes: 3,
        zone: None,
        parameters: BTreeMap::from([("type".to_owned(), "gp2".to_owned())]),
    }
}

#[tokio::test]
async fn a_volume_is_made_once_attached_grown_and_removed() {
    let Some(moto) = Moto::start().await else { return };
    let provider = moto.provider();
    let aws: &dyn Volumes = &provider;
    let id = moto.run_instance().await;
    let node = NodeRef {
        name: "n".to_owned(),
        provider_id: Some(format!("aws:///us-east-1a/{id}")),
        addresses: Vec::new(),
    };
    let wanted = volume("pvc-1");
    moto.fail(
        "CreateVolume",
        [Fault::LoseAnswer, Fault::Refuse(503, Some(30), error("RequestLimitExceeded"))],
    );
    let broken = aws.create(&volume("pvc-1")).await.expect_err("the answer was lost");
    assert!(matches!(broken, ProviderError::Throttled { .. }), "{broken}");
    let made = settle(|| aws.create(&wanted)).await;
    assert_eq!((made.gibibytes, made.zone.as_str()), (3, "us-east-1a"));
    assert_eq!(moto.volumes().await, std::slice::from_ref(&made.handle), "only one");
    let device = settle(|| aws.attach(&made.handle, &node)).await;
    assert_eq!(device, "/dev/sdf");
    assert_eq!(settle(|| aws.attach(&made.handle, &node)).await, device);
    let other = moto.run_instance().await;
    let elsewhere = NodeRef { provider_id: Some(format!("aws:///us-east-1a/{other}")), ..node.clone() };
    let busy = aws.attach(&made.handle, &elsewhere).await.expect_err("it is attached");
    assert!(matches!(busy, ProviderError::Transient(_)), "{busy}");
    aws.delete(&made.handle).await.expect_err("in use");
    assert_eq!(settle(|| aws.resize(&made.handle, 5)).await, 5);
    settle(|| aws.detach(&made.handle, &node)).await;
    settle(|| aws.detach(&made.handle, &node)).await;
    aws.delete_by_name("pvc-1").await.expect("removed");
    aws.delete(&made.handle).await.expect("removed before");
    assert!(moto.volumes().await.is_empty());
    assert_eq!(aws.detach(&made.handle, &node).await, Ok(Progress::Done(())));
    moto.stop().await;
}

/// Tries until something is done, as controllers do, whatever goes wrong meanwhile for a moment.
async fn insist<T, F>(mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Answer<Progress<T>>>,
{
    for _ in 0..20 {
        match ask().await {
            Ok(Progress::Done(done)) => return done,
            Ok(Progress::Pending) | Err(ProviderError::Transient(_) | ProviderError::Throttled { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("never done");
}

/// The whole life of a volume; afterwards nothing is there.
async fn live(moto: &Moto, aws: &dyn Volumes, node: &NodeRef, name: &str) {
    let wanted = volume(name);
    let made = insist(|| aws.create(&wanted)).await;
    assert_eq!(moto.volumes().await, std::slice::from_ref(&made.handle), "{name}: only one");
    insist(|| aws.attach(&made.handle, node)).await;
    assert_eq!(insist(|| aws.resize(&made.handle, 5)).await, 5);
    insist(|| aws.detach(&made.handle, node)).await;
    insist(|| async { aws.delete(&made.handle).await.map(Progress::Done) }).await;
    assert!(moto.volumes().await.is_empty(), "{name}: nothing is left");
    assert!(moto.is_calm(), "{name}: it went wrong as it was told to");
}

#[tokio::test]
async fn whichever_request_of_a_volume_breaks_there_is_one_and_none_in_the_end() {
    let Some(moto) = Moto::start().await else { return };
    let provider = moto.provider();
    let aws: &dyn Volumes = &provider;
    let id = moto.run_instance().await;
    let provider_id = Some(format!("aws:///us-east-1a/{id}"));
    let node = NodeRef { name: "n".to_owned(), provider_id, addresses: Vec::new() };
    for broken in ["CreateVolume", "AttachVolume", "ModifyVolume", "DetachVolume", "DeleteVolume"] {
        // Done, but nobody heard: a creation is asked for again by the same token.
        moto.fail(broken, [Fault::LoseAnswer]);
        live(&moto, aws, &node, &format!("pvc-lost-{broken}")).await;
        let refusals = [
            Fault::Refuse(500, None, String::new()),
            Fault::Refuse(503, None, error("ServiceUnavailable")),
            Fault::Refuse(503, Some(30), error("RequestLimitExceeded")),
        ];
        moto.fail(broken, refusals);
        live(&moto, aws, &node, &format!("pvc-refused-{broken}")).await;
    }
    moto.stop().await;
}

/// That there is no such volume is said of one that is there.
#[tokio::test]
async fn a_volume_that_is_denied_once_is_made_once_and_removed() {
    let Some(moto) = Moto::start().await else { return };
    let provider = moto.provider();
    let aws: &dyn Volumes = &provider;
    let denial = || Fault::Lie("<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>".to_owned());
    let unknown = || Fault::Refuse(400, None, error("InvalidVolume.NotFound"));
    for (number, denied) in [denial, unknown].iter().enumerate() {
        let name = format!("pvc-denied-{number}");
        let wanted = volume(&name);
        let made = settle(|| aws.create(&wanted)).await;
        moto.fail("DescribeVolumes", [denied()]);
        assert_eq!(settle(|| aws.create(&wanted)).await.handle, made.handle);
        assert_eq!(moto.volumes().await, std::slice::from_ref(&made.handle), "only one");
        moto.fail("DescribeVolumes", [denied()]);
        assert_eq!(settle(|| aws.resize(&made.handle, 5)).await, 5);
        moto.fail("DescribeVolumes", [denied()]);
        match number {
            0 => aws.delete(&made.handle).await.expect("removed"),
            _ => aws.delete_by_name(&name).await.expect("removed"),
        }
        assert!(moto.volumes().await.is_empty(), "nothing is left");
    }
    moto.stop().await;
}

#[tokio::test]
async fn what_is_not_the_clusters_is_not_deleted() {
    let Some(moto) = Moto::start().await else { return };
    let provider = moto.provider();
    let aws: &dyn Volumes = &provider;
    let parameters = Parameters::default().with("AvailabilityZone", "us-east-1a").with("Size", "1");
    let foreign = moto.value("CreateVolume", parameters, "volumeId").await;
    let refused = aws.delete(&foreign).await.expect_err("refused");
    assert!(refused.to_string().contains("not this cluster's"), "{refused}");
    let unknown =
        VolumeSpec { parameters: BTreeMap::from([("speed".to_owned(), "9".to_owned())]), ..volume("pvc-2") };
    let refused = aws.create(&unknown).await.expect_err("refused");
    assert!(refused.to_string().contains("\"speed\" is unknown"), "{refused}");
    moto.stop().await;
}

#[tokio::test]
async fn routes_are_made_moved_and_removed() {
    let Some(moto) = Moto::start().await else { return };
    let table =
        values(&moto.ec2("DescribeRouteTables", Parameters::default()).await, "routeTableId").remove(0);
    let provider = moto.provider_with(cloud::aws::AwsConfig { route_table: Some(table), ..moto.config() });
    let aws: &dyn Routes = &provider;
    let (one, two) = (moto.run_instance().await, moto.run_instance().await);
    let to = |machine: &str| Route {
        provider_id: format!("aws:///{machine}"),
        cidr: "10.42.1.0/24".to_owned(),
        blackhole: false,
    };
    aws.create(&to(&one)).await.expect("made");
    assert_eq!(aws.list().await, Ok(vec![to(&one)]));
    aws.create(&to(&two)).await.expect("moved");
    assert_eq!(aws.list().await, Ok(vec![to(&two)]));
    aws.delete(&to(&two)).await.expect("removed");
    aws.delete(&to(&two)).await.expect("removed before");
    assert_eq!(aws.list().await, Ok(Vec::new()));
    moto.stop().await;
}
