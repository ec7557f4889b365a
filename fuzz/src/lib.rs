//! The fuzz targets' bodies; each file in `fuzz_targets` is one line that calls one of them.

pub mod checks;

/// The launcher's own source, without the launcher.
// No folder of this name is needed to find it from.
#[path = "."]
pub mod vif {
    #[path = "../../launcher/src/vif/packet.rs"]
    pub mod packet;
}
pub mod packets;

// As the launcher's tests call it.
extern crate self as tp;

/// Messages in programs' memory: a module of the launcher, which is too large to be fuzzed as a whole.
#[path = "../../launcher/src/trap/layout.rs"]
pub mod layout;
