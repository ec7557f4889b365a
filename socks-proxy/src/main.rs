//! tp-agent.
fn main() {}
