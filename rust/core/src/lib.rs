//! Words, records and decisions of meshos.
//!
//! The core is values and state machines. It reads no clock, opens no file or socket, starts no thread, takes no lock
//! and draws no random number: time comes in as an argument, keys come in made. So the same machines run under the
//! real runtime, in a test and in a simulation.
//!
//! Modules stand in reading order; each uses only those before it.

#![forbid(unsafe_code)]

// Words.
pub mod id;
pub mod time;
pub mod digest;
pub mod codec;
pub mod armour;
pub mod name;
pub mod finite;
pub mod mix;

// Records.
pub mod identity;
pub mod capability;
pub mod link;
pub mod certificate;
pub mod checkpoint;
pub mod chain;
pub mod fork;
pub mod revocation;
pub mod token;
pub mod sealed_channel;
pub mod channel_frame;
pub mod horizon;
pub mod cursors;
pub mod bindings;
pub mod stats;
pub mod snapshot;
pub mod rows;
pub mod source;
pub mod segment;
pub mod journal;
pub mod dead_letter;
pub mod verify;
pub mod ownership;
pub mod ownership_frame;
pub mod export;
pub mod event;
pub mod control;
pub mod config;
pub mod channel_policy;
pub mod stored;
pub mod remote_frame;
pub mod stream;
pub mod feed_frame;
pub mod sender;
pub mod due;
pub mod move_rows;
pub mod move_frame;
pub mod image;
pub mod route;
pub mod peer;
pub mod buffer;
pub mod frame;
pub mod parcel;
pub mod session;
pub mod heartbeat;
pub mod command;
pub mod blast;
pub mod envelope;
pub mod refusal;
pub mod maintenance_state;
pub mod signal;
pub mod action;
pub mod loop_config;

// Decisions.
pub mod ingress;
pub mod inflow;
pub mod gate;
pub mod host;
pub mod attempts;
pub mod numbers;
pub mod outbox;
pub mod finder;
pub mod consumer;
pub mod feed;
pub mod owner;
pub mod directory;
pub mod remote_call;
pub mod remote_desk;
pub mod move_chunks;
pub mod move_known;
pub mod move_source;
pub mod move_target;
pub mod move_order;
pub mod lifecycle;
pub mod presence;
pub mod channel_keys;
pub mod channel_log;
pub mod subscription;
pub mod queue_group;
pub mod roster;
pub mod remote_publish;
pub mod supervision;
pub mod maintenance;
pub mod control_state;
pub mod retention;
pub mod resumption;
pub mod continuity;
pub mod status;
pub mod trail;
pub mod replay;
pub mod simulate;
pub mod authority;
pub mod world;
pub mod fold;
pub mod placement;
pub mod executor;
pub mod reconcile;
pub mod explain;
pub mod behaviour;

// Contracts.
pub mod store;
pub mod engine;

// Readers.
pub mod entity_log;

#[cfg(feature = "testing")]
pub mod testing;
