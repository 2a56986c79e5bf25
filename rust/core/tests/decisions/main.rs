//! Decisions of the behaviour loop: each is a table, and every cell of it is visited.

mod maintenance;
mod supervision;
