//! Moves of daemons between nodes: messages, rows, chunks, the machines of each role, and all of it where everything goes
//! wrong.

#[path = "../support/mod.rs"]
mod support;

mod chunks;
mod common;
mod frames;
mod image;
mod known;
mod order;
mod planned;
mod simulation;
mod source;
mod target;
