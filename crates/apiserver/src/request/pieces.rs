//! Lists as bytes, in pieces that are made when the client is ready for them: whatever the shape and the format, no more of a
//! list is in memory than the stored objects, which are shared, and one piece.
//!
//! Long lists of users have a number of places: a list keeps its own until it has been read or its request's time is up.

use std::io::Write as _;
use std::sync::Arc;

use api_machinery::decode::Format;
use api_machinery::status::ApiError;
use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::{CONTENT_ENCODING, HeaderValue};
use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::respond::{self, COMPRESS_FROM};
use super::route::ResourceCall;
use crate::limits;
use crate::registry::Page;
use crate::server::ApiServer;
use crate::table::{self, Items};
use crate::types::{Body, BoxError};
use crate::watch::Cached;

/// Lists up to this size are sent in one piece.
const WHOLE_UP_TO: usize = 64 << 10;
/// The size of the pieces of longer ones.
const PIECE: usize = 64 << 10;

/// The answer to a list.
pub fn list(server: &Arc<ApiServer>, call: &ResourceCall, page: Page) -> Result<Response<Body>, ApiError> {
    let total: usize = page.objects.iter().map(|object| object.bytes.len() + 64).sum();
    let (format, items) = (call.accept.format, table::items(server, call));
    let pieces = Pieces::new(format, table::without_items(server, call, &page), items, page.objects);
    if total <= WHOLE_UP_TO {
        let mut out = BytesMut::with_capacity(total + 256);
        pieces.for_each(|piece| out.extend_from_slice(&piece));
        return Ok(respond::whole(out.freeze(), call.accept));
    }
    let place = place(server, call)?;
    let compress = call.accept.gzip && total >= COMPRESS_FROM;
    let body = if compress { streamed(Gzip::new(pieces)) } else { streamed(pieces) };
    let mut response = respond::head(format, respond::held(body, place));
    if compress {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// A place among the long lists, which is given back when this is dropped, and in any case when the request's time is up:
/// whoever does not read keeps nobody out for longer.
fn place(server: &Arc<ApiServer>, call: &ResourceCall) -> Result<Option<DropGuard>, ApiError> {
    // What was deleted is told in any case.
    if call.info.verb != "list" || limits::is_system(&call.user) {
        return Ok(None);
    }
    let place = server.long_lists().clone().try_acquire_owned().map_err(|_| limits::too_many_requests())?;
    let (ended, shutdown, deadline) = (CancellationToken::new(), server.shutdown().clone(), call.deadline);
    let guard = ended.clone().drop_guard();
    server.tasks().spawn(async move {
        tokio::select! {
            () = ended.cancelled() => {}
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
        drop(place);
    });
    Ok(Some(guard))
}

/// A body of these pieces.
pub fn streamed(pieces: impl Iterator<Item = Bytes> + Send + 'static) -> Body {
    let frames = pieces.map(|piece| Ok::<_, BoxError>(http_body::Frame::data(piece)));
    StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}

/// A list, piece by piece.
struct Pieces {
    format: Format,
    head: Option<Bytes>,
    items: Items,
    objects: std::vec::IntoIter<Arc<Cached>>,
    first: bool,
    done: bool,
}

impl Pieces {
    /// `list` is all of it but its items.
    fn new(format: Format, list: Value, items: Items, objects: Vec<Arc<Cached>>) -> Pieces {
        let mut head = match format {
            Format::Json => list.to_string(),
            Format::Yaml => crate::yaml::to_string(&list),
        };
        match format {
            Format::Json => {
                head.pop();
                head.push_str(&format!(",\"{}\":[", items.field));
            }
            Format::Yaml if objects.is_empty() => head.push_str(&format!("\"{}\": []\n", items.field)),
            Format::Yaml => head.push_str(&format!("\"{}\":\n", items.field)),
        }
        Pieces {
            format,
            head: Some(head.into()),
            items,
            objects: objects.into_iter(),
            first: true,
            done: false,
        }
    }

    fn write(&mut self, object: &Cached, out: &mut BytesMut) {
        match self.format {
            Format::Json => {
                if !std::mem::take(&mut self.first) {
                    out.extend_from_slice(b",");
                }
                self.items.write_json(object, out);
            }
            Format::Yaml => {
                let item = Value::Array(vec![self.items.value(object)]);
                out.extend_from_slice(crate::yaml::to_string(&item).as_bytes());
            }
        }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        if self.done {
            return None;
        }
        let mut out = BytesMut::new();
        while out.len() < PIECE {
            let Some(object) = self.objects.next() else {
                self.done = true;
                if self.format == Format::Json {
                    out.extend_from_slice(b"]}\n");
                }
                break;
            };
            self.write(&object, &mut out);
        }
        (!out.is_empty()).then(|| out.freeze())
    }
}

/// Compresses pieces as they come.
pub struct Gzip<I> {
    pieces: I,
    encoder: Option<flate2::write::GzEncoder<Vec<u8>>>,
}

impl<I> Gzip<I> {
    /// Of these.
    pub fn new(pieces: I) -> Gzip<I> {
        let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
        Gzip { pieces, encoder: Some(encoder) }
    }
}

impl<I: Iterator<Item = Bytes>> Iterator for Gzip<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let encoder = self.encoder.as_mut()?;
            let Some(piece) = self.pieces.next() else {
                let rest = self.encoder.take()?.finish().expect("writing to memory cannot fail");
                return Some(rest.into());
            };
            encoder.write_all(&piece).expect("writing to memory cannot fail");
            let out = std::mem::take(encoder.get_mut());
            if !out.is_empty() {
                return Some(out.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Read;

    fn pieces(format: Format, objects: &[Arc<Cached>]) -> Pieces {
        Pieces::new(format, json!({"kind": "List"}), Items::stored(), objects.to_vec())
    }

    #[test]
    fn pieces_join_to_a_list_and_survive_compression() {
        let objects: Vec<Arc<Cached>> = (0..5000)
            .map(|at| {
                let bytes = format!("{{\"metadata\":{{\"name\":\"n{at}\"}}}}");
                Arc::new(Cached::new(&format!("n{at}"), bytes.into(), at + 1))
            })
            .collect();
        let plain: Vec<u8> = pieces(Format::Json, &objects).flatten().collect();
        let value: Value = serde_json::from_slice(&plain).expect("JSON");
        assert_eq!(value["kind"], "List");
        assert_eq!(value["items"].as_array().map(Vec::len), Some(5000));
        assert_eq!(value["items"][7]["metadata"]["resourceVersion"], "8");
        let packed: Vec<u8> = Gzip::new(pieces(Format::Json, &objects)).flatten().collect();
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).expect("gzip");
        assert_eq!(unpacked, plain);
        assert!(packed.len() < plain.len() / 4);
        for objects in [&objects[..], &[]] {
            let [json, yaml] = [Format::Json, Format::Yaml].map(|format| {
                let bytes: Vec<u8> = pieces(format, objects).flatten().collect();
                api_machinery::decode::decode(format, &bytes, None).expect("a list").value
            });
            assert_eq!(json, yaml);
        }
        assert!(pieces(Format::Json, &objects).all(|piece| piece.len() < 2 * PIECE));
    }
}
