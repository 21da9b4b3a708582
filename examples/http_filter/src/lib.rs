//! An HTTP/1.1 server on hyper and tokio whose requests pass through a filter in a process of its own.
//!
//! | module | what |
//! |---|---|
//! | [`format`] | what server and filter say to each other, flat |
//! | [`policy`] | what the filter decides |
//! | [`plugin`] | the filter process |
//! | [`transport`] | the way to it: over a link, over a Unix socket |
//! | [`server`] | connections, requests, failures, replacement |

pub mod format;
pub mod frame;
pub mod plugin;
pub mod policy;
pub mod server;
pub mod transport;
