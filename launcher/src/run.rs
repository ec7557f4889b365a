//! `tp run`: puts the parts together around one command, and takes them apart again.
//!
//! The order is: what can fail without touching anything (the command, the files) comes first; then the pod; then
//! the command. Everything made on the laptop lives in one private [`folder`] and is removed by whatever way this ends.

pub mod folder;

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use socks_proxy::files::Files;
use tokio::sync::watch;
use tp_abi::env;
use tracing::{debug, info, warn};

use crate::child::{self, Signals};
use crate::cli;
use crate::environment::syntax::{Syntax, Written};
use crate::environment::{self, Environment};
use crate::expose::{self, ExposeError, Exposing, Origin};
use crate::flows::Flows;
use crate::gate::{Gate, Parks};
use crate::installed::Installed;
use crate::kube::agent::{Image, PodVolumes};
use crate::kube::stand_in;
use crate::kube::target::Workload;
use crate::method;
use crate::mounts::chosen::{Choice, Laptop};
use crate::mounts::{self, Mounts, Prepared};
use crate::names::Names;
use crate::nameserver::Nameservers;
use crate::placement::{self, METHOD, Place, Placement};
use crate::pod::Pod;
use crate::pod::proxy::ProxyPod;
use crate::pod::spoken::Spoken;
use crate::questions::{Questioned, Questions};
use crate::report::{self, Failure};
use crate::resolver::{self, Resolver};
use crate::scope::Scope;
use crate::services::Services;
use crate::session::{self, At, Session, SessionError};
use crate::shim::{Answers, Server, entry};
use crate::show;
use crate::status::Card;
use crate::sys;
use crate::tell::tell;
use crate::undo::Undo;
use folder::Folder;

/// How long connections that the command closed last may take to be delivered.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// Options for libc's resolver on top of those in resolv.conf (resolv.conf(5)).
const RES_OPTIONS: &str = "RES_OPTIONS";

/// Runs the command; gives its exit code.
///
/// # Errors
/// Whatever keeps it from being started.
pub async fn run(options: cli::Run, signals: &mut Signals) -> Result<u8, Failure> {
    let undo = Arc::new(Undo::default());
    let ended = run_command(options, signals, &undo).await;
    take_back(&undo, signals).await;
    ended
}

/// Gives the cluster back what was changed in it, whatever way the run ended. Whoever is in a hurry is asked twice.
pub async fn take_back(undo: &Undo, signals: &mut Signals) {
    if undo.is_empty() {
        return;
    }
    let hurry = async {
        signals.interrupted().await;
        tell("still undoing what was changed in the cluster; once more leaves it as it is");
        signals.interrupted().await;
    };
    tokio::select! {
        failed = undo.run() => failed.iter().for_each(report::tell_failed),
        () = hurry => report::tell_left(&undo.by_hand()),
    }
}

async fn run_command(options: cli::Run, signals: &mut Signals, undo: &Arc<Undo>) -> Result<u8, Failure> {
    let (program, arguments) = options.command.split_first().ok_or(Failure::NoCommand)?;
    let (path, judged) = method::find(program)?;
    let expose = options.expose.options();
    let method = expose::method(options.method, expose.as_ref())?;
    let installed = Installed::find()?;
    let shim = installed.shim()?;
    let asked = options.method;
    placement::check(method, judged.clone(), &installed.inside()).await.map_err(|error| {
        let low = expose::low_port(expose.as_ref()).filter(|_| method != asked);
        low.map_or_else(|| Failure::from(error), Failure::from)
    })?;
    let folder = Folder::make()?;
    let choice = options.volumes.choice();
    // A SOCKS5 server has no volumes.
    let prepared = match options.proxy {
        Some(_) => Prepared::default(),
        None => mounts::prepare(&choice, &installed.inside(), folder.path()),
    };
    let spinner = spinner();
    let opened = tokio::select! {
        opened = open(&options, &installed, &spinner, undo) => opened,
        signal = signals.interrupted() => Err(Failure::Interrupted(signal)),
    };
    spinner.finish_and_clear();
    let mut side = opened?;
    let exposing = side.exposing.take();
    let method = exposing.as_ref().map_or(Ok(method), |exposing| exposing.method(method))?;
    let exposes: Vec<String> = options.expose.expose.iter().map(ToString::to_string).collect();
    let card = Card::new(folder.path(), &options.command, &exposes);
    let mut files_rx = side.files_rx;
    let files = files_rx.borrow_and_update().clone();
    if let Some(files) = &files {
        resolver::write(folder.path(), files)
            .map_err(|source| Failure::Folder { path: folder.path().to_owned(), source })?;
    }
    write_environment(&options.files, &side.environment)?;
    let shown = show(prepared, &choice, side.session.as_ref(), &folder, &installed);
    let mounts = tokio::select! {
        shown = shown => shown?,
        signal = signals.interrupted() => return Err(Failure::Interrupted(signal)),
    };
    let scope = Arc::new(Scope::new(options.local, options.only));
    let rules = scope.has_rules();
    let names = Arc::new(Names::new(Arc::clone(&side.pod), Arc::clone(&scope)));
    let options = side.environment.get(RES_OPTIONS).or_else(|| std::env::var_os(RES_OPTIONS));
    let options = options.as_deref().map(OsStr::as_bytes);
    let resolver = files.as_ref().map(|files| Arc::new(Resolver::new(files, options)));
    let questions = Questions::new(side.pod, Arc::clone(&names), Arc::clone(&scope), resolver.clone());
    let pod: Arc<dyn Pod> = Arc::new(Questioned(Arc::clone(&questions)));
    let gate = Gate::new(Parks::open()?, Arc::clone(&pod));
    let ports = gate.ports();
    let flows = Flows::new(Arc::clone(&pod));
    let services = Arc::new(Services {
        gate: Arc::clone(&gate),
        flows: Arc::clone(&flows),
        names,
        scope,
        resolver,
        questions,
        nameservers: Nameservers::new(Arc::clone(&pod)),
        pod,
    });
    let home = mounts.home();
    let within = home.within.clone();
    let placement =
        Placement::new(method, installed.inside(), folder.path().to_owned(), services.clone(), home);
    let place = placement.place(&path, judged).await?;
    // With rules, where a connection goes is asked each time.
    let by_shim = match side.server.filter(|_| !rules) {
        None if side.session.is_some() => entry::open(Arc::clone(&services)).ok(),
        server => server,
    };
    let answers = Arc::new(Answers { services, placement, shim: shim.clone() });
    let server = Server::start(folder.path(), Arc::clone(&answers)).map_err(Failure::Listener)?;
    if let Some(exposing) = &exposing {
        let answers = Arc::clone(&answers);
        exposing.program().may_be_inside(move || answers.placement.vif().cloned());
    }

    let mut command = match place {
        Place::Shim => Command::new(&path),
        Place::Inside => Command::new(installed.inside()),
    };
    command.arg0(program).args(arguments);
    command.envs(side.environment.iter()).envs(mounts.variables());
    command.env(env::SOCKET, server.path()).env_remove(METHOD);
    match place {
        Place::Shim => {
            let existing =
                side.environment.get(env::LD_PRELOAD).or_else(|| std::env::var_os(env::LD_PRELOAD));
            command.env(env::LD_PRELOAD, with_preload(&shim, existing));
            command.env(env::SHIM, &shim).env(env::GATE, format!("{},{}", ports.0, ports.1));
            command.envs(by_shim.map(|server| (env::PROXY, server.to_string())));
        }
        Place::Inside => {
            command.env(env::PROGRAM, &path);
        }
    }
    if let Some(within) = within {
        sys::process::start_within(&mut command, within);
    }
    let ended = tokio::select! {
        ended = child::run(command, signals) => ended,
        never = follow(files_rx, folder.path(), &answers.placement) => match never {},
        never = card.keep(side.at_rx) => match never {},
    };
    if let Some(exposing) = exposing {
        exposing.end().await;
    }
    let vif = async {
        if let Some(vif) = answers.placement.vif() {
            vif.drain(DRAIN_LIMIT).await;
            vif.end().await;
        }
    };
    tokio::join!(gate.drain(DRAIN_LIMIT), flows.drain(DRAIN_LIMIT), vif);
    mounts.end().await;
    drop((server, answers));
    drop(side.session);
    let status = ended.map_err(|source| Failure::Start { path, source })?;
    debug!(?status, "ended");
    Ok(child::exit_code(status))
}

/// Has the pod's volumes where the command will find them.
async fn show(
    prepared: Prepared,
    choice: &Choice,
    session: Option<&Session>,
    folder: &Folder,
    installed: &Installed,
) -> Result<Mounts, Failure> {
    let Some(session) = session else { return Ok(Mounts::default()) };
    let laptop = Laptop {
        run: folder.path(),
        tp: &installed.inside(),
        home: std::env::home_dir(),
        folder: std::env::current_dir().ok(),
    };
    let volumes = PodVolumes::of(&session.target, &session.environ, &session.agent);
    Ok(prepared.show(choice, &volumes, &laptop, &session.pod).await?)
}

/// What a command is connected to.
struct Side {
    pod: Arc<dyn Pod>,
    environment: Environment,
    files_rx: watch::Receiver<Option<Files>>,
    at_rx: watch::Receiver<At>,
    session: Option<Session>,
    exposing: Option<Exposing>,
    /// [`env::PROXY`], if there is a SOCKS5 server that the shim may speak with.
    server: Option<Spoken>,
}

async fn open(
    options: &cli::Run,
    installed: &Installed,
    spinner: &ProgressBar,
    undo: &Arc<Undo>,
) -> Result<Side, Failure> {
    if let Some(proxy) = &options.proxy {
        spinner.set_message(format!("connecting to {proxy}"));
        let pod = ProxyPod::connect(proxy.clone()).await?;
        let mut environment = Environment::default();
        environment.extend(&options.changes.env);
        return Ok(Side {
            server: pod.for_the_shim(),
            pod: Arc::new(pod),
            environment,
            files_rx: watch::channel(None).1,
            at_rx: watch::channel(At { pod: proxy.to_string(), linked: true, ..At::default() }).1,
            session: None,
            exposing: None,
        });
    }
    let progress = |step: String| {
        debug!(step, "progress");
        spinner.set_message(step);
    };
    let mut wanted = run_options(options, installed, undo)?;
    wanted.look = options.expose.options().map(|ports| -> session::Look {
        Arc::new(move |target| expose::look(&ports, target).map_err(Into::into))
    });
    let session = session::open(wanted.clone(), &progress).await.map_err(unfit)?;
    let mut environment = environment(&session);
    environment.exclude(&options.changes.env_exclude);
    environment.extend(&options.changes.env);
    let files_rx = session.files_rx.clone();
    if files_rx.borrow().is_none() {
        info!("the agent is of an older version: programs read the laptop's own resolv.conf and hosts");
    }
    let exposing = match options.expose.options() {
        Some(ports) => {
            progress("taking the ports".to_owned());
            let origin = origin(&session, wanted);
            Some(match &session.stand_in {
                Some(stand_in) => Exposing::in_place_of(ports, origin, Arc::clone(stand_in)).await?,
                None => Exposing::open(ports, origin).await?,
            })
        }
        None => None,
    };
    let at_rx = session.at_rx.clone();
    Ok(Side {
        pod: Arc::new(session.pod.clone()),
        environment,
        files_rx,
        at_rx,
        session: Some(session),
        exposing,
        server: None,
    })
}

/// What was not there for the ports, in their own words.
fn unfit(error: SessionError) -> Failure {
    match error {
        SessionError::Unfit(cause) => match cause.downcast::<ExposeError>() {
            Ok(error) => (*error).into(),
            Err(cause) => SessionError::Unfit(cause).into(),
        },
        other => other.into(),
    }
}

/// The variables of the pod's container, and which container that is.
#[must_use]
pub fn environment(session: &Session) -> Environment {
    let mut environment = Environment::from_environ(&session.environ);
    environment.set(environment::POD, &session.agent.pod);
    environment.set(environment::CONTAINER, &session.target.container);
    environment
}

fn write_environment(files: &cli::EnvFiles, environment: &Environment) -> Result<(), Failure> {
    for (path, syntax) in [(&files.env_file, Syntax::Dotenv), (&files.env_json, Syntax::Json)] {
        let Some(path) = path else { continue };
        let written = syntax.write(environment.iter());
        tell_left_out(&written);
        let failed = |source| Failure::EnvFile { path: path.clone(), source };
        environment::file::write(path, &written.text).map_err(failed)?;
    }
    Ok(())
}

/// Names the variables that a syntax could not say.
pub fn tell_left_out(written: &Written) {
    for left_out in &written.left_out {
        tell(left_out);
    }
}

/// Has the files of the pod at hand: the next one's are others.
async fn follow(
    mut files_rx: watch::Receiver<Option<Files>>,
    folder: &Path,
    placement: &Placement,
) -> Infallible {
    while files_rx.changed().await.is_ok() {
        let files = files_rx.borrow_and_update().clone();
        if let Err(error) = files.map_or(Ok(()), |files| resolver::write(folder, &files)) {
            warn!(%error, "the pod's resolv.conf and hosts cannot be written");
        }
        if let Some(vif) = placement.vif() {
            vif.files_changed().await;
        }
    }
    std::future::pending().await
}

/// Whose ports are exposed: those of the session's workload.
fn origin(session: &Session, options: session::Options) -> Origin {
    Origin {
        cluster: session.cluster.clone(),
        secret: session.secret.clone(),
        image: options.image,
        workload: options.workload,
        container: options.container,
        undo: options.undo,
    }
}

fn session_options(
    place: &cli::Place,
    installed: &Installed,
    undo: &Arc<Undo>,
) -> Result<session::Options, Failure> {
    Ok(options_for(place.workload().ok_or(Failure::NoPlace)?, place, installed, undo))
}

fn options_for(
    workload: Workload,
    place: &cli::Place,
    installed: &Installed,
    undo: &Arc<Undo>,
) -> session::Options {
    let image = match &place.agent_image {
        Some(reference) => Image::BuiltIn { reference: reference.clone() },
        None => Image::Base { reference: place.agent_base_image.clone(), program: installed.agent() },
    };
    session::Options {
        context: place.context.clone(),
        namespace: place.namespace.clone(),
        workload,
        container: place.container.clone(),
        image,
        stand_in: None,
        look: None,
        undo: Arc::clone(undo),
    }
}

/// A session without a program. What it makes in the cluster is noted in `undo`, and taken back if it comes to nothing.
///
/// # Errors
/// If there is none, or a signal came first.
pub async fn session(
    place: &cli::Place,
    undo: &Arc<Undo>,
    signals: &mut Signals,
) -> Result<Session, Failure> {
    let installed = Installed::find()?;
    let spinner = spinner();
    let progress = |step: String| spinner.set_message(step);
    let opened = tokio::select! {
        opened = session::open(session_options(place, &installed, undo)?, &progress) => opened.map_err(Failure::from),
        signal = signals.interrupted() => Err(Failure::Interrupted(signal)),
    };
    spinner.finish_and_clear();
    if opened.is_err() {
        take_back(undo, signals).await;
    }
    opened
}

/// As [`session_options`], for a command that may take a workload's place.
fn run_options(
    options: &cli::Run,
    installed: &Installed,
    undo: &Arc<Undo>,
) -> Result<session::Options, Failure> {
    let exposed = options.expose.options();
    let Some(place) = options.stead.place(exposed.as_ref()) else {
        return session_options(&options.place, installed, undo);
    };
    let mut wanted = options_for(place.workload(), &options.place, installed, undo);
    let (container, image) = (wanted.container.clone(), wanted.image.clone());
    wanted.stand_in = Some(stand_in::Options { place, container, image, serves: exposed.is_some() });
    Ok(wanted)
}

/// `tp agent`: makes sure that there is one, and says how to use it.
///
/// # Errors
/// If there is none.
pub async fn agent(options: cli::Agent, signals: &mut Signals) -> Result<u8, Failure> {
    // A pod of our own is what others are to use: it stays, until its agent ends.
    let session = session(&options.place, &Arc::new(Undo::default()), signals).await?;
    let agent = &session.agent;
    let mut text =
        format!("pod        {}\ncontainer  {}\nport       {}\n", agent.pod, agent.container, agent.port);
    if options.show_token {
        text.push_str(&format!("token      {}\n", socks_proxy::link::hex(&agent.token)));
    }
    text.push_str(&format!("\nkubectl port-forward pod/{} 1080:{}\n", agent.pod, agent.port));
    text.push_str("curl --socks5-hostname tp:TOKEN@127.0.0.1:1080 http://SERVICE\n");
    show::print(&text)
}

/// Shown on a terminal only; nothing is drawn elsewhere.
fn spinner() -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        spinner.set_style(style);
    }
    if !spinner.is_hidden() {
        spinner.enable_steady_tick(Duration::from_millis(80));
    }
    spinner
}

/// Our shim in front of what the user preloads already.
fn with_preload(shim: &Path, existing: Option<OsString>) -> OsString {
    let mut preload = shim.as_os_str().to_owned();
    if let Some(existing) = existing.filter(|existing| !existing.is_empty()) {
        preload.push(OsStr::new(":"));
        preload.push(existing);
    }
    preload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_preload_is_kept() {
        let shim = Path::new("/lib/tp/libtp_shim.so");
        assert_eq!(with_preload(shim, None), "/lib/tp/libtp_shim.so");
        assert_eq!(with_preload(shim, Some("".into())), "/lib/tp/libtp_shim.so");
        assert_eq!(with_preload(shim, Some("/x.so".into())), "/lib/tp/libtp_shim.so:/x.so");
    }
}
