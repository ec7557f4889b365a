//! One stream of HTTP/2: a request, its answer, and both bodies at once.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};

use super::Fars;
use crate::route::filter::Asked;

/// The stream is over before its messages are. Dropping its halves tells who has not heard of it.
struct Torn;

/// Serves one stream to its end.
pub(super) async fn serve(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, fars: Arc<Fars>) {
    let (mut head, body) = request.into_parts();
    let entry = fars.visit.choose(&asked(&head));
    if head.uri.authority().is_none() {
        // By this the library knows that the authority is in the header `host`, if anywhere.
        head.version = Version::HTTP_11;
    }
    let sender = tokio::select! {
        sender = fars.sender(entry) => sender,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let ended = body.is_end_stream();
    let sent = sender.and_then(|mut sender| {
        sender.send_request(Request::from_parts(head, ()), ended).map_err(io::Error::other)
    });
    match sent {
        Ok((response, to_far)) => {
            let up = async {
                if !ended {
                    // How it ended the answer tells.
                    drop(pump(body, to_far).await);
                }
                Ok(())
            };
            drop(tokio::try_join!(up, answer(response, &mut respond)));
        }
        Err(error) => refuse(&mut respond, &error),
    }
}

fn asked(head: &Parts) -> Asked<'_> {
    let target = head.uri.path_and_query().map_or("", |path| path.as_str()).as_bytes();
    let authority = head.uri.authority().map(|authority| ("host", authority.as_str().as_bytes()));
    let headers = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    Asked { target, headers: authority.into_iter().chain(headers).collect() }
}

enum Step {
    Interim(Response<()>),
    Answer(Result<Response<RecvStream>, h2::Error>),
    /// The client does not want it any more.
    Unwanted,
}

/// Passes the answer on, with the interim ones before it.
async fn answer(mut response: ResponseFuture, respond: &mut SendResponse<Bytes>) -> Result<(), Torn> {
    let answer = loop {
        let step = poll_fn(|cx| {
            if let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
                return Poll::Ready(Step::Interim(interim));
            }
            if respond.poll_reset(cx).is_ready() {
                return Poll::Ready(Step::Unwanted);
            }
            Pin::new(&mut response).poll(cx).map(Step::Answer)
        });
        match step.await {
            Step::Interim(interim) => respond.send_informational(interim).map_err(|_| Torn)?,
            Step::Answer(answer) => break answer,
            Step::Unwanted => return Err(Torn),
        }
    };
    match answer {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let ended = body.is_end_stream();
            let to_client = respond.send_response(Response::from_parts(head, ()), ended).map_err(|_| Torn)?;
            if ended { Ok(()) } else { pump(body, to_client).await }
        }
        Err(error) => {
            match reason(&error) {
                Some(reason) => respond.send_reset(reason),
                None => refuse(respond, &io::Error::other(error)),
            }
            Err(Torn)
        }
    }
}

/// What the program said to the stream; `None` if it was the connection that broke.
fn reason(error: &h2::Error) -> Option<Reason> {
    match error.reason()? {
        // The program goes in order, and has not seen this stream.
        Reason::NO_ERROR if error.is_go_away() && error.is_remote() => Some(Reason::REFUSED_STREAM),
        reason if error.is_reset() && error.is_remote() => Some(reason),
        _ => None,
    }
}

/// Passes a body on, with its trailers.
async fn pump(mut from: RecvStream, mut to: SendStream<Bytes>) -> Result<(), Torn> {
    loop {
        let chunk = tokio::select! {
            chunk = from.data() => chunk,
            _ = poll_fn(|cx| to.poll_reset(cx)) => return Err(Torn),
        };
        match chunk {
            Some(Ok(chunk)) => {
                let length = chunk.len();
                put(&mut to, chunk).await?;
                from.flow_control().release_capacity(length).map_err(|_| Torn)?;
            }
            Some(Err(error)) => return Err(torn(&mut to, &error)),
            None => break,
        }
    }
    let ended = match from.trailers().await {
        Ok(Some(trailers)) => to.send_trailers(trailers),
        Ok(None) => to.send_data(Bytes::new(), true),
        Err(error) => return Err(torn(&mut to, &error)),
    };
    ended.map_err(|_| Torn)
}

fn torn(to: &mut SendStream<Bytes>, error: &h2::Error) -> Torn {
    to.send_reset(error.reason().filter(|_| error.is_reset()).unwrap_or(Reason::INTERNAL_ERROR));
    Torn
}

/// Sends a chunk when the other side has room for it.
async fn put(to: &mut SendStream<Bytes>, mut chunk: Bytes) -> Result<(), Torn> {
    while !chunk.is_empty() {
        to.reserve_capacity(chunk.len());
        // The library tells of room once; what is there already has to be asked for.
        let room = match to.capacity() {
            0 => poll_fn(|cx| to.poll_capacity(cx)).await,
            room => Some(Ok(room)),
        };
        let Some(Ok(room)) = room else { return Err(Torn) };
        let part = chunk.split_to(room.min(chunk.len()));
        if !part.is_empty() {
            to.send_data(part, false).map_err(|_| Torn)?;
        }
    }
    Ok(())
}

fn refuse(respond: &mut SendResponse<Bytes>, error: &io::Error) {
    let mut answer = Response::new(());
    *answer.status_mut() = match error.kind() {
        io::ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    // A client that has gone needs no answer.
    if let Ok(mut body) = respond.send_response(answer, false) {
        drop(body.send_data(crate::route::refusal(error).into(), true));
    }
}
