//! From the bytes of a query to the bytes of its answer, or to the decision that somebody else must answer. Pure.

use std::collections::BTreeSet;

use simple_dns::rdata::{A, CNAME, OPT, PTR, RData, SOA, SRV, TXT};
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE};

use crate::zone::{Data, Lookup, Zone};

/// Seconds that clients may keep an answer: short, since endpoints change.
const TTL: u32 = 5;
/// What every client accepts over UDP (RFC 1035), and the most that we send (RFC 9715 advice against fragments).
const UDP_SMALLEST: u16 = 512;
const UDP_LARGEST: u16 = 1232;

/// What to do with a query.
#[derive(Debug)]
pub enum Verdict {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask an upstream name server.
    Forward,
    /// The name is an alias of an outside one: ask an upstream name server this, and hand its answer to [`followed`].
    Follow(Vec<u8>),
    /// Not a query; say nothing.
    Ignore,
}

/// How an answer travels, which bounds its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// Up to 64 KiB.
    Tcp,
}

/// Answers a query from the zone.
pub fn answer(zone: &Zone, query: &[u8], transport: Transport) -> Verdict {
    let Ok(packet) = Packet::parse(query) else { return malformed(query) };
    if packet.has_flags(PacketFlag::RESPONSE) {
        return Verdict::Ignore;
    }
    let [question] = packet.questions.as_slice() else { return fail(&packet, RCODE::FormatError) };
    if packet.opcode() != OPCODE::StandardQuery {
        return fail(&packet, RCODE::NotImplemented);
    }
    if matches!(question.qtype, QTYPE::AXFR | QTYPE::IXFR) {
        return fail(&packet, RCODE::Refused);
    }
    let mut reply = reply_to(&packet);
    match fill(zone, question, &mut reply) {
        Filled::Complete => finish(reply, &packet, transport),
        Filled::NotOurs => Verdict::Forward,
        Filled::NotYet => fail(&packet, RCODE::ServerFailure),
        Filled::Leads(target) => match question_about(&target, question, &packet) {
            Ok(query) => Verdict::Follow(query),
            Err(_) => fail(&packet, RCODE::ServerFailure),
        },
    }
}

/// The answer to a query whose name is an alias of an outside one, given what an upstream said of that.
pub fn followed(zone: &Zone, query: &[u8], upstream: &[u8], transport: Transport) -> Verdict {
    let (Ok(packet), Ok(outside)) = (Packet::parse(query), Packet::parse(upstream)) else {
        return malformed(query);
    };
    let [question] = packet.questions.as_slice() else { return fail(&packet, RCODE::FormatError) };
    let mut reply = reply_to(&packet);
    match fill(zone, question, &mut reply) {
        Filled::Leads(_) => {}
        // The alias went while the upstream was asked.
        _ => return fail(&packet, RCODE::ServerFailure),
    }
    reply.answers.extend(outside.answers.iter().map(|record| record.clone().into_owned()));
    *reply.rcode_mut() = outside.rcode();
    if outside.has_flags(PacketFlag::TRUNCATION) {
        reply.set_flags(PacketFlag::TRUNCATION);
    }
    finish(reply, &packet, transport)
}

/// How far the zone could answer.
enum Filled {
    Complete,
    NotOurs,
    NotYet,
    /// Up to an alias of this outside name.
    Leads(String),
}

/// An alias of an alias of …: no more than this.
const ALIASES: usize = 8;

fn fill(zone: &Zone, question: &Question<'_>, reply: &mut Packet<'_>) -> Filled {
    let mut owner = question.qname.clone().into_owned();
    for _ in 0..ALIASES {
        let name = owner.to_string().to_ascii_lowercase();
        match zone.look_up(name.trim_end_matches('.')) {
            Lookup::Outside if reply.answers.is_empty() => return Filled::NotOurs,
            Lookup::Outside => return Filled::Leads(name),
            Lookup::NotYet => return Filled::NotYet,
            Lookup::Missing => *reply.rcode_mut() = RCODE::NameError,
            Lookup::Parent => {}
            Lookup::Pod(address) => push(reply, &owner, question, &Data::A(address)),
            Lookup::Found(data) => {
                data.iter().for_each(|data| push(reply, &owner, question, data));
                if let Some(target) = alias(data, question) {
                    owner = owned(target);
                    continue;
                }
            }
        }
        break;
    }
    if reply.answers.is_empty() {
        reply.name_servers.extend(authority(zone));
    }
    Filled::Complete
}

/// The other name that the question is really about. Who asks for the alias itself gets just that.
fn alias<'a>(data: &'a BTreeSet<Data>, question: &Question<'_>) -> Option<&'a str> {
    if matches!(question.qtype, QTYPE::ANY | QTYPE::TYPE(TYPE::CNAME)) {
        return None;
    }
    data.iter().find_map(|data| match data {
        Data::Cname(target) => Some(target.as_str()),
        _ => None,
    })
}

/// The same question about another name, with the client's offer of a datagram's size.
fn question_about(name: &str, question: &Question<'_>, packet: &Packet<'_>) -> simple_dns::Result<Vec<u8>> {
    let mut query = Packet::new_query(packet.id());
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    query.questions.push(Question::new(owned(name), question.qtype, question.qclass, false));
    if let Some(option) = packet.opt() {
        *query.opt_mut() = Some(own_option(option.udp_packet_size));
    }
    query.build_bytes_vec()
}

fn own_option(udp_packet_size: u16) -> OPT<'static> {
    OPT { opt_codes: Vec::new(), udp_packet_size, version: 0 }
}

/// The answer that tells the client that no upstream name server answered.
pub fn server_failure(query: &[u8]) -> Option<Vec<u8>> {
    match fail(&Packet::parse(query).ok()?, RCODE::ServerFailure) {
        Verdict::Answer(bytes) => Some(bytes),
        Verdict::Forward | Verdict::Follow(_) | Verdict::Ignore => None,
    }
}

fn reply_to<'a>(packet: &Packet<'a>) -> Packet<'a> {
    let mut reply = Packet::new_reply(packet.id());
    reply.questions.clone_from(&packet.questions);
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    if packet.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    // Who offers the extension is told that it was understood (RFC 6891).
    if packet.opt().is_some() {
        *reply.opt_mut() = Some(own_option(UDP_LARGEST));
    }
    reply
}

/// Adds a record if it is of the type asked for. An alias answers every type.
fn push(reply: &mut Packet<'_>, owner: &Name<'_>, question: &Question<'_>, data: &Data) {
    let (kind, data) = match data {
        Data::A(address) => (TYPE::A, RData::A(A { address: u32::from(*address) })),
        Data::Cname(target) => (TYPE::CNAME, RData::CNAME(CNAME(owned(target)))),
        Data::Ptr(target) => (TYPE::PTR, RData::PTR(PTR(owned(target)))),
        Data::Srv(port, target) => {
            (TYPE::SRV, RData::SRV(SRV { priority: 0, weight: 100, port: *port, target: owned(target) }))
        }
        Data::Txt(text) => match TXT::new().with_string(text) {
            Ok(text) => (TYPE::TXT, RData::TXT(text.into_owned())),
            Err(_) => return,
        },
    };
    let asked =
        matches!(question.qtype, QTYPE::ANY) || question.qtype == QTYPE::TYPE(kind) || kind == TYPE::CNAME;
    if asked {
        reply.answers.push(ResourceRecord::new(owner.clone().into_owned(), CLASS::IN, TTL, data));
    }
}

/// Names of the zone come from validated objects; the domain from a validated flag.
fn owned(name: &str) -> Name<'static> {
    Name::new_unchecked(name).into_owned()
}

/// Lets clients remember that there is no such name, for as long as they may keep an answer.
fn authority(zone: &Zone) -> Option<ResourceRecord<'static>> {
    let soa = SOA {
        mname: owned(&format!("ns.dns.{}", zone.domain())),
        rname: owned(&format!("hostmaster.{}", zone.domain())),
        serial: 1,
        refresh: 7200,
        retry: 1800,
        expire: 86400,
        minimum: TTL,
    };
    Some(ResourceRecord::new(owned(zone.domain()), CLASS::IN, TTL, RData::SOA(soa)))
}

fn finish(mut reply: Packet<'_>, query: &Packet<'_>, transport: Transport) -> Verdict {
    let limit = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => {
            let offered = query.opt().map_or(UDP_SMALLEST, |option| option.udp_packet_size);
            usize::from(offered.clamp(UDP_SMALLEST, UDP_LARGEST))
        }
    };
    match reply.build_bytes_vec_compressed() {
        Ok(bytes) if bytes.len() <= limit => Verdict::Answer(bytes),
        Ok(_) => {
            reply.answers.clear();
            reply.name_servers.clear();
            reply.set_flags(PacketFlag::TRUNCATION);
            built(&reply)
        }
        Err(_) => fail(query, RCODE::ServerFailure),
    }
}

fn fail(query: &Packet<'_>, code: RCODE) -> Verdict {
    let mut reply = reply_to(query);
    reply.remove_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    *reply.rcode_mut() = code;
    built(&reply)
}

fn built(reply: &Packet<'_>) -> Verdict {
    match reply.build_bytes_vec_compressed() {
        Ok(bytes) => Verdict::Answer(bytes),
        Err(error) => {
            tracing::debug!(%error, "an answer could not be written");
            Verdict::Ignore
        }
    }
}

/// A header is enough to say that the rest made no sense.
fn malformed(query: &[u8]) -> Verdict {
    let Some((header, _)) = query.split_first_chunk::<12>() else { return Verdict::Ignore };
    if header[2] & 0x80 != 0 {
        return Verdict::Ignore;
    }
    let mut reply = Packet::new_reply(u16::from_be_bytes([header[0], header[1]]));
    *reply.rcode_mut() = RCODE::FormatError;
    built(&reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use k8s_openapi::serde_json::{from_value, json};
    use simple_dns::QCLASS;

    fn zone(endpoints: usize) -> Zone {
        let service: Box<Service> = from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}
        }))
        .unwrap();
        let addresses: Vec<_> = (0..endpoints)
            .map(|n| json!({"addresses": [format!("10.42.{}.{}", n / 250, n % 250 + 1)]}))
            .collect();
        let slice: Box<EndpointSlice> = from_value(json!({
            "metadata": {"name": "s", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": addresses, "ports": []
        }))
        .unwrap();
        Zone::build("cluster.local", &[service], &[slice])
    }

    fn query(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        packet.questions.push(Question::new(
            Name::new_unchecked(name),
            kind.into(),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        packet.build_bytes_vec().unwrap()
    }

    fn ask(zone: &Zone, name: &str, kind: TYPE, transport: Transport) -> (RCODE, usize, bool) {
        match answer(zone, &query(name, kind), transport) {
            Verdict::Answer(bytes) => {
                let packet = Packet::parse(&bytes).unwrap();
                assert_eq!(packet.id(), 7);
                (packet.rcode(), packet.answers.len(), packet.has_flags(PacketFlag::TRUNCATION))
            }
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn names_are_found_without_regard_to_case_and_types_are_told_apart() {
        let zone = zone(3);
        let name = "Web.shop.SVC.cluster.local";
        assert_eq!(ask(&zone, name, TYPE::A, Transport::Udp), (RCODE::NoError, 3, false));
        assert_eq!(
            ask(&zone, name, TYPE::AAAA, Transport::Udp),
            (RCODE::NoError, 0, false),
            "exists, no such type"
        );
        assert_eq!(
            ask(&zone, "no.shop.svc.cluster.local", TYPE::A, Transport::Udp),
            (RCODE::NameError, 0, false)
        );
        assert!(matches!(answer(&zone, &query("example.org", TYPE::A), Transport::Udp), Verdict::Forward));
    }

    #[test]
    fn what_does_not_fit_a_datagram_is_truncated_and_whole_over_tcp() {
        let zone = zone(200);
        let name = "web.shop.svc.cluster.local";
        assert_eq!(ask(&zone, name, TYPE::A, Transport::Udp), (RCODE::NoError, 0, true));
        assert_eq!(ask(&zone, name, TYPE::A, Transport::Tcp), (RCODE::NoError, 200, false));
    }

    #[test]
    fn nonsense_is_a_format_error_and_answers_are_not_answered() {
        let zone = zone(1);
        let mut response = query("example.org", TYPE::A);
        response[2] |= 0x80;
        assert!(matches!(answer(&zone, &response, Transport::Udp), Verdict::Ignore));
        assert!(matches!(answer(&zone, b"short", Transport::Udp), Verdict::Ignore));
        let mut cut = query("web.shop.svc.cluster.local", TYPE::A);
        cut.truncate(20);
        match answer(&zone, &cut, Transport::Udp) {
            Verdict::Answer(bytes) => assert_eq!(Packet::parse(&bytes).unwrap().rcode(), RCODE::FormatError),
            other => panic!("{other:?}"),
        }
    }
}
