//! The packets of the handshake.

use crate::error::{Error, JoinError, Result};
use crate::region::{MAGIC, VERSION};
use bytemuck::{Pod, Zeroable};

/// Optional features that this version offers, one bit each. None so far.
pub const FEATURES: u64 = 0;

/// One packet: 40 bytes, little endian.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Packet {
    pub magic: u64,
    pub version: u32,
    pub kind: u32,
    /// Bits of [`FEATURES`].
    pub features: u64,
    /// Chosen by the host, repeated by the plugin.
    pub nonce: u64,
    /// Of a refusal: a [`Refusal`].
    pub reason: u32,
    /// Of an offer: the place of the plugin in a pool, 0 for a link.
    pub place: u32,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Hello = 1,
    Offer = 2,
    Ack = 3,
    Go = 4,
    Refuse = 5,
}

/// Why one side refuses the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    Version = 1,
    Identity = 2,
    Policy = 3,
    Failed = 4,
}

impl Packet {
    /// A packet of this kind with nothing else in it.
    pub fn new(kind: Kind) -> Self {
        Self { magic: MAGIC, version: VERSION, kind: kind as u32, features: FEATURES, nonce: 0, reason: 0, place: 0 }
    }

    /// The same packet with this nonce.
    pub fn with_nonce(self, nonce: u64) -> Self {
        Self { nonce, ..self }
    }

    /// A refusal.
    pub fn refuse(reason: Refusal) -> Self {
        Self { reason: reason as u32, ..Self::new(Kind::Refuse) }
    }

    /// The packet in these bytes, if it is of the kind expected.
    ///
    /// # Errors
    /// [`JoinError::BadMagic`], [`Error::VersionMismatch`], [`JoinError::Refused`], [`JoinError::Malformed`].
    pub fn expect(bytes: &[u8], kind: Kind) -> Result<Self> {
        let magic = bytes.get(..8).map(bytemuck::pod_read_unaligned::<u64>);
        if magic != Some(MAGIC) {
            return Err(JoinError::BadMagic.into());
        }
        // Magic and version stay where they are in every version to come; nothing else need.
        let version = bytes.get(8..12).map(bytemuck::pod_read_unaligned::<u32>);
        match version {
            Some(VERSION) => {}
            Some(theirs) => return Err(Error::VersionMismatch { ours: VERSION, theirs }),
            None => return Err(JoinError::Malformed { what: "too short" }.into()),
        }
        let Ok(packet) = bytemuck::try_pod_read_unaligned::<Self>(bytes) else {
            return Err(JoinError::Malformed { what: "of the wrong length" }.into());
        };
        if packet.kind == Kind::Refuse as u32 {
            let reason = match packet.reason {
                r if r == Refusal::Version as u32 => "it needs another version",
                r if r == Refusal::Identity as u32 => "it could not establish who we are",
                r if r == Refusal::Policy as u32 => "its policy does not admit this process",
                _ => "its part of the handshake failed; see its own error",
            };
            return Err(JoinError::Refused { reason }.into());
        }
        if packet.kind != kind as u32 {
            return Err(JoinError::Malformed { what: "not the packet that comes next" }.into());
        }
        Ok(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_name() {
        let hello = bytemuck::bytes_of(&Packet::new(Kind::Hello)).to_vec();
        assert!(Packet::expect(&hello, Kind::Hello).is_ok());
        let fault = |at: usize, len: usize| {
            let mut bytes = hello[..len].to_vec();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x55;
            }
            Packet::expect(&bytes, Kind::Hello).unwrap_err()
        };
        assert!(matches!(fault(0, 40), Error::Join(JoinError::BadMagic)));
        assert!(matches!(fault(99, 0), Error::Join(JoinError::BadMagic)));
        assert!(matches!(fault(8, 40), Error::VersionMismatch { ours: VERSION, .. }));
        assert!(matches!(fault(12, 40), Error::Join(JoinError::Malformed { .. })));
        assert!(matches!(fault(99, 39), Error::Join(JoinError::Malformed { .. })));
        let refusal = Packet::refuse(Refusal::Policy);
        let refused = Packet::expect(bytemuck::bytes_of(&refusal), Kind::Go).unwrap_err();
        assert!(matches!(refused, Error::Join(JoinError::Refused { .. })));
    }
}
