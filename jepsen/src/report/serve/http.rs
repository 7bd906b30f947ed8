//! As much of HTTP/1.1 (RFC 9112) as browsing needs: the head of a GET or HEAD request, and the
//! head of an answer. Pure.
//!
//! Invariants: a path is given as decoded segments none of which is empty, `.` or `..`, or holds a
//! separator or NUL, so that joining them cannot leave a directory; anything else is refused with
//! its status. One request a connection: bodies, pipelining and ranges are not supported.

use std::fmt::Write as _;
use thiserror::Error;

/// The longest head that is read; browsers send about one kibibyte.
pub(super) const LONGEST_HEAD_BYTES: usize = 16 << 10;
/// Segments of a path; runs lie three deep.
const SEGMENTS_MAXIMUM: usize = 16;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Whether only the head of the answer is wanted.
    pub(super) head_only: bool,
    /// The path's segments, decoded.
    pub(super) segments: Vec<String>,
    /// Whether the path ended in a slash (or is `/`).
    pub(super) directory: bool,
    /// The `Host` field, without its port.
    pub(super) host: String,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum BadRequest {
    /// 400.
    #[error("that is no HTTP request that can be read here")]
    Malformed,
    /// 405.
    #[error("only GET and HEAD are answered")]
    Method,
    /// 404: a path that cannot name anything here.
    #[error("nothing is there")]
    Path,
    /// 431.
    #[error("the request's head is too long")]
    TooLong,
}

impl BadRequest {
    /// The status.
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Method => 405,
            Self::Path => 404,
            Self::TooLong => 431,
        }
    }
}

/// The length of the head with its empty line, once all of it is there.
pub(super) fn head_length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(end + 4)
}

/// Reads a request's head.
///
/// # Errors
/// See [`BadRequest`].
pub(super) fn parse(head: &[u8]) -> Result<Request, BadRequest> {
    if head.len() > LONGEST_HEAD_BYTES {
        return Err(BadRequest::TooLong);
    }
    let text = std::str::from_utf8(head).map_err(|_| BadRequest::Malformed)?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(BadRequest::Malformed);
    };
    if !version.starts_with("HTTP/1.") {
        return Err(BadRequest::Malformed);
    }
    let head_only = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(BadRequest::Method),
    };
    let mut host = None;
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(BadRequest::Malformed)?;
        if name.eq_ignore_ascii_case("host") && host.replace(value.trim()).is_some() {
            return Err(BadRequest::Malformed);
        }
    }
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let path = path.strip_prefix('/').ok_or(BadRequest::Malformed)?;
    let directory = path.is_empty() || path.ends_with('/');
    let path = path.strip_suffix('/').unwrap_or(path);
    let segments: Vec<String> = if path.is_empty() {
        Vec::new()
    } else {
        path.split('/').map(segment).collect::<Result<_, _>>()?
    };
    if segments.len() > SEGMENTS_MAXIMUM {
        return Err(BadRequest::Path);
    }
    Ok(Request {
        head_only,
        segments,
        directory,
        host: without_port(host.unwrap_or_default()).to_owned(),
    })
}

/// Decodes `%xx`, then refuses what could mean another place.
fn segment(text: &str) -> Result<String, BadRequest> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, after @ ..] = rest else {
            return Err(BadRequest::Malformed);
        };
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(BadRequest::Malformed);
        let byte = digit(*high)? * 16 + digit(*low)?;
        bytes.push(u8::try_from(byte).expect("two hexadecimal digits"));
        rest = after;
    }
    let decoded = String::from_utf8(bytes).map_err(|_| BadRequest::Malformed)?;
    let elsewhere = matches!(decoded.as_str(), "" | "." | "..");
    if elsewhere || decoded.contains(['/', '\\', '\0']) {
        return Err(BadRequest::Path);
    }
    Ok(decoded)
}

/// `[::1]:80` is `[::1]`, `localhost:80` is `localhost`.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a host's name can only mean this machine. A server on loopback answers no other, so that
/// a page elsewhere, whose name was made to resolve to 127.0.0.1, cannot read runs.
pub(super) fn is_loopback(host: &str) -> bool {
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let address = plain.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// The head of an answer.
pub(super) fn answer_head(status: u16, content_type: &str, length: u64, more: &str) -> String {
    let reason = match status {
        200 => "OK",
        302 => "Found",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
    write!(
        head,
        "Content-Type: {content_type}\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\
         Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\n\
         Referrer-Policy: no-referrer\r\nX-Frame-Options: DENY\r\n\r\n"
    )
    .expect("writing to a string cannot fail");
    head
}

/// The content type of a file by its name. Nothing but our own page is given to the browser as
/// something that it would run.
pub(super) fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "json" => "application/json",
        "log" | "txt" | "edn" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// A path segment as it stands in an address.
pub(super) fn encode(segment: &str) -> String {
    let mut text = String::new();
    for &byte in segment.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Vec<String>, BadRequest> {
        let head = format!("{line}\r\nHost: localhost:8080\r\nAccept: */*\r\n\r\n");
        parse(head.as_bytes()).map(|request| request.segments)
    }

    #[test]
    fn paths_are_split_and_decoded() {
        assert_eq!(parsed("GET / HTTP/1.1"), Ok(vec![]));
        let run = parsed("GET /runs/a%20b/2026-11-22T14%3A03/?x=../.. HTTP/1.1");
        assert_eq!(run.unwrap(), ["runs", "a b", "2026-11-22T14:03"]);
    }

    #[test]
    fn no_path_leads_out() {
        for path in [
            "/..",
            "/runs/../../etc/passwd",
            "/%2e%2e/x",
            "/runs/%2E./x",
            "//etc/passwd",
            "/a/%2fetc",
            "/a/..%5cb",
            "/a\0",
            "/a/%00",
            "/runs//x",
            "/./x",
        ] {
            assert_eq!(
                parsed(&format!("GET {path} HTTP/1.1")),
                Err(BadRequest::Path),
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for line in [
            "",
            "GET",
            "GET / HTTP/2",
            "GET  / HTTP/1.1",
            "GET x HTTP/1.1",
            "GET /%zz HTTP/1.1",
        ] {
            assert_eq!(parsed(line), Err(BadRequest::Malformed), "{line}");
        }
        assert_eq!(parsed("POST / HTTP/1.1"), Err(BadRequest::Method));
        let two = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n";
        assert_eq!(parse(two), Err(BadRequest::Malformed));
        assert_eq!(
            parse(&[b'a'; LONGEST_HEAD_BYTES + 1]),
            Err(BadRequest::TooLong)
        );
    }

    #[test]
    fn loopback_has_several_names() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:9",
            "127.9.9.9",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(is_loopback(without_port(host)), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example:80",
            "192.0.2.1",
            "10.0.0.1:80",
        ] {
            assert!(!is_loopback(without_port(host)), "{host}");
        }
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert_eq!(head_length(b"GET / HTTP/1.1\r\n"), None);
        assert_eq!(head_length(b"a\r\n\r\nb"), Some(5));
    }
}
