//! The plugin's side of joining.

use crate::config::Config;
use crate::confine::Grade;
use crate::error::{Error, JoinError, Result};
use crate::join::{self, Offer};
use crate::link::{BellView, End, Geometry, Link, Side, View};
use crate::region::{Access, Memfd, Table, VERSION};
use crate::sync;
use crate::wake::Doorbell;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The side that uses the memory which its host made.
///
/// ```no_run
/// use busway::Plugin;
///
/// let link = Plugin::attach()?;
/// link.serve(|request| {
///     let shout = request.to_vec().to_ascii_uppercase();
///     let _ = request.reply(&shout);
/// })?;
/// # Ok::<(), busway::Error>(())
/// ```
#[derive(Debug)]
pub struct Plugin;

impl Plugin {
    /// Joins the host that spawned this process, with the default configuration.
    ///
    /// # Errors
    /// [`JoinError::NotAPlugin`] if no host did, or this was called before; the other reasons of [`JoinError`], in
    /// [`Error::Join`]; [`Error::VersionMismatch`]; I/O errors.
    pub fn attach() -> Result<Link> {
        Self::attach_with(&Config::default())
    }

    /// As [`attach`](Self::attach), with a configuration; its geometry is not used, the host's is.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_with(config: &Config) -> Result<Link> {
        begin(Offer::inherited()?, config)
    }

    /// Joins the host that [listens](crate::Host::listen) at `path`.
    ///
    /// # Errors
    /// I/O errors if nobody listens there; [`JoinError::Refused`]; otherwise as [`attach`](Self::attach).
    pub fn connect(path: impl AsRef<Path>, config: &Config) -> Result<Link> {
        begin(Offer::connect(path.as_ref())?, config)
    }

    /// Whether this process, or one that it descends from, was spawned by a host: for programs that are their own plugin.
    pub fn is_spawned() -> bool {
        join::is_spawned()
    }
}

fn begin(offer: Offer, config: &Config) -> Result<Link> {
    let ((ours, theirs, bells, doorbell), host) = offer.accept(|files, place| {
        if place != 0 {
            return Err(Error::Unsupported { what: "a link, where the host offers a place in a pool" });
        }
        let Ok([host_file, own_file, bells_file, doorbell]) = <[OwnedFd; 4]>::try_from(files) else {
            return Err(JoinError::Malformed { what: "an offer without its five descriptors" }.into());
        };
        let (ours, theirs, bells) = map(host_file, own_file, bells_file)?;
        Ok((ours, theirs, bells, doorbell))
    })?;
    let doorbell = Doorbell::new(doorbell, host.watched.into())?;
    let end = End::new(ours, theirs, bells, Some(doorbell), 1, config.options(Side::Plugin));
    Ok(Link::new(end, host.credentials, Grade::Unconfined))
}

/// Maps the regions and finds everything in them.
fn map(
    host_file: OwnedFd,
    own_file: OwnedFd,
    bells_file: OwnedFd,
) -> Result<(View<sync::AtomicU32>, View<sync::PeerWord>, BellView)> {
    let table = |region: &crate::region::Region, len| {
        let page = region.copy_header();
        match Table::version(&page)? {
            VERSION => Ok(Table::from_page(&page, len)?),
            theirs => Err(Error::VersionMismatch { ours: VERSION, theirs }),
        }
    };
    let [host_file, own_file, bells_file] = [host_file, own_file, bells_file].map(Memfd::received);
    let (host_file, own_file, bells_file) = (host_file?, own_file?, bells_file?);
    let (theirs, ours) = (host_file.map(Access::ReadOnly)?, own_file.map(Access::ReadWrite)?);
    let their_table = table(&theirs, host_file.len() as u64)?;
    let our_table = table(&ours, own_file.len() as u64)?;
    let geometry = Geometry::of(&our_table)?;
    if geometry != Geometry::of(&their_table)? {
        return Err(JoinError::Geometry { what: "the two regions differ" }.into());
    }
    let bells = bells_file.map(Access::ReadWrite)?;
    let bell_table = table(&bells, bells_file.len() as u64)?;
    let bells = BellView::new(bells, &bell_table, geometry.cells, Side::Plugin)?;
    // SAFETY: our region is written by this process alone once the host has sealed it, before it says go; the other one is
    // mapped read-only. The tables were validated.
    unsafe { Ok((View::new(ours, &our_table)?, View::new(theirs, &their_table)?, bells)) }
}
