//! The stores from outside: what they promise, on a simulated disk that fails, on a real one, and on real etcd members.

mod contract;
mod damage;
mod etcd;
mod faults;
mod held_disk;
mod kill;
mod ledger;
mod model;
mod power;
mod secrets;
mod support;
