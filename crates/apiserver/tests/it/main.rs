//! The request path over a real store: scenarios as text in this process and over TLS, and what needs more than text.

mod allocation;
mod bad_inputs;
mod concurrency;
mod definitions;
mod etcd;
mod faults;
mod fixture;
mod gate;
mod kubelets;
mod lists;
mod quotas;
mod scenario;
mod servers;
mod startup;
mod tls;
mod watches;
mod webhooks;
