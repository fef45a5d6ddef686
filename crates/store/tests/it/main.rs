//! The store from outside: what it promises, on a simulated disk that fails and on a real one.

mod contract;
mod support;
