//! A laptop of its own for one case: another network with a wire to the node, which can be cut without anybody else noticing.

use std::process::Command;

use crate::laptop::Place;
use crate::layout::{NODE_NETNS, netns_file};
use crate::{Error, Laptop, netns};

/// The network; it goes when this is dropped.
#[derive(Debug)]
pub struct Apart {
    laptop: Laptop,
    name: String,
    gateway: String,
    place: Place,
}

impl Apart {
    /// Makes the network; user and files are those of `laptop`.
    pub fn new(laptop: &Laptop) -> Result<Self, Error> {
        let number = std::process::id();
        let name = format!("tp-apart-{number}");
        // A wire's name has at most 15 letters, and a process number at most 22 bits.
        let wire = format!("tp-{number}");
        let subnet = format!("10.89.{}.{}", number >> 6 & 255, (number & 63) << 2);
        let (node, own) = (host(&subnet, 1), host(&subnet, 2));
        netns::create(&name)?;
        let place = Place { network: netns_file(&name), ..laptop.place() };
        let apart = Self { laptop: laptop.clone(), name, gateway: node.clone(), place };
        netns::ip(
            NODE_NETNS,
            &[
                &format!("link add {wire} type veth peer name eth0 netns {}", apart.name),
                &format!("addr add {node}/30 dev {wire}"),
                &format!("link set {wire} up"),
            ],
        )?;
        netns::ip(&apart.name, &[&format!("addr add {own}/30 dev eth0")])?;
        apart.mend()?;
        Ok(apart)
    }

    /// A command that will run there.
    pub fn command(&self, program: &str) -> Result<Command, Error> {
        self.laptop.command_in(&self.place, program)
    }

    /// Takes the wire out: the laptop's end of it is down.
    pub fn cut(&self) -> Result<(), Error> {
        netns::ip(&self.name, &["link set eth0 down"])
    }

    /// Puts it in again.
    pub fn mend(&self) -> Result<(), Error> {
        netns::ip(&self.name, &["link set eth0 up", &format!("route add default via {}", self.gateway)])
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Err(error) = netns::delete(&self.name) {
            eprintln!("the network {} stays: {error}", self.name);
        }
    }
}

fn host(subnet: &str, number: u32) -> String {
    let (front, last) = subnet.rsplit_once('.').unwrap_or((subnet, "0"));
    format!("{front}.{}", last.parse::<u32>().unwrap_or(0) + number)
}
