//! One stream of HTTP/2: a request, its answer, and both bodies at once.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};

use super::Fars;
use crate::route::filter::Asked;

/// The stream is over before its messages are.
enum Torn {
    /// Dropping its halves tells who has not heard of it.
    Over,
    /// The program's connection has ended without an answer.
    Unanswered(io::Error),
}

/// Serves one stream to its end.
pub(super) async fn serve(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, fars: Arc<Fars>) {
    let (mut head, body) = request.into_parts();
    let entry = fars.visit.choose(&asked(&head));
    if head.uri.authority().is_none() {
        // By this the library knows that the authority is in the header `host`, if anywhere.
        head.version = Version::HTTP_11;
    }
    let mut body = Some(body).filter(|body| !body.is_end_stream());
    // What can be asked a second time, if the program ends at this moment.
    let again = body.is_none() && head.method.is_safe();
    loop {
        let sender = tokio::select! {
            sender = fars.sender(entry.clone()) => sender,
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
        };
        let sender = match sender {
            Ok(sender) => sender,
            Err(error) => return refuse(&mut respond, &error),
        };
        let request = Request::from_parts(head.clone(), ());
        match exchange(sender, request, body.take(), &mut respond).await {
            Ok(()) | Err(Torn::Over) => return,
            Err(Torn::Unanswered(_)) if again && fars.visit.goes(&entry).await => {}
            Err(Torn::Unanswered(error)) => return refuse(&mut respond, &error),
        }
    }
}

/// Carries one request and its answer.
async fn exchange(
    mut sender: SendRequest<Bytes>,
    request: Request<()>,
    body: Option<RecvStream>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), Torn> {
    let sent = sender.send_request(request, body.is_none());
    let (response, to_far) = sent.map_err(|error| Torn::Unanswered(io::Error::other(error)))?;
    let up = async {
        if let Some(body) = body {
            // How it ended the answer tells.
            drop(pump(body, to_far).await);
        }
        Ok(())
    };
    tokio::try_join!(up, answer(response, respond)).map(drop)
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
            Step::Interim(interim) => respond.send_informational(interim).map_err(|_| Torn::Over)?,
            Step::Answer(answer) => break answer,
            Step::Unwanted => return Err(Torn::Over),
        }
    };
    match answer {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let ended = body.is_end_stream();
            let to_client =
                respond.send_response(Response::from_parts(head, ()), ended).map_err(|_| Torn::Over)?;
            if ended { Ok(()) } else { pump(body, to_client).await }
        }
        Err(error) => match reason(&error) {
            Some(reason) => {
                respond.send_reset(reason);
                Err(Torn::Over)
            }
            None => Err(Torn::Unanswered(io::Error::other(error))),
        },
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
            _ = poll_fn(|cx| to.poll_reset(cx)) => return Err(Torn::Over),
        };
        match chunk {
            Some(Ok(chunk)) => {
                let length = chunk.len();
                put(&mut to, chunk).await?;
                from.flow_control().release_capacity(length).map_err(|_| Torn::Over)?;
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
    ended.map_err(|_| Torn::Over)
}

fn torn(to: &mut SendStream<Bytes>, error: &h2::Error) -> Torn {
    to.send_reset(error.reason().filter(|_| error.is_reset()).unwrap_or(Reason::INTERNAL_ERROR));
    Torn::Over
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
        let Some(Ok(room)) = room else { return Err(Torn::Over) };
        let part = chunk.split_to(room.min(chunk.len()));
        if !part.is_empty() {
            to.send_data(part, false).map_err(|_| Torn::Over)?;
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
