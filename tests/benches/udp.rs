//! What datagrams to a service in the cluster cost, and how many get there a second: under `tp run`, and directly from a
//! pod, by turns. Nothing else that goes by a port-forward carries datagrams.

use std::process::ExitCode;

use tp_tests::figures::{at_least, said};
use tp_tests::{Error, Field, Figures};

const ROUNDS: usize = 5;
/// How many go there and back, and of what size.
const ASKED: [&str; 2] = ["1000", "64"];
/// For how many ms as many go there as can, and of what size.
const SENT: [&str; 2] = ["1000", "1200"];
/// Least that must get there, a second.
const RATE_GOAL: f64 = 50_000.0;

const TP: &str = "tp";
const DIRECT: &str = "direct from a pod";

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("udp: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<bool, Error> {
    let field = Field::create("datagrams")?;
    let packets = field.program("packets")?;
    let service = field.serve(&packets)?;
    let mut trips = Figures::new("a datagram of 64 bytes there and back", "us");
    let mut rates = Figures::new("datagrams of 1,200 bytes", "1/s");
    for _ in 0..ROUNDS {
        for way in [TP, DIRECT] {
            let by = |verb: &str, rest: [&str; 2]| {
                let mut command =
                    if way == TP { field.tp(&[], &packets)? } else { field.direct(&packets)? };
                said(command.args([verb, field.address(), service.port()]).args(rest))
            };
            for (part, value) in by("ask", ASKED)? {
                trips.add(&format!("{way}, {part}"), value);
            }
            for (part, value) in by("send", SENT)? {
                rates.add(&format!("{way}, {part}"), value);
            }
        }
    }
    trips.tell()?;
    rates.tell()?;
    Ok(at_least("datagrams that come, a second", rates.median("tp, came"), "/s", RATE_GOAL))
}
