//! The cloud controller manager: nodes, load balancers, routes and volumes, as a cloud has them.
//!
//! Controllers know only the trait in [`provider`]; each provider is one module. A service that a provider does not have
//! (say, routes) has no controller running.
//!
//! Deliberately absent: leader election (whoever calls [`run`] leads), and providers other than bare metal and AWS.

mod answers;
pub mod aws;
pub mod bare_metal;
pub mod config;
mod informers;
mod node;
mod node_lifecycle;
pub mod provider;
mod route;
mod service;
mod volume;

use component::Context;

pub use config::{Config, ConfigError};

/// Starts the controllers that the provider has something for, and runs until `context.shutdown`.
pub async fn run(context: Context, config: Config) {
    let informers = informers::Informers::start(&context);
    let provider = &config.provider;
    tracing::info!(provider = provider.name(), "the cloud's controllers start");
    if provider.instances().is_some() {
        node::start(&context, &informers, &config);
        node_lifecycle::start(&context, &informers, &config);
    }
    if provider.load_balancers().is_some() {
        service::start(&context, &informers, &config);
    }
    if config.configure_cloud_routes && provider.routes().is_some() {
        route::start(&context, &informers, &config);
    }
    if provider.volumes().is_some() {
        volume::start(&context, &informers, &config);
    }
    context.shutdown.cancelled().await;
}
