//! A connection to one member: made by the first call that needs it, and again by the next one after it broke.
//!
//! Knows neither other members nor what a call is about.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::messages::{WatchRequest, WatchResponse};
use super::options::EtcdTls;
use crate::StoreError;

/// A member that does not even accept a connection within this is passed over.
const CONNECT: Duration = Duration::from_secs(2);
/// etcd disconnects who asks more often than every five seconds.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// One answer is at most a page of a list, or a part of a watch's.
const ANSWER_LIMIT: usize = 1 << 30;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One member.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// As it was given.
    pub(crate) address: Arc<str>,
    channel: Channel,
}

impl Member {
    /// Connects to nothing yet.
    pub(crate) fn new(address: &str, tls: Option<&EtcdTls>) -> Result<Member, StoreError> {
        let bad = |why: &str| StoreError::InvalidOptions(format!("datastore endpoint {address:?}: {why}"));
        let uri: Uri = address.parse().map_err(|_| bad("not a URL such as https://10.0.0.1:2379"))?;
        let tls = match (uri.scheme_str(), tls) {
            (Some("http"), _) => None,
            (Some("https"), Some(tls)) => Some(TlsConnector::from(tls.config.clone())),
            (Some("https"), None) => return Err(bad("https needs a CA file to recognise etcd by")),
            _ => return Err(bad("it begins neither with https:// nor with http://")),
        };
        let host = uri.host().ok_or_else(|| bad("it names no host"))?.to_owned();
        if !matches!(uri.path(), "" | "/") {
            return Err(bad("it has a path"));
        }
        let port = uri.port_u16().unwrap_or(2379);
        let connector = tower::service_fn(move |_: Uri| connect(host.clone(), port, tls.clone()));
        // The connector alone decides about TLS; the origin is what requests say.
        let channel = Endpoint::from_static("http://etcd")
            .origin(uri.clone())
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector);
        Ok(Member { address: address.into(), channel })
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_LIMIT);
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        Ok(grpc)
    }

    /// One question, one answer. A member without a leader refuses at once instead of waiting for one.
    pub(crate) async fn unary<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc.unary(with_leader(question), PathAndQuery::from_static(path), codec).await?;
        Ok(answer.into_inner())
    }

    /// A watch; the member ends it when it loses its leader.
    pub(crate) async fn watch(
        &self,
        create: WatchRequest,
    ) -> Result<tonic::Streaming<WatchResponse>, Status> {
        use futures::StreamExt;
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        // Our half stays open for as long as the watch shall last.
        let questions = futures::stream::iter([create]).chain(futures::stream::pending());
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        Ok(grpc.streaming(with_leader(questions), path, codec).await?.into_inner())
    }
}

fn with_leader<Q>(question: Q) -> Request<Q> {
    let mut request = Request::new(question);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

async fn connect(
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
) -> std::io::Result<TokioIo<Box<dyn Io>>> {
    let connecting = async {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let socket = TcpStream::connect((bare, port)).await?;
        socket.set_nodelay(true)?;
        let Some(tls) = tls else { return Ok(Box::new(socket) as Box<dyn Io>) };
        let name = rustls::pki_types::ServerName::try_from(bare.to_owned()).map_err(std::io::Error::other)?;
        Ok(Box::new(tls.connect(name, socket).await?) as Box<dyn Io>)
    };
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected.map(TokioIo::new),
        Err(_) => Err(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("no connection within {} s", CONNECT.as_secs()),
        )),
    }
}
