//! A whole cluster in one thread on virtual time: the real API server on a simulated disk, the real scheduler and
//! controllers, scripted kubelets. A seed decides everything that chance decides, so a seed gives the same trace twice.
//!
//! Scenarios are text (`scenarios/`), and what they check is read from the store's raw bytes: the checkers know nothing of
//! the code that they check. Test-only; nothing here ships.

pub mod cluster;
pub mod faults;
pub mod kubelet;
mod laws;
pub mod observer;
pub mod run;
pub mod sabotage;
pub mod scenario;
