//! How two processes come together: socket, descriptors, negotiation, credentials, pidfd.
//!
//! # Handshake
//!
//! Over one SOCK_SEQPACKET socket, inherited by a spawned child or connected to by path, in packets of one fixed size:
//!
//! ```text
//! plugin                                     host
//! HELLO version, features             ->     credentials by SCM_CREDENTIALS; opens a pidfd for that pid
//!                                     <-     OFFER features of both, nonce, place; memory files, and last a pidfd
//! maps the files; ACK nonce           ->     same credentials, and the pidfd says alive: it is the process we know
//!                                            of a link: seals the plugin's region, checks it, maps it
//!                                     <-     GO
//! ```
//!
//! Either side may answer REFUSE with a reason instead. After GO nothing is sent; the socket stays open, and its closing is
//! a hint that the process on the other side is gone. The pidfd decides.

mod child;
mod door;
mod guest;
mod identity;
mod offer;
#[doc(hidden)]
mod packet;
mod socket;

pub use child::{Child, SOCKET_VARIABLE};
pub use door::Door;
pub use guest::Guest;
pub use identity::{Credentials, Identity};
pub use offer::{Offer, is_spawned};
pub use packet::{FEATURES, Kind, Packet, Refusal};
pub use socket::Socket;
