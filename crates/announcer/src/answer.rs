//! What is said on the wire: answers to those who ask, and announcements to all. Pure.

use std::net::Ipv4Addr;

use host::arp::{MacAddress, Operation, Packet, Station};

/// What a packet of somebody else asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing.
    None,
    /// To be told this.
    Answer(Packet),
    /// Somebody else says that he has this address of ours.
    Contested(Ipv4Addr),
}

/// What to do about a packet. `own` is our hardware address; `held` says which addresses are ours to answer for.
pub fn react(packet: &Packet, own: MacAddress, held: impl Fn(Ipv4Addr) -> bool) -> Reaction {
    let Packet { operation, sender, target } = packet;
    if sender.mac == own {
        return Reaction::None;
    }
    if held(sender.address) {
        return Reaction::Contested(sender.address);
    }
    if *operation == Operation::Request && held(target.address) {
        let ours = Station { mac: own, address: target.address };
        return Reaction::Answer(Packet { operation: Operation::Reply, sender: ours, target: *sender });
    }
    Reaction::None
}

/// What is told to all when an address is taken over: as a question and as an answer, since some listen to only one of them.
#[must_use]
pub fn announcements(address: Ipv4Addr, own: MacAddress) -> [Packet; 2] {
    let sender = Station { mac: own, address };
    let nobody = Station { mac: MacAddress::UNKNOWN, address };
    [
        Packet { operation: Operation::Request, sender, target: nobody },
        Packet { operation: Operation::Reply, sender, target: sender },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    fn at(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn reaction(operation: Operation, sender: (MacAddress, u8), target: u8) -> Reaction {
        let sender = Station { mac: sender.0, address: at(sender.1) };
        let target = Station { mac: MacAddress::UNKNOWN, address: at(target) };
        react(&Packet { operation, sender, target }, OWN, |address| address == at(9))
    }

    #[test]
    fn who_asks_for_ours_is_answered() {
        let ours = Station { mac: OWN, address: at(9) };
        let asker = Station { mac: OTHER, address: at(3) };
        let answer = Packet { operation: Operation::Reply, sender: ours, target: asker };
        assert_eq!(reaction(Operation::Request, (OTHER, 3), 9), Reaction::Answer(answer));
        // A machine that looks whether the address is free hears that it is not.
        let probe = Station { mac: OTHER, address: Ipv4Addr::UNSPECIFIED };
        let question = Packet { operation: Operation::Request, sender: probe, target: ours };
        let heard = react(&question, OWN, |address| address == at(9));
        assert_eq!(heard, Reaction::Answer(Packet { target: probe, ..answer }));
    }

    #[test]
    fn all_else_is_left_to_others() {
        for (operation, sender, target) in [
            (Operation::Request, (OTHER, 3), 8),
            (Operation::Reply, (OTHER, 3), 9),
            (Operation::Reply, (OTHER, 3), 8),
            (Operation::Request, (OWN, 9), 9),
        ] {
            assert_eq!(
                reaction(operation, sender, target),
                Reaction::None,
                "{operation:?} {sender:?} {target}"
            );
        }
    }

    #[test]
    fn whoever_claims_ours_is_noticed() {
        for operation in [Operation::Request, Operation::Reply] {
            for target in [9, 3] {
                assert_eq!(reaction(operation, (OTHER, 9), target), Reaction::Contested(at(9)));
            }
        }
        for packet in announcements(at(9), OTHER) {
            assert_eq!(react(&packet, OWN, |address| address == at(9)), Reaction::Contested(at(9)));
            assert_eq!(react(&packet, OTHER, |_| true), Reaction::None, "what we say ourselves is no news");
        }
    }
}
