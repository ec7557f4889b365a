//! What a file of the pod costs beside the same bytes as a plain stream, over one session, by turns.
//!
//! - *stream*: 100 MiB by a stream of the session, as a connection would carry them.
//! - *file*: the same by a file of a volume, read by dd through the kernel.
//! - *find*: 5,000 files in 50 folders.
//!
//! First with both sides in one process and a loopback connection for a link: what the file system adds. It runs in mounts of
//! its own. Then in the cluster, as people have it ([`pod`]). Times are medians in ms.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, io, net, thread};

use nix::mount::{MsFlags, mount};
use socks_proxy::mux::{self, Opener};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tp::volumes::Mount;
use tp_tests::figures::goal;
use tp_tests::{Error, Figures};

#[path = "volumes/pod.rs"]
mod pod;

const ROUNDS: usize = 5;
const LENGTH: u64 = 100 * 1024 * 1024;
/// Set in the process that has mounts of its own.
const INSIDE: &str = "TP_BENCH_OWN_MOUNTS";

/// First byte of a stream: what it is for.
const FILES: u8 = 0;
const BYTES: u8 = 1;

fn main() -> ExitCode {
    let measured = if std::env::var_os(INSIDE).is_some() {
        measure()
    } else {
        in_own_mounts().and_then(|here| Ok(pod::measure().map_err(io::Error::other)? && here))
    };
    match measured {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("volumes: {error}");
            ExitCode::FAILURE
        }
    }
}

fn in_own_mounts() -> io::Result<bool> {
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    unshare.args(["--mount", "--propagation", "private", "--"]).arg(std::env::current_exe()?);
    Ok(unshare.env(INSIDE, "1").status()?.success())
}

fn measure() -> io::Result<bool> {
    let folder = tempfile::tempdir()?;
    let (real, seen) = (folder.path().join("real"), folder.path().join("seen"));
    fs::create_dir(&seen)?;
    fill(&real)?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _entered = runtime.enter();
    let opener = session(&runtime)?;
    let opens = opener.clone();
    let open = move || {
        let opener = opens.clone();
        Box::pin(async move { Ok(Box::new(stream(&opener, FILES).await?) as tp::pod::Stream) }) as _
    };
    let mounts = [Mount { path: "/vol".into(), source: real.clone(), writable: false, is_folder: true }];
    let _served = tp::volumes::serve(fuse(&seen)?, open, &mounts, |_| {})?;
    let (file, tree) = (seen.join("vol/big"), seen.join("vol/tree"));

    let mut figures = Figures::new("a file of the pod, in one process", "ms");
    for round in 0..=ROUNDS {
        let times = [
            ("stream", timed(|| runtime.block_on(drain(&opener)))?),
            ("file", timed(|| run(Command::new("dd").arg(format!("if={}", file.display())).arg("bs=1M")))?),
            ("find", timed(|| run(Command::new("find").arg(&tree).args(["-size", "+1"])))?),
        ];
        // The first round fills the caches of the pod's side.
        if round > 0 {
            for (row, time) in times {
                figures.add(row, time.as_secs_f64() * 1000.0);
            }
        }
        // The kernel keeps pages until the file changes, which it sees within a second.
        fs::File::options().append(true).open(real.join("big"))?.set_modified(SystemTime::now())?;
        thread::sleep(Duration::from_millis(1200));
    }
    let _ = nix::mount::umount2(&seen, nix::mount::MntFlags::MNT_DETACH);
    judge(&figures, "in one process").map_err(io::Error::other)
}

fn judge(figures: &Figures, place: &str) -> Result<bool, Error> {
    figures.tell()?;
    let ratio = figures.median("file") / figures.median("stream");
    let read = goal(&format!("a file of a volume, {place}, over a stream"), ratio, "", 2.0);
    let find = format!("find over 5,000 files of a volume, {place}");
    Ok(goal(&find, figures.median("find"), " ms", 2000.0) && read)
}

fn fill(real: &Path) -> io::Result<()> {
    for folder in 0..50 {
        let folder = real.join(format!("tree/{folder}"));
        fs::create_dir_all(&folder)?;
        for file in 0..100 {
            fs::write(folder.join(format!("file-{file}")), "x")?;
        }
    }
    fs::write(real.join("big"), vec![7; usize::try_from(LENGTH).unwrap_or(0)])
}

/// A session over loopback, with the agent's side on a thread of its own, as the agent has one.
fn session(runtime: &Runtime) -> io::Result<Opener> {
    let listener = net::TcpListener::bind("127.0.0.1:0")?;
    let laptop = net::TcpStream::connect(listener.local_addr()?)?;
    let (pod, _) = listener.accept()?;
    for end in [&laptop, &pod] {
        end.set_nonblocking(true)?;
        end.set_nodelay(true)?;
    }
    let agent = Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || agent.block_on(serve(pod)));
    let (opener, _arrivals, driver) = mux::client(TcpStream::from_std(laptop)?);
    runtime.spawn(driver);
    Ok(opener)
}

async fn serve(pod: net::TcpStream) -> io::Result<()> {
    let mut session = mux::server(TcpStream::from_std(pod)?);
    while let Some(mut stream) = session.accept().await? {
        tokio::spawn(async move {
            if stream.read_u8().await? == FILES {
                return socks_proxy::volumes::serve(stream).await;
            }
            let bytes = tokio::io::BufReader::with_capacity(64 * 1024, tokio::io::repeat(7).take(LENGTH));
            tokio::io::copy_buf(&mut { bytes }, &mut stream).await?;
            stream.shutdown().await
        });
    }
    Ok(())
}

async fn stream(opener: &Opener, what: u8) -> io::Result<mux::MuxStream> {
    let mut stream = opener.open().await?;
    stream.write_u8(what).await?;
    stream.flush().await?;
    Ok(stream)
}

async fn drain(opener: &Opener) -> io::Result<()> {
    let mut stream = stream(opener, BYTES).await?;
    let mut buffer = vec![0; 64 * 1024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

fn fuse(at: &Path) -> io::Result<OwnedFd> {
    let device = OwnedFd::from(fs::File::options().read(true).write(true).open("/dev/fuse")?);
    let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
    let options = format!("fd={},rootmode=40000,user_id={user},group_id={group}", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tp"), at, Some("fuse"), flags, Some(options.as_str()))?;
    Ok(device)
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() { Ok(()) } else { Err(io::Error::other(format!("{output:?}"))) }
}

fn timed(work: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}
