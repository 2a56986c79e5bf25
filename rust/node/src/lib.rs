//! The outside of meshos: everything that waits, locks, reads a clock or draws a random number.
//!
//! User code is called from here, through the [`daemon::Daemon`] trait, and never with a lock held.
//!
//! Modules stand in reading order; each uses only those before it.

#![forbid(unsafe_code)]

pub mod sync;
pub mod clock;
pub mod keys;
pub mod lease;
pub mod daemon;
pub mod lane;
pub mod load;
pub mod reactor;
pub mod local_engine;
pub mod mesh;
pub mod carrier;
pub mod letters;
pub mod events;
pub mod commit;
pub mod keeping;
pub mod journal;
pub mod move_desk;
pub mod moves;
pub mod outgoing;
pub mod inside;
pub mod dormant;
pub mod archive;
pub mod slot;
pub mod progress;
pub mod enter;
pub mod leave;
pub mod resumption;
pub mod inspection;
pub mod logs;
pub mod ownership_central;
pub mod ownership;
pub mod deliver;
pub mod revive;
pub mod controls;
pub mod linked;
pub mod mailbox;
pub mod registry;
pub mod pulse;
pub mod resume;
pub mod claims;
pub mod ways;
pub mod router;
pub mod runtime;
pub mod restart;
pub mod callback;
pub mod probes;
pub mod recovery;
pub mod scorer;
pub mod appender;
pub mod dispatch;
pub mod verifier;
pub mod published;
pub mod ears;
pub mod intake;
pub mod records;
pub mod trail_file;
pub mod redb_store;
pub mod verdicts;
pub mod behaviour;
pub mod compute;
pub mod medium;
pub mod mesh_probes;
mod channel_out;
mod channel_send;
mod channel_group;
pub mod channel_publisher;
pub mod channel_reader;
pub mod channel_rows;
pub mod channel_request;
pub mod channels;
pub mod channel_stream;
pub mod channel_line;
pub mod channel_desk;
pub mod remote;
pub mod page;
pub mod follow;
pub mod image;
pub mod hands;
pub mod mover;
mod mover_source;
mod mover_target;
