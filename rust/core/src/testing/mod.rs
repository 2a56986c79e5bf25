//! Helpers that the tests of several crates share: repeatable randomness, sample records, a store on a disk and a network
//! that go wrong, simulations on them, and one fuzz function for every decoder.

pub mod channels;
pub mod engines;
pub mod envelopes;
pub mod frames;
pub mod fuzz;
pub mod images;
pub mod meshes;
pub mod move_frames;
pub mod moves;
pub mod network;
pub mod owners;
pub mod ownership;
pub mod random;
pub mod remote;
pub mod samples;
pub mod store;
pub mod streams;
pub mod tokens;
pub mod trails;
