//! The commands other than CONNECT: names, DNS messages, datagrams, the environment, the resolver's files.

use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tp_abi::errno::reply;

use crate::dial::{addresses, unresolved};
use crate::limits::{Permit, QUESTIONS_A_STREAM};
use crate::proto::{DNS_OVER_TCP, LOOKUP_A, LOOKUP_AAAA, LOOKUP_CONFIGURED, LOOKUP_ORDERED, Reply, Target};
use crate::resolve::exchange::framed;
use crate::resolve::message::{self, HEADER_LEN};
use crate::resolve::{Families, ResolveError, families, order};

use super::Agent;
use super::conversation::{finish, refuse, send, unless_gone};
use super::inbox::{Connection, Inbox};

/// Variables with this beginning are the agent's own and not told.
const OWN: &[u8] = b"TP_AGENT_";

/// Tor's RESOLVE: the first address of a name, of a family that the pod has.
pub(super) async fn resolve(
    agent: &Agent,
    mut inbox: Inbox<impl Connection>,
    target: Target,
) -> io::Result<()> {
    let name = match target {
        Target::Ip(address) => return finish(inbox, &Reply::with((address.ip(), 0))).await,
        Target::Name(name, _) => name,
    };
    let Some(_lookup) = agent.limits.lookups.take() else {
        return refuse(inbox, reply::GENERAL_FAILURE).await;
    };
    let found = unless_gone(&mut inbox, agent.resolver.addresses(&name, configured())).await?;
    match found.as_deref() {
        Ok([first, ..]) => finish(inbox, &Reply::with((*first, 0))).await,
        Ok([]) => refuse(inbox, reply::HOST_UNREACHABLE).await,
        Err(error) => refuse(inbox, unresolved(error)).await,
    }
}

/// Tor's `RESOLVE_PTR`: the name of an address.
pub(super) async fn resolve_ptr(
    agent: &Agent,
    mut inbox: Inbox<impl Connection>,
    target: Target,
) -> io::Result<()> {
    let address: Option<IpAddr> = match &target {
        Target::Ip(address) => Some(address.ip()),
        Target::Name(name, _) => name.parse().ok(),
    };
    let Some(address) = address else { return refuse(inbox, reply::ADDRESS_NOT_SUPPORTED).await };
    let Some(_lookup) = agent.limits.lookups.take() else {
        return refuse(inbox, reply::GENERAL_FAILURE).await;
    };
    match unless_gone(&mut inbox, agent.resolver.name(address)).await? {
        Ok(name) => finish(inbox, &Reply::with(Target::Name(name, 0))).await,
        Err(error) => refuse(inbox, unresolved(&error)).await,
    }
}

/// LOOKUP: addresses by the search list, as the messages that came.
pub(super) async fn lookup(
    agent: &Agent,
    mut inbox: Inbox<impl Connection>,
    target: Target,
) -> io::Result<()> {
    let (name, bits) = match target {
        Target::Name(name, bits) => (name, bits),
        Target::Ip(address) => (address.ip().to_string(), address.port()),
    };
    let Some(families) = wanted(bits) else { return refuse(inbox, reply::GENERAL_FAILURE).await };
    if !families.ipv4 && !families.ipv6 {
        // As glibc: no name has an address that could be used.
        return refuse(inbox, reply::HOST_UNREACHABLE).await;
    }
    let Some(_lookup) = agent.limits.lookups.take() else {
        return refuse(inbox, reply::GENERAL_FAILURE).await;
    };
    match unless_gone(&mut inbox, agent.resolver.lookup(&name, families)).await? {
        Ok(messages) => {
            send(&mut inbox, &Reply::succeeded()).await?;
            for message in &messages {
                inbox.write_all(&framed(message)).await?;
            }
            if bits & LOOKUP_ORDERED != 0 {
                let found = messages.iter().flat_map(|message| message::addresses(message)).collect();
                // No message is empty: this ends them.
                inbox.write_all(&framed(&[])).await?;
                inbox.write_all(&framed(&order::encode(&order::ordered(found)))).await?;
            }
            inbox.end().await
        }
        Err(ResolveError::NoAnswer { .. }) => refuse(inbox, reply::TTL_EXPIRED).await,
        Err(_) => refuse(inbox, reply::HOST_UNREACHABLE).await,
    }
}

/// The families of a LOOKUP's bits that the pod has use for; `None` if it asks for none.
fn wanted(bits: u16) -> Option<Families> {
    let mut families = Families { ipv4: bits & LOOKUP_A != 0, ipv6: bits & LOOKUP_AAAA != 0 };
    if !families.ipv4 && !families.ipv6 {
        return None;
    }
    let pod = families::seen_by_glibc();
    // Without any address glibc asks for what was wanted, and connect() says why it is of no use.
    if bits & LOOKUP_CONFIGURED != 0 && (pod.ipv4 || pod.ipv6) {
        families.ipv4 &= pod.ipv4;
        families.ipv6 &= pod.ipv6;
    }
    Some(families)
}

fn configured() -> Families {
    let flags = families::configured();
    if flags.ipv4 || flags.ipv6 { Families { ipv4: flags.ipv4, ipv6: flags.ipv6 } } else { Families::BOTH }
}

/// DNS: questions in, answers out as they come.
pub(super) async fn dns(agent: &Agent, mut inbox: Inbox<impl Connection>, bits: u16) -> io::Result<()> {
    send(&mut inbox, &Reply::succeeded()).await?;
    let tcp = bits & DNS_OVER_TCP != 0;
    let (mut questions, mut answers) = tokio::io::split(inbox);
    let mut open = FuturesUnordered::new();
    let mut question = std::pin::pin!(read_question(&mut questions));
    let mut ended = false;
    loop {
        tokio::select! {
            read = &mut question, if !ended && open.len() < QUESTIONS_A_STREAM => {
                let (read, reader) = read?;
                match read {
                    Some(read) => {
                        open.push(forward(agent, read, tcp));
                        question.set(read_question(reader));
                    }
                    None => ended = true,
                }
            }
            Some(answer) = open.next() => {
                answers.write_all(&framed(&answer)).await?;
                answers.flush().await?;
            }
            else => return answers.shutdown().await,
        }
    }
}

/// The next question, `None` at the stream's end; gives the reader back for the one after it.
async fn read_question<R: AsyncReadExt + Unpin>(reader: &mut R) -> io::Result<(Option<Vec<u8>>, &mut R)> {
    let length = match reader.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((None, reader)),
        Err(error) => return Err(error),
    };
    if length < HEADER_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a DNS message shorter than its header"));
    }
    let mut question = vec![0; length];
    reader.read_exact(&mut question).await?;
    Ok((Some(question), reader))
}

async fn forward(agent: &Agent, question: Vec<u8>, tcp: bool) -> Vec<u8> {
    let lookup: Option<Permit> = agent.limits.lookups.take();
    match lookup {
        Some(_lookup) => agent.resolver.forward(&question, tcp).await,
        None => message::failure(&question),
    }
}

/// DATAGRAMS: one UDP flow.
pub(super) async fn datagrams(
    agent: &Agent,
    mut inbox: Inbox<impl Connection>,
    target: Target,
) -> io::Result<()> {
    let Some(_flow) = agent.limits.flows.take() else { return refuse(inbox, reply::GENERAL_FAILURE).await };
    let connected = unless_gone(&mut inbox, async {
        let addresses: Vec<SocketAddr> = addresses(&agent.resolver, &target).await?;
        crate::datagrams::connect(&addresses).await
    });
    match connected.await? {
        Ok(socket) => {
            send(&mut inbox, &Reply::with(socket.local_addr()?)).await?;
            crate::datagrams::carry(inbox, &socket).await
        }
        Err(code) => refuse(inbox, code).await,
    }
}

/// ENVIRON: the container's environment, which the kubelet made.
pub(super) async fn environ(mut inbox: Inbox<impl Connection>) -> io::Result<()> {
    send(&mut inbox, &Reply::succeeded()).await?;
    // As the first process of the container had it: a shell that became the agent kept no names that are not its own.
    let file = std::env::var_os("TP_AGENT_ENVIRON").unwrap_or_else(|| "/proc/self/environ".into());
    let environ = std::fs::read(file)?;
    let variables = environ.split_inclusive(|byte| *byte == 0);
    inbox
        .write_all(&variables.filter(|variable| !variable.starts_with(OWN)).collect::<Vec<_>>().concat())
        .await?;
    inbox.end().await
}

/// RESOLVER: resolv.conf and hosts, which the kubelet made.
pub(super) async fn resolver(agent: &Agent, mut inbox: Inbox<impl Connection>) -> io::Result<()> {
    send(&mut inbox, &Reply::succeeded()).await?;
    inbox.write_all(&agent.resolver.files().encode()).await?;
    inbox.end().await
}

/// VOLUMES: file operations, for as long as the stream is open.
pub(super) async fn volumes(agent: &Agent, mut inbox: Inbox<impl Connection>) -> io::Result<()> {
    let Some(_volumes) = agent.limits.volumes.take() else {
        return refuse(inbox, reply::GENERAL_FAILURE).await;
    };
    send(&mut inbox, &Reply::succeeded()).await?;
    crate::volumes::serve(inbox).await
}
