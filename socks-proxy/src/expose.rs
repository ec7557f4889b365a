//! Ports of the pod that a program on the laptop serves.

pub mod wire;
