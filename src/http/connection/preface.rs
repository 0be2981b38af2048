//! Tells HTTP/2 from HTTP/1.1 on a port without TLS, where the client says it by how it begins (RFC 9113,
//! section 3.3: "prior knowledge").

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

/// The beginning of the preface `PRI * HTTP/2.0`. No request of HTTP/1.1 has this method.
const BEGINNING: &[u8; 4] = b"PRI ";
/// How often to look for the rest of a beginning that came in pieces, and how long to wait before each look, in
/// milliseconds. The socket is readable meanwhile, so there is no event to wait for.
const LOOKS: [u64; 6] = [10, 20, 40, 80, 160, 320];

/// Waits for the first bytes and returns whether they begin HTTP/2. The bytes stay in the socket.
pub async fn begins(socket: &TcpStream) -> io::Result<bool> {
    let mut first = [0; BEGINNING.len()];
    for pause in LOOKS {
        let count = socket.peek(&mut first).await?;
        if count == BEGINNING.len() || first[..count] != BEGINNING[..count] || count == 0 {
            return Ok(&first == BEGINNING);
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_first_bytes_decide_also_if_they_come_one_by_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (pieces, is_http2) in [
            (&["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"][..], true),
            (&["P", "R", "I", " "], true),
            (&["GET / HTTP/1.1\r\n\r\n"], false),
            (&["P", "UT / HTTP/1.1\r\n\r\n"], false),
            (&["PRIME / HTTP/1.1\r\n\r\n"], false),
            (&["\x16\x03\x01"], false),
            (&["PR"], false),
            (&[], false),
        ] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let sending = async {
                for piece in pieces {
                    client.write_all(piece.as_bytes()).await.unwrap();
                    tokio::task::yield_now().await;
                }
                if pieces.is_empty() {
                    client.shutdown().await.unwrap();
                }
            };
            let deciding = tokio::time::timeout(Duration::from_secs(5), begins(&server));
            let (decided, ()) = tokio::join!(deciding, sending);
            assert_eq!(decided.expect("in time").unwrap(), is_http2, "{pieces:?}");
        }
    }
}
