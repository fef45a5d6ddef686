//! The store from outside: what it promises, on a simulated disk that fails and on a real one.

mod contract;
mod damage;
mod faults;
mod kill;
mod ledger;
mod model;
mod power;
mod secrets;
mod support;
