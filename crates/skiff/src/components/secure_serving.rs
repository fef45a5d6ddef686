//! The flags of the small HTTPS server for health and metrics that scheduler and controller manager have.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use component::Context;
use component::health::{Metrics, Server};
use tokio_util::sync::CancellationToken;

/// Flags with upstream's names; the port's default is each component's own.
#[derive(Args, Clone, Debug)]
pub struct SecureServing {
    /// Address that health and metrics are served on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,
    /// Certificate to serve with; without it one is made that nobody signed and that is gone with the process
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
}

impl SecureServing {
    /// Serves on `port` until shutdown; on port 0 nothing is served.
    pub async fn start(
        &self,
        port: u16,
        context: &Context,
        name: &'static str,
        leading: &CancellationToken,
    ) -> Result<()> {
        if port == 0 {
            return Ok(());
        }
        let (chain, key) = match (&self.tls_cert_file, &self.tls_private_key_file) {
            (Some(chain), Some(key)) => {
                (super::read("--tls-cert-file", chain)?, super::read("--tls-private-key-file", key)?)
            }
            _ => own_certificate(name)?,
        };
        let server = Server::bind(SocketAddr::new(self.bind_address, port), Some((&chain, &key))).await?;
        let leading = leading.clone();
        let metrics: Metrics = Arc::new(move || {
            let leads = u8::from(leading.is_cancelled());
            format!(
                "# HELP leader_election_master_status Gauge of if the reporting system is master of the relevant lease, \
                 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease.\n\
                 # TYPE leader_election_master_status gauge\n\
                 leader_election_master_status{{name=\"{name}\"}} {leads}\n"
            )
        });
        server.start(context, Some(metrics));
        Ok(())
    }
}

/// A certificate and key in PEM that nobody signed.
fn own_certificate(name: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned(), "localhost".to_owned()])
        .context("cannot make a certificate to serve with")?;
    Ok((made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes()))
}
