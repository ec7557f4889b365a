//! A TUN device with a TCP stack in user space behind it: how private networks are mostly made elsewhere.
//!
//! `smoltcp BULK... up|down ADDRESS PORT MIB` connects to the service, goes into a user and network namespace of its own,
//! runs `bulk` there against the device's other end, and carries the one stream to the service: what a launcher would
//! do, with nothing else that it would have to do. With `-` for the address the stream ends here, in memory.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::process::{Child, Command, ExitCode};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Medium, TunTapInterface};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::service::Service;

const DEVICE: &str = "tun0";
/// Of the namespace, so that it is nobody's.
const KERNELS: &str = "10.0.9.1/24";
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 2);
const PORT: u16 = 7;
/// As large a segment as IP has.
const MTU: &str = "65535";
const BUFFER: usize = 4 << 20;
/// How often the program's end is looked for, in ms.
const LOOK: u16 = 10;

pub(crate) fn main(words: &[String]) -> ExitCode {
    match run(words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("smoltcp: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether `bulk` succeeded.
fn run(words: &[String]) -> io::Result<bool> {
    let [bulk, options @ .., direction, address, port, mib] = words else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let far = if address == "-" {
        Far::Here(Service::default())
    } else {
        let service = TcpStream::connect(format!("{address}:{port}"))?;
        service.set_nonblocking(true)?;
        Far::Service(service)
    };
    make_namespace()?;
    let mut stack = Stack::new(far)?;
    let mut program = Command::new(bulk)
        .args(options)
        .args([direction, &OWN.to_string(), &PORT.to_string(), mib])
        .spawn()?;
    stack.carry(&mut program)
}

fn make_namespace() -> io::Result<()> {
    let (uid, gid) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    for line in [
        format!("tuntap add {DEVICE} mode tun"),
        format!("address add {KERNELS} dev {DEVICE}"),
        format!("link set {DEVICE} mtu {MTU} up"),
    ] {
        if !Command::new("ip").args(line.split(' ')).status()?.success() {
            return Err(io::Error::other(format!("ip {line}")));
        }
    }
    Ok(())
}

/// Where the stream goes.
enum Far {
    Service(TcpStream),
    Here(Service),
}

impl Read for Far {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Service(service) => service.read(room),
            Self::Here(service) => service.give(room.len()).ok_or_else(|| io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Far {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Service(service) => service.write(bytes),
            Self::Here(service) => Ok(service.take(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Stack {
    far: Far,
    device: TunTapInterface,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Stack {
    fn new(far: Far) -> io::Result<Self> {
        let mut device = TunTapInterface::new(DEVICE, Medium::Ip)?;
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut device, Instant::now());
        let own = IpCidr::new(IpAddress::from(OWN), 24);
        interface.update_ip_addrs(|addresses| addresses.push(own).unwrap_or_default());
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.listen(PORT).map_err(|error| io::Error::other(error.to_string()))?;
        let mut sockets = SocketSet::new([]);
        let handle = sockets.add(socket);
        Ok(Self { far, device, interface, sockets, handle })
    }

    /// Carries until the program ends; whether it succeeded.
    fn carry(&mut self, program: &mut Child) -> io::Result<bool> {
        loop {
            let now = Instant::now();
            self.interface.poll(now, &mut self.device, &mut self.sockets);
            let (wants, moved) = self.advance()?;
            self.interface.poll(now, &mut self.device, &mut self.sockets);
            if !moved
                && self.wait(wants)? == 0
                && let Some(status) = program.try_wait()?
            {
                return Ok(status.success());
            }
        }
    }

    /// Takes and gives what there is room for; what of the service is to be waited for, and whether there was any.
    fn advance(&mut self) -> io::Result<(PollFlags, bool)> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        let mut wants = PollFlags::empty();
        let mut moved = false;
        let far = &mut self.far;
        while socket.can_recv() {
            let written = socket.recv(|bytes| match far.write(bytes) {
                Ok(length) => (length, Ok(length)),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Ok(_)) => moved = true,
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    wants |= PollFlags::POLLOUT;
                    break;
                }
                Ok(Err(error)) => return Err(error),
                Err(_no_more) => break,
            }
        }
        if socket.state() == tcp::State::CloseWait
            && let Far::Service(service) = far
        {
            // Again and again, until the program has ended: it is idempotent.
            let _ = service.shutdown(Shutdown::Write);
        }
        while socket.can_send() {
            let read = socket.send(|room| match far.read(room) {
                Ok(length) => (length, Ok(length)),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok(0)) => socket.close(),
                Ok(Ok(_)) => moved = true,
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    wants |= PollFlags::POLLIN;
                    break;
                }
                Ok(Err(error)) => return Err(error),
                Err(_no_more) => break,
            }
        }
        Ok((wants, moved))
    }

    /// Waits for something to do, but not long; how much there is.
    fn wait(&mut self, wants: PollFlags) -> io::Result<i32> {
        let limit = self
            .interface
            .poll_delay(Instant::now(), &self.sockets)
            .map_or(LOOK, |delay| u16::try_from(delay.total_millis()).map_or(LOOK, |delay| delay.min(LOOK)));
        // SAFETY: the device keeps its descriptor open for as long as it lives, which is longer than this call.
        let device = unsafe { BorrowedFd::borrow_raw(self.device.as_raw_fd()) };
        let device = PollFd::new(device, PollFlags::POLLIN);
        let limit = PollTimeout::from(limit);
        Ok(match &self.far {
            Far::Service(service) => poll(&mut [device, PollFd::new(service.as_fd(), wants)], limit)?,
            Far::Here(_) => poll(&mut [device], limit)?,
        })
    }
}
