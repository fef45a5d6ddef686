//! Assigns pods to nodes. Deciding is pure: [`columns`] hold what nodes have and pods take, [`filter`] says where a pod
//! can run, [`neighbours`] what the pods around mean for it, [`score`] where it had best run, [`decide`] keeps the reasons, [`preempt`] finds
//! who makes room, [`queue`] says whose turn it is, and
//! [`scheduler`] ties them together. Only [`run`] talks to the API.
//!
//! Deliberately absent so far: volumes and claims.

pub mod columns;
pub mod crowd;
pub mod decide;
pub mod demand;
pub mod filter;
pub mod neighbours;
pub mod preempt;
pub mod queue;
pub mod relations;
mod run;
pub mod scheduler;
pub mod score;

pub use run::run;
