//! Regions: shared memory with one writer, its creation, sealing, mapping and table of sections.
//!
//! A region begins with a header page that names its [sections](layout::Section): where an array of what kind lies. The
//! creator computes the table once with checked arithmetic; the other side copies it to private memory, validates it once
//! and never reads it again.

mod array;
mod layout;
mod memory;
#[cfg(feature = "shm-name")]
mod named;
mod process;

pub use array::Array;
pub use layout::{HEADER_SIZE, Header, MAGIC, MAX_LENGTH, MAX_SECTIONS, Plan, Section, TABLE_AT, Table, VERSION};
pub use memory::{Access, Memfd, Region};
#[cfg(feature = "shm-name")]
pub use named::{Name, NamedHost, open_named};
pub use process::{Process, namespaces};
