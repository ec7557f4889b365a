//! `tp`: parses, sets up signals and log, runs, reports.

use std::fs::File;
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Parser as _;
use tp::child::{Blocked, Signals};
use tp::cli::{Action, Cli, Log};
use tp::doctor;
use tp::leave;
use tp::list;
use tp::nested;
use tp::report::{FAILED, Failure};
use tp::run;
use tp::show;
use tp::status;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("tp {}: {panic}\ntp: --log-file FILE keeps what led to it", env!("CARGO_PKG_VERSION"));
    }));
    nested::leave_shim();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not errors; a failed write to a closed pipe is nobody's loss.
            let _ = error.print();
            return if error.use_stderr() { FAILED.into() } else { ExitCode::SUCCESS };
        }
    };
    match start(cli) {
        Ok(code) => code.into(),
        Err(failure) => {
            failure.print();
            failure.exit_code().into()
        }
    }
}

fn start(cli: Cli) -> Result<u8, Failure> {
    let log = match &cli.command {
        Action::Run(options) => &options.log,
        Action::Agent(options) => &options.log,
        Action::Env(options) => &options.log,
        Action::List(options) => &options.log,
        Action::Status(options) => &options.log,
        Action::Doctor(options) => &options.log,
        Action::Leave(options) => &options.log,
    };
    set_up_log(log)?;
    // Before the runtime's threads are made: they inherit the mask.
    let signals = Blocked::new().map_err(Failure::SetUp)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::SetUp)?;
    let result = runtime.block_on(async {
        let mut signals = signals.watch().map_err(Failure::SetUp)?;
        match cli.command {
            Action::Run(options) => run::run(*options, &mut signals).await,
            Action::Agent(options) => run::agent(*options, &mut signals).await,
            Action::Env(options) => show::env(*options, &mut signals).await,
            Action::List(options) => until_interrupted(&mut signals, list::list(options)).await,
            Action::Status(options) => status::status(&options),
            Action::Doctor(_) => doctor::doctor().await,
            Action::Leave(options) => until_interrupted(&mut signals, leave::leave(options)).await,
        }
    });
    // What still runs is of no use to anybody: lookups, connections of programs left behind.
    runtime.shutdown_background();
    result
}

/// Does what can be cut short at any point: nobody but this reads the signals that are blocked.
async fn until_interrupted(
    signals: &mut Signals,
    action: impl Future<Output = Result<u8, Failure>>,
) -> Result<u8, Failure> {
    tokio::select! {
        done = action => done,
        signal = signals.interrupted() => Err(Failure::Interrupted(signal)),
    }
}

fn set_up_log(log: &Log) -> Result<(), Failure> {
    let level = match log.verbose {
        0 => LevelFilter::OFF,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let file = match &log.log_file {
        None => None,
        Some(path) => {
            let failed = |source| Failure::LogFile { path: path.clone(), source };
            Some(File::options().create(true).append(true).open(path).map_err(failed)?)
        }
    };
    let own = |level| {
        tracing_subscriber::filter::Targets::new().with_target("tp", level).with_target("socks_proxy", level)
    };
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_filter(own(level));
    let to_file = file.map(|file| {
        tracing_subscriber::fmt::layer()
            .with_writer(Mutex::new(file))
            .with_ansi(false)
            .with_filter(own(LevelFilter::DEBUG.max(level)))
    });
    tracing_subscriber::registry().with(to_stderr).with(to_file).init();
    Ok(())
}
