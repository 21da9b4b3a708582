//! Structs that carry their size, so that programs and libraries of different versions understand each other.
//!
//! Each begins with `uint32_t size`, and in each a field of 0 means "as by default", so a shorter one of an older program is one
//! with zeroes behind it. A longer one of a newer program is understood if what is behind is zero.

use crate::error::Failure;
use busway::pool::PoolConfig;
use busway::{Config, Geometry, Idle, SizeClass};
use core::ffi::c_char;
use core::time::Duration;

/// A struct of the header that begins with its size.
///
/// # Safety
/// `repr(C)`, its first field is a `u32`, and it may be all zeroes.
pub(crate) unsafe trait Sized32: Copy {}

// SAFETY: each begins with `size` and is made of numbers and raw pointers.
unsafe impl Sized32 for crate::error::busway_error {}
// SAFETY: as above.
unsafe impl Sized32 for busway_config {}
// SAFETY: as above.
unsafe impl Sized32 for busway_command {}
// SAFETY: as above.
unsafe impl Sized32 for busway_pool_config {}
// SAFETY: as above.
unsafe impl Sized32 for crate::link::busway_stats {}
// SAFETY: as above.
unsafe impl Sized32 for crate::confine::busway_confinement {}
// SAFETY: as above.
unsafe impl Sized32 for crate::confine::busway_grade {}

const NO_STRUCT: Failure = Failure::Invalid("a struct's address is not aligned, or its size is not set");

/// All zeroes.
pub(crate) fn zeroed<T: Sized32>() -> T {
    // SAFETY: by the trait's contract.
    unsafe { core::mem::zeroed() }
}

/// # Safety
/// `at` is null, or valid for as many bytes as its first field says, which may be uninitialised behind that.
unsafe fn size_of_struct<T: Sized32>(at: *const T) -> Result<usize, Failure> {
    if at.is_null() || !at.is_aligned() {
        return Err(NO_STRUCT);
    }
    // SAFETY: by this function's contract.
    let size = unsafe { at.cast::<u32>().read() } as usize;
    if (4..=4096).contains(&size) { Ok(size) } else { Err(NO_STRUCT) }
}

/// Reads options; `NULL` is all by default.
///
/// # Safety
/// `from` is null, or valid for as many bytes as its first field says.
pub(crate) unsafe fn read<T: Sized32>(from: *const T) -> Result<T, Failure> {
    let mut to: T = zeroed();
    if from.is_null() {
        return Ok(to);
    }
    // SAFETY: by this function's contract; a `T` may have any number as its fields.
    unsafe {
        let size = size_of_struct(from)?;
        let known = size.min(size_of::<T>());
        core::ptr::from_mut(&mut to).cast::<u8>().copy_from_nonoverlapping(from.cast(), known);
        let behind = core::slice::from_raw_parts(from.cast::<u8>().add(known), size - known);
        if behind.iter().any(|byte| *byte != 0) {
            return Err(busway::Error::Unsupported {
                what: "an option that this version of the library does not know",
            }
            .into());
        }
    }
    Ok(to)
}

/// Writes a result as far as the caller knows it; what it knows beyond is zeroed. Its size stays as it is.
///
/// # Safety
/// `to` is null, or valid for writes of as many bytes as its first field says.
pub(crate) unsafe fn write<T: Sized32>(to: *mut T, value: T) -> Result<(), Failure> {
    // SAFETY: by this function's contract, and the first four bytes are left alone.
    unsafe {
        let size = size_of_struct(to)?;
        let known = size.min(size_of::<T>());
        let from = core::ptr::from_ref(&value).cast::<u8>();
        to.cast::<u8>().add(4).copy_from_nonoverlapping(from.add(4), known - 4);
        to.cast::<u8>().add(known).write_bytes(0, size - known);
    }
    Ok(())
}

/// Spin for a while, then park. The default.
pub const BUSWAY_IDLE_ADAPTIVE: u32 = 0;
/// Never park: lowest latency, one CPU each.
pub const BUSWAY_IDLE_SPIN: u32 = 1;
/// Park at once: least CPU.
pub const BUSWAY_IDLE_PARK: u32 = 2;
/// Wait by descriptor at once.
pub const BUSWAY_IDLE_POLL: u32 = 3;

/// Slots of one size.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_size_class {
    /// Bytes of a slot: a multiple of 64.
    pub size: u32,
    /// Number of slots.
    pub count: u32,
}

/// What can be chosen about a link. Set it up with busway_config_init(); a field of 0 is as by default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_config {
    /// Bytes of this struct.
    pub size: u32,
    /// What a waiting thread does: one of BUSWAY_IDLE_*.
    pub idle: u32,
    /// The longest spin of BUSWAY_IDLE_ADAPTIVE, in nanoseconds; 20,000 by default.
    pub spin_ns: u64,
    /// Entries of a ring: how many requests can be under way in one direction. A power of two from 8 to 65,536; 1,024 by
    /// default. This and what follows is the host's choice.
    pub entries: u32,
    /// Reply cells: how many calls can await their reply in one direction. From 8 to 65,535; 256 by default.
    pub cells: u32,
    /// Slots, in ascending order of size; NULL for payloads from 0 bytes to 1 MiB.
    pub classes: *const busway_size_class,
    /// How many classes there are.
    pub class_count: u64,
    /// How long a handshake may take, in nanoseconds; 10 seconds by default.
    pub patience_ns: u64,
}

/// A queue that a pool is to have.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_queue_config {
    /// Its name.
    pub name: *const c_char,
    /// For how many requests, 65,536 at most; 1,024 if 0.
    pub capacity: u32,
    /// 0.
    pub flags: u32,
}

/// What can be chosen about a pool. Set it up with busway_pool_config_init(); a field of 0 is as by default, but there has to be a queue.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_pool_config {
    /// Bytes of this struct.
    pub size: u32,
    /// What a waiting thread of the host does: one of BUSWAY_IDLE_*.
    pub idle: u32,
    /// The longest spin of BUSWAY_IDLE_ADAPTIVE, in nanoseconds; 20,000 by default.
    pub spin_ns: u64,
    /// Its queues, 32 at most.
    pub queues: *const busway_queue_config,
    /// How many there are.
    pub queue_count: u64,
    /// How many processes may be members at a time, the host among them: from 1 to 447; 32 by default.
    pub members: u32,
    /// 0.
    pub flags: u32,
    /// Slots, in ascending order of size; NULL for payloads up to 1 MiB. Each request takes one.
    pub classes: *const busway_size_class,
    /// How many classes there are.
    pub class_count: u64,
    /// How long the handshake with a new member may take, in nanoseconds; 10 seconds by default.
    pub patience_ns: u64,
}

/// A program to spawn. Set it up with busway_command_init().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_command {
    /// Bytes of this struct.
    pub size: u32,
    /// 0.
    pub flags: u32,
    /// Path of the program; a name without a slash is looked for in PATH.
    pub program: *const c_char,
    /// Its arguments, the first of which is its own name; ends with NULL. NULL: its name alone.
    pub argv: *const *const c_char,
    /// Its environment, each as NAME=VALUE; ends with NULL. NULL: that of this process.
    pub envp: *const *const c_char,
    /// Its working directory. NULL: that of this process.
    pub cwd: *const c_char,
}

/// How a thread waits.
pub(crate) fn idle(number: u32, spin_ns: u64) -> Result<Idle, Failure> {
    Ok(match number {
        BUSWAY_IDLE_ADAPTIVE if spin_ns == 0 => Idle::default(),
        BUSWAY_IDLE_ADAPTIVE => Idle::Adaptive { spin: Duration::from_nanos(spin_ns) },
        BUSWAY_IDLE_SPIN => Idle::Spin,
        BUSWAY_IDLE_PARK => Idle::Park,
        BUSWAY_IDLE_POLL => Idle::Poll,
        _ => return Err(Failure::Invalid("idle is none of BUSWAY_IDLE_*")),
    })
}

/// Size classes of the caller; `None` if they are as by default.
///
/// # Safety
/// `first` is null, or valid for `count` classes.
pub(crate) unsafe fn classes(first: *const busway_size_class, count: u64) -> Result<Option<Vec<SizeClass>>, Failure> {
    if first.is_null() && count == 0 {
        return Ok(None);
    }
    if count > 32 {
        return Err(Failure::Invalid("there must be from 1 to 32 size classes"));
    }
    // SAFETY: by this function's contract.
    let classes = unsafe { crate::array(first, count as usize)? };
    Ok(Some(classes.iter().map(|c| SizeClass { size: c.size, count: c.count }).collect()))
}

impl busway_config {
    /// # Safety
    /// As [`read`], and the size classes are as many as it says.
    pub(crate) unsafe fn get(from: *const Self) -> Result<(Config, Option<Duration>), Failure> {
        // SAFETY: by this function's contract.
        let (this, classes) = unsafe {
            let this = read(from)?;
            (this, classes(this.classes, this.class_count)?)
        };
        let mut geometry = Geometry::default();
        if this.entries != 0 {
            geometry.entries = this.entries;
        }
        if this.cells != 0 {
            geometry.cells = this.cells;
        }
        if let Some(classes) = classes {
            geometry.classes = classes;
        }
        let config = Config::default().geometry(geometry).idle(idle(this.idle, this.spin_ns)?);
        let patience = (this.patience_ns != 0).then(|| Duration::from_nanos(this.patience_ns));
        Ok((config, patience))
    }
}

impl busway_config {
    /// # Safety
    /// As [`read`].
    pub(crate) unsafe fn idle(from: *const Self) -> Result<Idle, Failure> {
        // SAFETY: by this function's contract.
        let this = unsafe { read(from)? };
        idle(this.idle, this.spin_ns)
    }
}

impl busway_pool_config {
    /// # Safety
    /// As [`read`], and queues and size classes are as many as it says.
    pub(crate) unsafe fn get(from: *const Self) -> Result<PoolConfig, Failure> {
        // SAFETY: by this function's contract.
        let (this, queues, classes) = unsafe {
            let this = read(from)?;
            if this.queue_count > 32 {
                return Err(Failure::Invalid("a pool has 32 queues at most"));
            }
            (this, crate::array(this.queues, this.queue_count as usize)?, classes(this.classes, this.class_count)?)
        };
        let mut config = PoolConfig::new::<String>([]).idle(idle(this.idle, this.spin_ns)?);
        for queue in queues {
            // SAFETY: by this function's contract.
            let name = unsafe { crate::os_str(queue.name)? };
            let name = name.to_str().ok_or(Failure::Invalid("the name of a queue is not UTF-8"))?;
            config = config.queue(name, if queue.capacity == 0 { 1024 } else { queue.capacity });
        }
        if this.flags != 0 || queues.iter().any(|queue| queue.flags != 0) {
            let what = "a flag that this version of the library does not know";
            return Err(busway::Error::Unsupported { what }.into());
        }
        if this.members != 0 {
            config = config.members(this.members);
        }
        if let Some(classes) = classes {
            config = config.classes(classes);
        }
        if this.patience_ns != 0 {
            config = config.patience(Duration::from_nanos(this.patience_ns));
        }
        Ok(config)
    }
}

impl busway_command {
    /// # Safety
    /// As [`read`], and all texts and arrays of it are as documented.
    pub(crate) unsafe fn get(from: *const Self) -> Result<std::process::Command, Failure> {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::process::CommandExt;
        // SAFETY: by this function's contract.
        unsafe {
            let this = read(from)?;
            if this.flags != 0 {
                return Err(busway::Error::Unsupported {
                    what: "a flag that this version of the library does not know",
                }
                .into());
            }
            let mut command = std::process::Command::new(crate::os_str(this.program)?);
            let mut argv = texts(this.argv);
            if let Some(name) = argv.next() {
                command.arg0(name?);
            }
            for argument in argv {
                command.arg(argument?);
            }
            if !this.envp.is_null() {
                command.env_clear();
                for pair in texts(this.envp) {
                    let pair = pair?.as_bytes();
                    let Some(at) = pair.iter().position(|byte| *byte == b'=').filter(|at| *at > 0) else {
                        return Err(Failure::Invalid("a variable of the environment is not NAME=VALUE"));
                    };
                    let os_str = std::ffi::OsStr::from_bytes;
                    command.env(os_str(&pair[..at]), os_str(&pair[at + 1..]));
                }
            }
            if !this.cwd.is_null() {
                command.current_dir(crate::os_str(this.cwd)?);
            }
            Ok(command)
        }
    }
}

/// The texts of an array that ends with NULL, or is NULL.
///
/// # Safety
/// It is one, of C strings, and stays as it is for as long as the result is used.
pub(crate) unsafe fn texts<'a>(
    first: *const *const c_char,
) -> impl Iterator<Item = Result<&'a std::ffi::OsStr, Failure>> {
    let mut at = first;
    core::iter::from_fn(move || {
        // SAFETY: by this function's contract: not beyond the NULL at the end.
        unsafe {
            if at.is_null() || (*at).is_null() {
                return None;
            }
            let text = crate::os_str(*at);
            at = at.add(1);
            Some(text)
        }
    })
}
