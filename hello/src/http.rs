//! As much of HTTP/1.1 (RFC 9112) as a server of one answer needs: request heads, keep-alive,
//! bodies that are skipped.

/// A request head beyond this is refused with 431.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A request body beyond this is refused with 413.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What the server needs to know of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The path, without the query.
    pub(crate) path: String,
    /// Whether the answer carries no body (HEAD).
    pub(crate) head_only: bool,
    /// Whether the client means to send another request on the connection.
    pub(crate) keep_alive: bool,
    /// Bytes of the head, including the empty line.
    pub(crate) head_bytes: usize,
    /// Bytes of the body that follows.
    pub(crate) body_bytes: usize,
}

/// A refusal: the status to answer with before the connection is closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) &'static str);

/// Parses the head at the start of `input`; `None` until all of it has arrived.
pub(crate) fn parse(input: &[u8]) -> Result<Option<Head>, Refusal> {
    let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if input.len() >= HEAD_BYTES_MAX {
            Err(Refusal("431 Request Header Fields Too Large"))
        } else {
            Ok(None)
        };
    };
    let text = std::str::from_utf8(&input[..end]).map_err(|_| Refusal("400 Bad Request"))?;
    let mut lines = text.split("\r\n");
    let mut request = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) = (
        request.next(),
        request.next(),
        request.next(),
        request.next(),
    ) else {
        return Err(Refusal("400 Bad Request"));
    };
    let mut keep_alive = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return Err(Refusal("505 HTTP Version Not Supported")),
    };
    let mut body_bytes = 0;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            return Err(Refusal("400 Bad Request"));
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("connection") {
            if value.eq_ignore_ascii_case("close") {
                keep_alive = false;
            } else if value.eq_ignore_ascii_case("keep-alive") {
                keep_alive = true;
            }
        } else if name.eq_ignore_ascii_case("content-length") {
            body_bytes = value.parse().map_err(|_| Refusal("400 Bad Request"))?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Refusal("411 Length Required"));
        }
    }
    if body_bytes > BODY_BYTES_MAX {
        return Err(Refusal("413 Content Too Large"));
    }
    Ok(Some(Head {
        path: target.split('?').next().unwrap_or_default().to_owned(),
        head_only: method == "HEAD",
        keep_alive,
        head_bytes: end + 4,
        body_bytes,
    }))
}

/// A whole response.
pub(crate) fn response(
    status: &str,
    content_type: &str,
    body: &str,
    head_only: bool,
    keep_alive: bool,
) -> Vec<u8> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\
         connection: {connection}\r\n\r\n",
        body.len(),
    )
    .into_bytes();
    if !head_only {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_that_has_not_all_arrived_is_waited_for() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
    }

    #[test]
    fn request_with_body_and_query_is_understood() {
        let input = b"POST /a?b=c HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyz";
        let head = parse(input).unwrap().unwrap();
        assert_eq!(head.path, "/a");
        assert_eq!(head.body_bytes, 3);
        assert_eq!(head.head_bytes, input.len() - 3);
        assert!(head.keep_alive);
    }

    #[test]
    fn connection_header_and_version_decide_keep_alive() {
        let keep_alive = |text: &str| parse(text.as_bytes()).unwrap().unwrap().keep_alive;
        assert!(!keep_alive("GET / HTTP/1.0\r\n\r\n"));
        assert!(keep_alive(
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        ));
        assert!(!keep_alive("GET / HTTP/1.1\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn malformed_requests_are_refused_with_their_status() {
        let refusal = |text: &[u8]| parse(text).unwrap_err().0;
        assert_eq!(refusal(b"nonsense\r\n\r\n"), "400 Bad Request");
        assert_eq!(
            refusal(b"GET / HTTP/2\r\n\r\n"),
            "505 HTTP Version Not Supported"
        );
        assert_eq!(
            refusal(&[b'a'; HEAD_BYTES_MAX]),
            "431 Request Header Fields Too Large"
        );
        assert_eq!(
            refusal(b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"),
            "413 Content Too Large"
        );
    }
}
