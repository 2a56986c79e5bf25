//! Decisions: each is a table, and every cell of it is visited.

mod channel_keys;
mod channel_log;
mod maintenance;
mod queue_group;
mod remote_publish;
mod roster;
mod subscription;
mod supervision;
