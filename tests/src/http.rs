//! One HTTP/1.1 request over a connection of its own, made inside a namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;
use crate::wait;

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    /// 200, …
    pub status: u16,
    /// Status line and headers as they came.
    pub head: String,
    /// Without chunk frames, still compressed if the headers say so.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text; an error for any status but 200.
    pub fn text(self) -> Result<String> {
        let text = String::from_utf8(self.body).context("a body that is not UTF-8")?;
        if self.status != 200 {
            bail!("{}: {text}", self.head.lines().next().unwrap_or_default());
        }
        Ok(text)
    }
}

/// GET `path` from `server`, with further header lines, from inside `host`.
pub fn get(host: &Netns, server: SocketAddr, path: &str, headers: &[&str]) -> Result<Response> {
    host.run_in(|| request(server, path, headers))
        .with_context(|| format!("GET http://{server}{path}"))
}

fn request(server: SocketAddr, path: &str, headers: &[&str]) -> Result<Response> {
    let mut connection = TcpStream::connect_timeout(&server, wait::LONG)?;
    connection.set_read_timeout(Some(wait::LONG))?;
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    for header in headers {
        request += &format!("{header}\r\n");
    }
    request += "\r\n";
    connection.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Response> {
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n").context("no end of headers")?;
    let (head, body) = (std::str::from_utf8(&answer[..end])?.to_owned(), &answer[end + 4..]);
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body)? } else { body.to_vec() };
    Ok(Response { status, head, body })
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|it| it == b"\r\n").context("a chunk without size")?;
        let size = std::str::from_utf8(&rest[..end])?.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16).context("a chunk's size")?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        body.extend(rest.get(..size).context("a chunk cut short")?);
        rest = rest.get(size + 2..).context("a chunk without end")?;
    }
}

/// Text as it may stand in a query.
pub fn escape(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
        let response = parse(answer).unwrap();
        assert_eq!((response.status, response.text().unwrap().as_str()), (200, "abcde"));
        assert!(parse(&answer[..answer.len() - 8]).is_err());
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(escape("a{b=\"c d\"}"), "a%7Bb%3D%22c%20d%22%7D");
    }
}
