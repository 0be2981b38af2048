//! What a connection hands to the pipeline, whichever version of HTTP it speaks.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hyper::body::Incoming;

use crate::app::App;
use crate::app::answer_budget::Line;
use crate::http::response::compression::Sent;
use crate::http::response::error::Failure;

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The address of the socket's other end.
    pub address: IpAddr,
    /// The connection is encrypted by this server.
    pub encrypted: bool,
    /// The client is the owner of the data folder, and may do all that a server admin may: it has come through the
    /// control socket, or this process is the client. The address then says nothing.
    pub is_owner: bool,
}

impl Peer {
    /// The owner of the data folder.
    pub fn owner() -> Peer {
        Peer { address: IpAddr::V4(Ipv4Addr::LOCALHOST), encrypted: false, is_owner: true }
    }
}

/// A request as it comes from a connection. A request of HTTP/2 looks as if it had come over HTTP/1.1: its
/// target has no authority, `Host` names the server, and there is at most one `Cookie`.
pub struct Received {
    pub request: http::Request<Incoming>,
    /// The handle to the memory budget for answers: of the connection, or of the stream with HTTP/2.
    pub line: Line,
    pub peer: Peer,
    /// The connection refuses the request, which is then only answered.
    pub refused: Option<Failure>,
}

/// The function that answers requests: the pipeline.
pub trait Respond: Fn(Arc<App>, Received) -> Self::Answering + Clone + Send + Sync + 'static {
    /// The future of one response.
    type Answering: Future<Output = http::Response<Sent>> + Send + 'static;
}

impl<F, A> Respond for F
where
    F: Fn(Arc<App>, Received) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = http::Response<Sent>> + Send + 'static,
{
    type Answering = A;
}
