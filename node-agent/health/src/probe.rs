use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};

use crate::{http, ping};

/// What a server is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Probe {
    /// For a connection.
    Tcp {
        /// At this port.
        port: u16,
    },
    /// For a document (RFC 9110); an answer of 2xx or 3xx is a success.
    Http {
        /// At this port.
        port: u16,
        /// Which: the path of the URL.
        path: String,
    },
    /// For an echo (RFC 792, RFC 4443 §4.1).
    Ping,
}

/// Why an answer is none, or not the right one.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server did not answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// It cannot be reached, or refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It answers with another status than 2xx or 3xx.
    #[error("HTTP status {0}")]
    Status(u16),
    /// What answers does not speak HTTP.
    #[error("an answer that is no HTTP")]
    Malformed,
}

impl Probe {
    /// Asks once.
    ///
    /// # Errors
    /// The server did not answer as it should within `limit`.
    pub async fn ask(&self, address: IpAddr, limit: Duration) -> Result<(), Failure> {
        let asked = async {
            match self {
                Self::Tcp { port } => drop(connect(address, *port).await?),
                Self::Http { port, path } => {
                    let stream = connect(address, *port).await?;
                    http::get(stream, SocketAddr::new(address, *port), path).await?;
                }
                Self::Ping => ping::ask(address).await?,
            }
            Ok(())
        };
        timeout(limit, asked)
            .await
            .unwrap_or(Err(Failure::Silent(limit)))
    }
}

/// Connects, and has the connection end by a reset: a check every second leaves no TIME_WAIT behind
/// on the server's side or ours.
async fn connect(address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((address, port)).await?;
    stream.set_zero_linger()?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);
    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A server that answers one connection with `text`, and gives what it was asked.
    async fn server(text: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let count = stream.read(&mut request).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            request.truncate(count);
            String::from_utf8(request).unwrap()
        });
        (port, asked)
    }

    #[tokio::test]
    async fn http_status_decides() {
        let cases = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "fine"),
            ("HTTP/1.0 302 Found\r\nlocation: /there\r\n\r\n", "fine"),
            ("HTTP/1.1 404 Not Found\r\n\r\n", "HTTP status 404"),
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\n",
                "HTTP status 503",
            ),
            ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP status 100"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "an answer that is no HTTP"),
            ("HTTP/1.1 2000 OK\r\n", "an answer that is no HTTP"),
            ("", "an answer that is no HTTP"),
        ];
        for (text, expected) in cases {
            let (port, asked) = server(text).await;
            let path = "/healthz?full".to_owned();
            let answer = Probe::Http { port, path }.ask(HERE, LIMIT).await;
            let told = answer.map_or_else(|failure| failure.to_string(), |()| "fine".to_owned());
            assert_eq!(told, expected, "{text}");
            let request = asked.await.unwrap();
            let first = request.lines().next();
            assert_eq!(first, Some("GET /healthz?full HTTP/1.1"));
            assert!(
                request.contains(&format!("\r\nHost: 127.0.0.1:{port}\r\n")),
                "{request}"
            );
        }
    }

    #[tokio::test]
    async fn connection_is_enough_for_tcp() {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Probe::Tcp { port }.ask(HERE, LIMIT).await.unwrap();
        drop(listener);
        let refused = Probe::Tcp { port }.ask(HERE, LIMIT).await.unwrap_err();
        assert!(refused.to_string().contains("refused"), "{refused}");
    }

    #[tokio::test]
    async fn server_that_says_nothing_fails_by_its_time_limit() {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let path = "/".to_owned();
        let limit = Duration::from_millis(20);
        let failure = Probe::Http { port, path }
            .ask(HERE, limit)
            .await
            .unwrap_err();
        assert!(matches!(failure, Failure::Silent(_)), "{failure}");
    }
}
