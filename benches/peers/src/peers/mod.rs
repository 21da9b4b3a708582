//! The peers, one module each.

mod busway;
mod busway_pool;
mod grpc;
mod iceoryx2;
mod ipc_channel;
mod pipe;
mod shmipc;
mod tokio_uds;
mod uds;
mod zeromq;

mod bytes;

use crate::measure::Peer;

/// In the order of the report.
pub const PEERS: &[&dyn Peer] = &[
    &busway::Busway,
    &busway_pool::BuswayPool,
    &iceoryx2::Iceoryx2,
    &ipc_channel::IpcChannel,
    &uds::Uds,
    &pipe::Pipe,
    &tokio_uds::TokioUds,
    &shmipc::Shmipc,
    &zeromq::ZeroMq,
    &grpc::Grpc,
];
