//! The server on loopback, with an upstream name server that the test plays: what clients see over UDP and TCP, of
//! names within and outside.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use api_machinery::entropy::Entropy;
use dns::forward::{Upstreams, read_frame, write_frame};
use dns::server::Server;
use dns::zone::Zone;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use simple_dns::rdata::{A, OPT, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, ResourceRecord, TYPE};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

const PATIENCE: Duration = Duration::from_secs(5);
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct World {
    server: SocketAddr,
    tasks: TaskTracker,
    _stop: DropGuard,
}

async fn world(zone: Zone, upstreams: Vec<SocketAddr>) -> World {
    let config = dns::Config {
        listen: LOOPBACK,
        domain: "cluster.local".to_owned(),
        upstreams: Upstreams::Fixed(upstreams),
    };
    let zone = Arc::new(RwLock::new(Arc::new(zone)));
    let server = Server::bind(&config, zone, Entropy::seeded(7)).await.unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let address = server.address().unwrap();
    server.start(&tasks, &stop);
    World { server: address, tasks, _stop: stop.drop_guard() }
}

fn service(value: serde_json::Value) -> Box<Service> {
    serde_json::from_value(value).map(Box::new).unwrap()
}

/// One Service of each sort that needs the server and not just the zone.
fn zone() -> Zone {
    let services = [
        service(
            json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": "10.43.0.9"}}),
        ),
        service(json!({"metadata": {"name": "many", "namespace": "shop"}, "spec": {"clusterIP": "None"}})),
        service(json!({"metadata": {"name": "alias", "namespace": "shop"},
                       "spec": {"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"}})),
        service(json!({"metadata": {"name": "mail", "namespace": "shop"},
                       "spec": {"type": "ExternalName", "externalName": "mx.example.org"}})),
        service(json!({"metadata": {"name": "loop", "namespace": "shop"},
                       "spec": {"type": "ExternalName", "externalName": "loop.shop.svc.cluster.local"}})),
    ];
    let endpoints: Vec<_> = (1..=200).map(|n| json!({"addresses": [format!("10.42.0.{n}")]})).collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "many-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "many"}},
        "addressType": "IPv4", "ports": [], "endpoints": endpoints
    }))
    .unwrap();
    Zone::build("cluster.local", &services, &[Box::new(slice)])
}

fn query(name: &str, size: Option<u16>) -> Vec<u8> {
    let mut packet = Packet::new_query(0x1234);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(Name::new_unchecked(name), TYPE::A.into(), CLASS::IN.into(), false));
    if let Some(udp_packet_size) = size {
        *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size, version: 0 });
    }
    packet.build_bytes_vec().unwrap()
}

async fn by_udp(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    socket.send_to(query, server).await.unwrap();
    let mut answer = vec![0; 4096];
    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut answer)).await.unwrap().unwrap();
    assert_eq!(from, server);
    answer.truncate(length);
    answer
}

async fn by_tcp(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    write_frame(&mut stream, query).await.unwrap();
    timeout(PATIENCE, read_frame(&mut stream)).await.unwrap().unwrap()
}

/// `NoError 10.43.0.9`, `NoError cut`, …: the code, names that were passed, addresses.
fn print(answer: &[u8]) -> String {
    let packet = Packet::parse(answer).unwrap();
    assert_eq!(packet.id(), 0x1234);
    let mut words = vec![format!("{:?}", packet.rcode())];
    if packet.has_flags(PacketFlag::TRUNCATION) {
        words.push("cut".to_owned());
    }
    words.extend(packet.answers.iter().map(|record| match &record.rdata {
        RData::A(a) => Ipv4Addr::from(a.address).to_string(),
        RData::CNAME(name) => format!("= {}", name.0),
        other => format!("{other:?}"),
    }));
    words.join(" ")
}

/// An upstream that knows `mx.example.org` and `example.org`, and answers other ids with lies first.
async fn upstream(tasks: &TaskTracker) -> SocketAddr {
    let tcp = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    tasks.spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
            let answer = resolve(&buffer[..length]);
            let mut forged = answer.clone();
            forged[0] ^= 0xff;
            udp.send_to(&forged, client).await.expect("the server listens");
            udp.send_to(&answer, client).await.expect("the server listens");
        }
    });
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let query = read_frame(&mut stream).await.expect("a query");
            write_frame(&mut stream, &resolve(&query)).await.expect("the server reads");
        }
    });
    address
}

fn resolve(query: &[u8]) -> Vec<u8> {
    let packet = Packet::parse(query).unwrap();
    let mut reply = Packet::new_reply(packet.id());
    reply.questions.clone_from(&packet.questions);
    let name = packet.questions[0].qname.clone();
    let address = match name.to_string().as_str() {
        "example.org" => Ipv4Addr::new(192, 0, 2, 1),
        "mx.example.org" => Ipv4Addr::new(192, 0, 2, 25),
        _ => {
            *reply.rcode_mut() = RCODE::NameError;
            return reply.build_bytes_vec().unwrap();
        }
    };
    let record = RData::A(A { address: u32::from(address) });
    reply.answers.push(ResourceRecord::new(name, CLASS::IN, 60, record));
    reply.build_bytes_vec().unwrap()
}

#[tokio::test]
async fn names_within_outside_and_through_an_alias_over_both_transports() {
    let upstream_tasks = TaskTracker::new();
    let world = world(zone(), vec![upstream(&upstream_tasks).await]).await;
    for (name, expected) in [
        ("web.shop.svc.cluster.local", "NoError 10.43.0.9"),
        ("no.shop.svc.cluster.local", "NameError"),
        ("example.org", "NoError 192.0.2.1"),
        ("nowhere.example.org", "NameError"),
        ("alias.shop.svc.cluster.local", "NoError = web.shop.svc.cluster.local 10.43.0.9"),
        ("mail.shop.svc.cluster.local", "NoError = mx.example.org 192.0.2.25"),
    ] {
        let query = query(name, None);
        assert_eq!(print(&by_udp(world.server, &query).await), expected, "{name} over UDP");
        assert_eq!(print(&by_tcp(world.server, &query).await), expected, "{name} over TCP");
    }
    let lap = print(&by_udp(world.server, &query("loop.shop.svc.cluster.local", None)).await);
    assert!(lap.starts_with("NoError = loop.shop"), "an alias of itself ends: {lap}");
    drop(world.tasks);
}

#[tokio::test]
async fn what_does_not_fit_is_cut_and_whole_over_a_connection() {
    let world = world(zone(), Vec::new()).await;
    let (small, offered) =
        (query("many.shop.svc.cluster.local", None), query("web.shop.svc.cluster.local", Some(1232)));
    assert_eq!(print(&by_udp(world.server, &small).await), "NoError cut");
    assert_eq!(print(&by_tcp(world.server, &small).await).split(' ').count(), 201);
    let answer = by_udp(world.server, &offered).await;
    assert!(
        Packet::parse(&answer).unwrap().opt().is_some(),
        "who offers a size is told that it was understood"
    );
}

#[tokio::test]
async fn before_the_api_was_read_and_without_an_upstream_the_answer_is_try_again() {
    let world = world(Zone::not_yet("cluster.local"), Vec::new()).await;
    for name in ["web.shop.svc.cluster.local", "example.org"] {
        assert_eq!(print(&by_udp(world.server, &query(name, None)).await), "ServerFailure", "{name}");
    }
}
