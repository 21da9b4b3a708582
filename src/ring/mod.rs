//! Rings: lock-free queues over memory that the layer above provides. No system calls, no policy.

pub mod mpmc;
pub mod spsc;
