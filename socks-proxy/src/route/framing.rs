//! Where HTTP/1 messages end (RFC 9112, 6 and 7).
//!
//! Two programs that read one connection differently can be made to see different requests in it. So this knows one
//! reading only, the one that everybody shares, and calls everything else [`Broken`]: two lengths, a length that is not plain
//! digits, `chunked` under another coding or in HTTP/1.0, folded lines, line ends without their CR. Answers are read with
//! more patience: nothing is chosen by what stands behind one, and only its own client can misread it.
//!
//! Invariants: a body says the same however its bytes are cut; what it takes is never more than was offered.

use httparse::{EMPTY_HEADER, Header, ParserConfig, Status};

mod body;

pub use body::{Body, Broken};

/// Most header lines of one message.
const HEADERS_MAX: usize = 256;

/// What was found at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// A whole head.
    Whole(T),
    /// It may become one.
    Partial,
    /// It is none, or one that could be read in several ways.
    Broken,
}

/// What a request's head says about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The head's length in bytes, with the empty line.
    pub length: usize,
    /// What follows it.
    pub body: Body,
    /// Another request may follow on the connection.
    pub persistent: bool,
    /// The client may wait for a word before it sends the body.
    pub expects: bool,
    /// The method.
    pub method: Method,
}

/// What a method means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Answers have no body.
    Head,
    /// After success there are no messages any more.
    Connect,
    /// Asks and changes nothing.
    Safe,
    /// Any other.
    Other,
}

/// What an answer's head says about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The head's length in bytes, with the empty line.
    pub length: usize,
    /// What follows it.
    pub follows: Follows,
    /// Another answer may follow on the connection.
    pub persistent: bool,
}

/// What follows the head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follows {
    /// It was an interim answer (1xx): another head.
    Answer,
    /// No messages any more: bytes both ways.
    Bytes,
    /// The answer's body.
    Body(Body),
}

/// Reads a request's head; `look` gets the target and the headers.
pub fn request<R>(bytes: &[u8], look: impl FnOnce(&[u8], &[Header<'_>]) -> R) -> Found<(Request, R)> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Found::Partial,
        Err(_) => return Found::Broken,
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Found::Broken;
    };
    if !lines_end_well(bytes.get(..length).unwrap_or_default()) {
        return Found::Broken;
    }
    let method = match method {
        "HEAD" => Method::Head,
        "CONNECT" => Method::Connect,
        "GET" | "OPTIONS" | "TRACE" => Method::Safe,
        _ => Method::Other,
    };
    let Ok(body) = request_body(parsed.headers, minor) else { return Found::Broken };
    if method == Method::Connect && body != Body::Sized(0) {
        return Found::Broken;
    }
    let persistent = persistent(parsed.headers, minor);
    let expects = values(parsed.headers, "expect").next().is_some();
    let seen = look(target.as_bytes(), parsed.headers);
    Found::Whole((Request { length, body, persistent, expects, method }, seen))
}

/// Reads the head of an answer to a request of that method.
pub fn response(bytes: &[u8], asked: Method) -> Found<Response> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let mut config = ParserConfig::default();
    config.allow_multiple_spaces_in_response_status_delimiters(true);
    let length = match config.parse_response(&mut parsed, bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Found::Partial,
        Err(_) => return Found::Broken,
    };
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else { return Found::Broken };
    let mut persistent = persistent(parsed.headers, minor);
    let follows = match (code, asked) {
        (101, _) | (200..=299, Method::Connect) => Follows::Bytes,
        (100..=199, _) => Follows::Answer,
        (204 | 304, _) | (_, Method::Head) => Follows::Body(Body::Sized(0)),
        _ => match response_body(parsed.headers, minor, &mut persistent) {
            Ok(body) => Follows::Body(body),
            Err(Broken) => return Found::Broken,
        },
    };
    persistent &= follows != Follows::Body(Body::UntilEnd);
    Found::Whole(Response { length, follows, persistent })
}

/// Every line ends with CR LF, and neither stands anywhere else.
fn lines_end_well(head: &[u8]) -> bool {
    let mut before = 0;
    for &byte in head {
        if (byte == b'\n') != (before == b'\r') {
            return false;
        }
        before = byte;
    }
    true
}

fn request_body(headers: &[Header<'_>], minor: u8) -> Result<Body, Broken> {
    let mut codings = values(headers, "transfer-encoding");
    let mut lengths = values(headers, "content-length");
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(Body::Sized(0)),
        (None, Some(length)) if lengths.next().is_none() => digits(length).map(Body::Sized).ok_or(Broken),
        (Some(coding), None) if minor == 1 && codings.next().is_none() && is(coding, "chunked") => {
            Ok(Body::chunked())
        }
        _ => Err(Broken),
    }
}

/// RFC 9112 6.3, 4 to 8. With a coding and a length at once the coding holds, and the connection is not used again.
fn response_body(headers: &[Header<'_>], minor: u8, persistent: &mut bool) -> Result<Body, Broken> {
    let mut lengths = values(headers, "content-length");
    if let Some(last) = values(headers, "transfer-encoding").last() {
        *persistent &= lengths.next().is_none();
        let coding = last.rsplit(|&byte| byte == b',').next().unwrap_or_default().trim_ascii();
        return Ok(if minor == 1 && is(coding, "chunked") { Body::chunked() } else { Body::UntilEnd });
    }
    let Some(first) = lengths.next() else { return Ok(Body::UntilEnd) };
    if lengths.any(|other| other != first) {
        return Err(Broken);
    }
    digits(first).map(Body::Sized).ok_or(Broken)
}

fn persistent(headers: &[Header<'_>], minor: u8) -> bool {
    let mut options = values(headers, "connection")
        .flat_map(|line| line.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii);
    match minor {
        0 => options.any(|option| is(option, "keep-alive")),
        _ => !options.any(|option| is(option, "close")),
    }
}

fn values<'h>(headers: &'h [Header<'_>], name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = header.value.iter().position(|byte| !blank(byte)).unwrap_or(header.value.len());
        let end =
            header.value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last.saturating_add(1));
        header.value.get(start..end).unwrap_or_default()
    })
}

fn is(value: &[u8], wanted: &str) -> bool {
    value.eq_ignore_ascii_case(wanted.as_bytes())
}

fn digits(value: &[u8]) -> Option<u64> {
    // `parse` alone would take a sign.
    let plain = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| plain)?.parse().ok()
}

#[cfg(test)]
mod tests;
