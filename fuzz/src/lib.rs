//! The fuzz targets' bodies; each file in `fuzz_targets` is one line that calls one of them.

pub mod checks;
