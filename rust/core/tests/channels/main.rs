//! Channels as a whole: publishers, subscribers, queue groups and remote publishers on a network that goes wrong.

mod simulation;
