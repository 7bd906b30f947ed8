//! As much of HTTP/1.1 (RFC 9112) as a JSON gateway needs: POST, and answers with a length or in
//! chunks, over one connection that is kept.
//!
//! Invariant: an error says whether the request may have reached the server.

use bytes::{Bytes, BytesMut};
use hedgerow_env::{Env, NetworkError, Stream, StreamKind};

/// The largest answer that is read; etcd's own limit of a value is 1.5 MiB.
const LARGEST_ANSWER: usize = 8 << 20;
const READ_BYTES: usize = 64 << 10;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HttpError {
    /// Nothing was sent.
    #[error("{0}")]
    NotSent(String),
    /// The request may have been done.
    #[error("{0}")]
    Unknown(String),
}

/// A status and a body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// A connection. After an error it is of no use.
pub(super) struct Connection {
    stream: Stream,
    host: String,
    unread: BytesMut,
}

fn unknown(error: &NetworkError) -> HttpError {
    HttpError::Unknown(error.to_string())
}

fn malformed(what: &str) -> HttpError {
    HttpError::Unknown(format!("the answer is no HTTP/1.1: {what}"))
}

impl Connection {
    pub(super) async fn open(env: &Env, address: &str) -> Result<Self, HttpError> {
        let opening = env.network().connect(address, StreamKind::Client);
        let stream = opening
            .await
            .map_err(|error| HttpError::NotSent(error.to_string()))?;
        Ok(Self {
            stream,
            host: address.to_owned(),
            unread: BytesMut::new(),
        })
    }

    /// Sends one request and reads its answer.
    pub(super) async fn post(&mut self, path: &str, body: &[u8]) -> Result<Answer, HttpError> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        let parts = vec![Bytes::from(head), Bytes::copy_from_slice(body)];
        let sent = self.stream.writer.write(parts).await;
        sent.map_err(|error| unknown(&error))?;
        let head = self.head().await?;
        let body = if head.chunked {
            self.chunks().await?
        } else {
            self.take(head.length).await?
        };
        Ok(Answer {
            status: head.status,
            body,
        })
    }

    async fn more(&mut self) -> Result<(), HttpError> {
        let bytes = self.stream.reader.read(READ_BYTES).await;
        let bytes = bytes.map_err(|error| unknown(&error))?;
        if bytes.is_empty() {
            return Err(HttpError::Unknown(
                "the server closed the connection".to_owned(),
            ));
        }
        self.unread.extend_from_slice(&bytes);
        if self.unread.len() > LARGEST_ANSWER {
            return Err(malformed("it is larger than 8 MiB"));
        }
        Ok(())
    }

    async fn head(&mut self) -> Result<Head, HttpError> {
        let end = loop {
            let found = self
                .unread
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n");
            match found {
                Some(place) => break place,
                None => self.more().await?,
            }
        };
        let head = self.unread.split_to(end + 4);
        Head::parse(&head[..end])
    }

    async fn line(&mut self) -> Result<String, HttpError> {
        let end = loop {
            match self.unread.windows(2).position(|bytes| bytes == b"\r\n") {
                Some(place) => break place,
                None => self.more().await?,
            }
        };
        let line = self.unread.split_to(end + 2);
        let text = std::str::from_utf8(&line[..end]);
        Ok(text.map_err(|_| malformed("a line"))?.to_owned())
    }

    async fn take(&mut self, length: usize) -> Result<Bytes, HttpError> {
        if length > LARGEST_ANSWER {
            return Err(malformed("it is larger than 8 MiB"));
        }
        while self.unread.len() < length {
            self.more().await?;
        }
        Ok(self.unread.split_to(length).freeze())
    }

    async fn chunks(&mut self) -> Result<Bytes, HttpError> {
        let mut body = BytesMut::new();
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| malformed("a chunk"))?;
            if body.len().saturating_add(size) > LARGEST_ANSWER {
                return Err(malformed("it is larger than 8 MiB"));
            }
            if size == 0 {
                // Trailers end with an empty line.
                while !self.line().await?.is_empty() {}
                return Ok(body.freeze());
            }
            body.extend_from_slice(&self.take(size).await?);
            if !self.line().await?.is_empty() {
                return Err(malformed("a chunk's end"));
            }
        }
    }
}

/// What matters of an answer's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: usize,
    chunked: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self, HttpError> {
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("the head"))?;
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok())
            .ok_or_else(|| malformed("the status"))?;
        let mut head = Self {
            status,
            length: 0,
            chunked: false,
        };
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                return Err(malformed("a header"));
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value.parse().map_err(|_| malformed("the length"))?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.chunked = value.eq_ignore_ascii_case("chunked");
            }
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_tell_the_status_and_how_long_the_body_is() {
        let head = Head::parse(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nDate: x").unwrap();
        let expected = Head {
            status: 200,
            length: 12,
            chunked: false,
        };
        assert_eq!(head, expected);
        let head = Head::parse(b"HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked").unwrap();
        assert_eq!((head.status, head.chunked), (503, true));
        assert!(Head::parse(b"SSH-2.0").is_err());
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\nContent-Length: many").is_err());
    }
}
