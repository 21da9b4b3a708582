//! Pools by name.

use crate::error::{Failure, busway_status};
use crate::handle;
use crate::options::{busway_config, busway_pool_config};
use crate::pool::{Seated, busway_pool};
use crate::{guard, os_str, out};
use busway::JoinError;
use busway::pool::{Member, Pool};
use core::ffi::c_char;

/// Makes a pool that other processes of this user open by name, without a socket. The name has from 1 to 64 characters of A-Z, a-z, 0-9,
/// `_`, `.` and `-`, and does not begin with a dot; it is free again once the pool is freed, or this process is dead. It never blocks on
/// another process. Two files in /dev/shm have the name. busway_pool_spawn and busway_pool_listen answer BUSWAY_UNSUPPORTED.
///
/// The size of the memory is not sealed: other processes of this user can cut it short, and a member that touches it then gets a SIGBUS.
/// Threads: any. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_INVALID_NAME, with BUSWAY_JOIN_TAKEN if a host that lives has the name, with
/// BUSWAY_JOIN_IDENTITY if a file in /dev/shm that would be the pool's is not of this user alone, with BUSWAY_JOIN_GEOMETRY; BUSWAY_IO;
/// BUSWAY_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_create_named(
    name: *const c_char,
    config: *const busway_pool_config,
    pool: *mut *mut busway_pool,
) -> busway_status {
    guard(|| {
        // SAFETY: the caller's pointers are as the header says, here and in all functions below.
        let (to, name, config) = unsafe { (out(pool)?, utf8(name)?, busway_pool_config::get(config)?) };
        to.write(handle::insert(Seated::Host(Pool::create_named(name, &config)?))?);
        Ok(())
    })
}

/// Joins the pool of this name that another process of this user made, or this one; of the configuration, which may be NULL, it is what a
/// waiting thread does. It never blocks on another process. Free the pool before exec: the host does not take a process that lives on for
/// gone.
/// Threads: any. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_NO_HOST if there is none, or it has died, or is not ready yet, with
/// BUSWAY_JOIN_INVALID_NAME, with BUSWAY_JOIN_IDENTITY for a host in another pid or time namespace or files that are not of this user alone,
/// with BUSWAY_JOIN_TAKEN if there are as many members as there may be; BUSWAY_VERSION_MISMATCH; BUSWAY_CLOSED; BUSWAY_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_open_named(
    name: *const c_char,
    config: *const busway_config,
    pool: *mut *mut busway_pool,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to, name, idle) = unsafe { (out(pool)?, utf8(name)?, busway_config::idle(config)?) };
        to.write(handle::insert(Seated::Member(Member::open_named(name, idle)?))?);
        Ok(())
    })
}

/// # Safety
/// As [`os_str`].
unsafe fn utf8<'a>(name: *const c_char) -> Result<&'a str, Failure> {
    // SAFETY: by this function's contract.
    Ok(unsafe { os_str(name)? }.to_str().ok_or(busway::Error::from(JoinError::InvalidName))?)
}
