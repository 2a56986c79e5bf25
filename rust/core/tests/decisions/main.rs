//! Decisions: each is a table, and every cell of it is visited.

mod channel_keys;
mod maintenance;
mod supervision;
