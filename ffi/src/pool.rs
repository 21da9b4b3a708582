//! Pools.

use crate::error::{Failure, busway_status};
use crate::handle::{self, Held};
use crate::host::{Door, busway_listener};
use crate::link::busway_stats;
use crate::message::{borrowed_back, busway_call, busway_loan, busway_message, deliver, lend, pend};
use crate::object::{At, object};
use crate::options::{self, busway_command, busway_config, busway_pool_config};
use crate::request::{busway_request, hand_over, hand_over_all};
use crate::{BUSWAY_NOW, array, ask, await_one, bytes, check_array, deadline, guard, os_str, out};
use busway::pool::{Member, MemberProcess, Pool, Queue, Worker};
use busway::{Deadline, Error, Payload};
use core::ffi::{c_char, c_void};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;

/// A pool, as one of its processes sees it: many processes, one memory, queues that any of them may send to and receive from. Its host
/// makes it and admits members. Many threads may use it at once.
pub struct busway_pool;

/// A member of a pool that was spawned.
pub struct busway_process;

/// What a pool's handle names.
pub(crate) enum Seated {
    Host(Pool),
    Member(Member),
}

impl core::ops::Deref for Seated {
    type Target = Member;

    #[inline(always)]
    fn deref(&self) -> &Member {
        match self {
            Seated::Host(pool) => pool,
            Seated::Member(member) => member,
        }
    }
}

impl Held for Seated {
    const KIND: u64 = 5;
    const NOT: &'static str = "no pool, or one that was freed";

    fn end(&self) {
        match self {
            Seated::Host(pool) => pool.close(Deadline::from_nanos(1)),
            Seated::Member(member) => member.leave(),
        }
    }
}

impl Seated {
    fn host(&self) -> Result<&Pool, Failure> {
        match self {
            Seated::Host(pool) => Ok(pool),
            Seated::Member(_) => Err(Error::Unsupported { what: "what only the host of a pool can do" }.into()),
        }
    }
}

impl Held for MemberProcess {
    const KIND: u64 = 6;
    const NOT: &'static str = "no process, or one that was freed";
}

/// A queue of a pool. It lies in the caller's memory, is zeroed before its first use, and is not copied or moved. It holds nothing, so
/// it need not be given back; it ends with the handle of its pool, as BUSWAY_CLOSED. Many threads may use it at once.
#[repr(C)]
pub struct busway_queue {
    /// Number of the pool's handle.
    pub pool: u64,
    /// Of the library.
    pub reserved: [u64; 8],
}

/// Takes requests from queues of a pool. As busway_queue: it holds nothing, and many threads may use it at once.
#[repr(C)]
pub struct busway_worker {
    /// Number of the pool's handle.
    pub pool: u64,
    /// Of the library.
    pub reserved: [u64; 12],
}

object!(busway_queue holds Queue<'static>, tag 0x90e0, spent: "a queue that was never asked for, or copied", |_, _| {});
object!(busway_worker holds Worker<'static>, tag 0x3042, spent: "a worker that was never made, or copied", |_, _| {});

/// Makes a pool, of which this process is the host.
/// Threads: any. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_GEOMETRY; BUSWAY_IO; BUSWAY_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_create(
    config: *const busway_pool_config,
    pool: *mut *mut busway_pool,
) -> busway_status {
    guard(|| {
        // SAFETY: the caller's pointers are as the header says, here and in all functions below.
        let (to, config) = unsafe { (out(pool)?, busway_pool_config::get(config)?) };
        to.write(handle::insert(Seated::Host(Pool::create(&config)?))?);
        Ok(())
    })
}

/// Members of a pool inside this process, the first of them in the host's place: for tests. Nobody watches them.
/// Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_GEOMETRY, also for more than there may be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_group(
    config: *const busway_pool_config,
    count: u32,
    pools: *mut *mut busway_pool,
) -> busway_status {
    guard(|| {
        check_array(pools, count as usize)?;
        // SAFETY: as above.
        let config = unsafe { busway_pool_config::get(config)? };
        for (i, member) in Member::group(&config, count)?.into_iter().enumerate() {
            let handle = handle::insert(Seated::Member(member))?;
            // SAFETY: there are `count`.
            unsafe { pools.add(i).write(handle) };
        }
        Ok(())
    })
}

/// Joins the pool whose host spawned this process; of the configuration, which may be NULL, it is what a waiting thread does.
/// Errors: as busway_attach; BUSWAY_UNSUPPORTED if the host offers a link.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_attach(
    config: *const busway_config,
    pool: *mut *mut busway_pool,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to, idle) = unsafe { (out(pool)?, busway_config::idle(config)?) };
        to.write(handle::insert(Seated::Member(Member::attach_with(idle)?))?);
        Ok(())
    })
}

/// Joins the pool whose host listens at `path`.
/// Threads: any. Errors: as busway_connect.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_connect(
    path: *const c_char,
    config: *const busway_config,
    pool: *mut *mut busway_pool,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to, path, idle) = unsafe { (out(pool)?, os_str(path)?, busway_config::idle(config)?) };
        to.write(handle::insert(Seated::Member(Member::connect(path, idle)?))?);
        Ok(())
    })
}

/// Ends a pool at once for everybody, if this is its host, or leaves it; and frees it. Threads that wait wake. What is held of it keeps its
/// memory until it is released.
/// Threads: any; one frees. Fork: in a forked child the handle becomes invalid, and nothing else happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_free(pool: *mut busway_pool) -> busway_status {
    guard(|| handle::free::<Seated, _>(pool))
}

/// Closes a pool in order, for everybody: nothing new is sent, what was sent is served until `deadline`, then all ends. Its host's to do.
/// Threads: any. Fork: does nothing in a forked child. Errors: BUSWAY_UNSUPPORTED if this is not the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_close(pool: *mut busway_pool, deadline: u64) -> busway_status {
    guard(|| {
        handle::with(pool, |pool: &Seated| {
            pool.host()?.close(crate::deadline(deadline));
            Ok(())
        })
    })
}

/// Leaves a pool: waiting threads of this process wake, its calls under way end as BUSWAY_CANCELLED, everything later as BUSWAY_CLOSED. What
/// it has taken and not answered ends as if it had died, once the pool is freed.
/// Threads: any. Fork: does nothing in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_leave(pool: *mut busway_pool) -> busway_status {
    guard(|| {
        handle::with(pool, |pool: &Seated| {
            pool.leave();
            Ok(())
        })
    })
}

/// Spawns a process, and waits until it has joined.
/// Threads, fork: as busway_host_spawn. Errors: as busway_host_spawn; BUSWAY_JOIN_TAKEN if there are as many members as there may be;
/// BUSWAY_UNSUPPORTED if this is not the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_spawn(
    pool: *mut busway_pool,
    command: *const busway_command,
    process: *mut *mut busway_process,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to, command) = unsafe { (out(process)?, busway_command::get(command)?) };
        to.write(handle::insert(handle::share::<Seated, _>(pool)?.host()?.spawn(command)?)?);
        Ok(())
    })
}

/// Listens on a Unix socket at `path` for processes that join: busway_guest_admit_member admits them.
/// Threads: any. Errors: as busway_host_listen; BUSWAY_UNSUPPORTED if this is not the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_listen(
    pool: *mut busway_pool,
    path: *const c_char,
    listener: *mut *mut busway_listener,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to, path) = unsafe { (out(listener)?, os_str(path)?) };
        to.write(handle::insert(Door::Pool(handle::share::<Seated, _>(pool)?.host()?.listen(path)?))?);
        Ok(())
    })
}

/// How many members there are besides the host.
/// Errors: BUSWAY_UNSUPPORTED if this is not the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_members(pool: *mut busway_pool, count: *mut usize) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(pool, count, |pool: &Seated| Ok(pool.host()?.members())) }
}

/// Waits until there are no more than `count` members besides the host, or until `deadline`: BUSWAY_TIMEOUT.
/// Threads: any. Errors: BUSWAY_UNSUPPORTED if this is not the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_wait_members(
    pool: *mut busway_pool,
    count: usize,
    deadline: u64,
) -> busway_status {
    guard(|| {
        let pool = handle::share::<Seated, _>(pool)?;
        match pool.host()?.wait_members(count, crate::deadline(deadline)) {
            true => Ok(()),
            false => Err(Error::Timeout { maybe_executed: false }.into()),
        }
    })
}

/// The number of this member, from 1, the host's. Numbers are used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_place(pool: *mut busway_pool, place: *mut u32) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(pool, place, |pool: &Seated| Ok(pool.place())) }
}

/// Whether the pool has ended, for this process at least.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_is_closed(pool: *mut busway_pool, closed: *mut bool) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(pool, closed, |pool: &Seated| Ok(pool.is_closed())) }
}

/// The largest payload, in bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_max_payload(pool: *mut busway_pool, len: *mut usize) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(pool, len, |pool: &Seated| Ok(pool.max_payload())) }
}

/// Counters of this process. `calls_in_use` counts its calls that await a reply, `slots_in_use` the slots that it holds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_stats(pool: *mut busway_pool, stats: *mut busway_stats) -> busway_status {
    guard(|| {
        let counted = handle::with(pool, |pool: &Seated| Ok(pool.stats()))?;
        // SAFETY: as above.
        unsafe { options::write(stats, counted.into()) }
    })
}

/// One descriptor for an event loop, as busway_link_fd. The first use starts a thread.
/// Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_fd(pool: *mut busway_pool, fd: *mut i32) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(pool, fd, |pool: &Seated| Ok(pool.descriptor()?.as_raw_fd())) }
}

/// Before an event loop sleeps on the descriptor: asks the others to ring it for requests in the queues of `worker`, which may be NULL, and for
/// replies to calls of this process. `sleep` is as of busway_link_arm.
/// Threads: one event loop a process; busway_calls_poll is one too. Errors: BUSWAY_IO, BUSWAY_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_arm(
    pool: *mut busway_pool,
    worker: *const busway_worker,
    sleep: *mut bool,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(sleep)? };
        let armed = if worker.is_null() {
            handle::with(pool, |pool: &Seated| Ok(pool.arm(None)?))?
        } else {
            // SAFETY: as above.
            let worker = unsafe { At::new(worker.cast_mut())? };
            if worker.lender()? != pool.addr() as u64 {
                return Err(Failure::Invalid("a worker of another pool"));
            }
            worker.peek(|worker| handle::with(pool, |pool: &Seated| Ok(pool.arm(Some(worker))?)))?
        };
        to.write(armed);
        Ok(())
    })
}

/// After an event loop woke, or did not sleep. Look at the queues then: others may rely on it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_disarm(pool: *mut busway_pool) -> busway_status {
    guard(|| {
        handle::with(pool, |pool: &Seated| {
            pool.disarm();
            Ok(())
        })
    })
}

/// Loans memory for a payload of `len` bytes, to be sent to any queue. Waits for a free slot until `deadline`; BUSWAY_NOW does not wait.
/// Threads, fork, errors: as busway_link_loan.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_loan(
    pool: *mut busway_pool,
    len: usize,
    deadline: u64,
    loan: *mut busway_loan,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { At::new(loan)?.vacant()? };
        handle::with(pool, |pool: &Seated| {
            let loan = match deadline {
                BUSWAY_NOW => pool.try_loan(len),
                deadline => pool.loan(len, crate::deadline(deadline)),
            };
            lend(&to, loan?, Some(|| pool.try_loan(0)))
        })
    })
}

/// Asks for a queue by its name.
/// Threads: any. Errors: BUSWAY_NO_SUCH_QUEUE; BUSWAY_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_queue(
    pool: *mut busway_pool,
    name: *const c_char,
    queue: *mut busway_queue,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to, name) = unsafe { (At::new(queue)?, os_str(name)?) };
        let name = name.to_str().ok_or(Error::NoSuchQueue)?;
        let lender = pool.addr() as u64;
        handle::with(pool, |pool: &Seated| {
            let queue = pool.queue(name)?;
            // SAFETY: only used while the handle of its pool, `lender`, is valid.
            to.put(lender, unsafe { core::mem::transmute::<Queue<'_>, Queue<'static>>(queue) });
            to.set(|queue| queue.pool = lender);
            Ok(())
        })
    })
}

/// A worker that takes requests from these queues, in turn.
/// Threads: any. Errors: BUSWAY_NO_SUCH_QUEUE, also for none at all; BUSWAY_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_pool_worker(
    pool: *mut busway_pool,
    names: *const *const c_char,
    count: usize,
    worker: *mut busway_worker,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to, names) = unsafe { (At::new(worker)?, array(names, count)?) };
        // SAFETY: as above.
        let names: Result<Vec<&str>, Failure> =
            names.iter().map(|name| Ok(unsafe { os_str(*name)? }.to_str().ok_or(Error::NoSuchQueue)?)).collect();
        let (names, lender) = (names?, pool.addr() as u64);
        handle::with(pool, |pool: &Seated| {
            let worker = pool.worker(names)?;
            // SAFETY: only used while the handle of its pool, `lender`, is valid.
            to.put(lender, unsafe { core::mem::transmute::<Worker<'_>, Worker<'static>>(worker) });
            to.set(|worker| worker.pool = lender);
            Ok(())
        })
    })
}

/// # Safety
/// As the functions of the header.
#[inline(always)]
unsafe fn with_queue<R>(
    queue: *const busway_queue,
    body: impl FnOnce(&Queue<'static>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    // SAFETY: by this function's contract.
    unsafe { At::new(queue.cast_mut())? }.peek(body)
}

/// Calls `method` with a copy of `len` bytes at `data`, and waits for the reply until `deadline`, which the worker can see.
/// Threads, fork: as busway_link_call. Errors: as busway_link_call; BUSWAY_PEER_DIED: the worker that had taken it died, or the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_queue_call(
    queue: *const busway_queue,
    method: u32,
    data: *const c_void,
    len: usize,
    deadline: u64,
    reply: *mut busway_message,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe {
        let (bytes, to) = (bytes(data, len)?, At::new(reply)?.vacant()?);
        with_queue(queue, |queue| call(queue, method, bytes.into(), deadline, &to))
    })
}

/// As busway_queue_call, with a loan in place of bytes; it is spent, whatever comes of the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_queue_call_loan(
    queue: *const busway_queue,
    method: u32,
    loan: *mut busway_loan,
    deadline: u64,
    reply: *mut busway_message,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe {
        let to = At::new(reply)?.vacant()?;
        with_queue(queue, |queue| borrowed_back(loan, |payload| call(queue, method, payload, deadline, &to)))
    })
}

#[inline(never)]
fn call(
    queue: &Queue<'_>,
    method: u32,
    payload: Payload<'_>,
    until: u64,
    to: &At<busway_message>,
) -> Result<(), Failure> {
    deliver(to, queue.call(method, payload, deadline(until))?);
    Ok(())
}

/// Sends an event with a copy of `len` bytes at `data`: one way, no reply. Waits for room until `deadline`; BUSWAY_NOW does not wait.
/// Threads, fork, errors: as busway_link_send.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_queue_send(
    queue: *const busway_queue,
    method: u32,
    data: *const c_void,
    len: usize,
    deadline: u64,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe {
        let bytes = bytes(data, len)?;
        with_queue(queue, |queue| send(queue, method, bytes.into(), deadline))
    })
}

/// As busway_queue_send, with a loan in place of bytes; it is spent, whatever comes of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_queue_send_loan(
    queue: *const busway_queue,
    method: u32,
    loan: *mut busway_loan,
    deadline: u64,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe {
        with_queue(queue, |queue| borrowed_back(loan, |payload| send(queue, method, payload, deadline)))
    })
}

#[inline(never)]
fn send(queue: &Queue<'_>, method: u32, payload: Payload<'_>, until: u64) -> Result<(), Failure> {
    match until {
        BUSWAY_NOW => queue.try_send(method, payload)?,
        until => queue.send(method, payload, deadline(until))?,
    }
    Ok(())
}

/// Sends a call without waiting for its reply. Waits for room until `deadline`, which is the call's too.
/// Threads, fork, errors: as busway_link_submit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_queue_submit(
    queue: *const busway_queue,
    method: u32,
    data: *const c_void,
    len: usize,
    deadline: u64,
    call: *mut busway_call,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe {
        let bytes = bytes(data, len)?;
        submit(queue, call, method, bytes.into(), deadline, true)
    })
}

/// As busway_queue_submit, but BUSWAY_FULL at once if there is no room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_queue_try_submit(
    queue: *const busway_queue,
    method: u32,
    data: *const c_void,
    len: usize,
    deadline: u64,
    call: *mut busway_call,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe {
        let bytes = bytes(data, len)?;
        submit(queue, call, method, bytes.into(), deadline, false)
    })
}

/// As busway_queue_submit, with a loan in place of bytes; it is spent, whatever comes of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_queue_submit_loan(
    queue: *const busway_queue,
    method: u32,
    loan: *mut busway_loan,
    deadline: u64,
    call: *mut busway_call,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe {
        // Before the loan is spent.
        At::new(call)?.vacant()?;
        with_queue(queue, |_| Ok(()))?;
        borrowed_back(loan, |payload| submit(queue, call, method, payload, deadline, true))
    })
}

/// # Safety
/// As the functions of the header.
#[inline(always)]
unsafe fn submit(
    queue: *const busway_queue,
    call: *mut busway_call,
    method: u32,
    payload: Payload<'_>,
    until: u64,
    wait: bool,
) -> Result<(), Failure> {
    // SAFETY: by this function's contract.
    let (queue, to) = unsafe { (At::new(queue.cast_mut())?, At::new(call)?.vacant()?) };
    let lender = queue.lender()?;
    queue.peek(|queue| {
        let pending = match wait {
            true => queue.submit(method, payload, deadline(until))?,
            false => queue.try_submit(method, payload, deadline(until))?,
        };
        pend(&to, lender, until, pending);
        Ok(())
    })
}

/// About how many requests wait in the queue: a hint, old as soon as it is read; 0 in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_queue_len(queue: *const busway_queue, len: *mut usize) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe {
        let to = out(len)?;
        to.write(with_queue(queue, |queue| Ok(queue.len()))?);
        Ok(())
    })
}

/// Receives the next request. Waits until `deadline`; BUSWAY_NOW does not wait.
/// Threads: any, many at once with one worker. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_WOULD_BLOCK or BUSWAY_TIMEOUT; how the
/// pool ended: BUSWAY_CLOSED, BUSWAY_PEER_DIED. BUSWAY_BUSY if `request` holds something.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_worker_recv(
    worker: *const busway_worker,
    deadline: u64,
    request: *mut busway_request,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (worker, to) = unsafe { (At::new(worker.cast_mut())?, At::new(request)?.vacant()?) };
        let lender = worker.lender()?;
        worker.peek(|worker| {
            let request = await_one(deadline, || worker.try_recv(), |until| worker.recv(until))?;
            hand_over(&to, lender, request);
            Ok(())
        })
    })
}

/// Receives requests: waits for the first until `deadline` (BUSWAY_NOW does not wait), then takes what is there, `max` in all, and waits
/// for no more. `count` is how many came.
/// Threads, fork, errors: as busway_worker_recv.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_worker_recv_many(
    worker: *const busway_worker,
    requests: *mut busway_request,
    max: usize,
    deadline: u64,
    count: *mut usize,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (worker, received, to) =
            unsafe { (At::new(worker.cast_mut())?, out(count)?.write(0), At::array(requests, max)?) };
        to.clone().try_for_each(|to| to.vacant().map(drop))?;
        let lender = worker.lender()?;
        worker.peek(|worker| {
            if max == 0 {
                return Ok(());
            }
            let first = await_one(deadline, || worker.try_recv(), |until| worker.recv(until))?;
            let more = core::iter::from_fn(|| worker.try_recv().ok().flatten());
            hand_over_all(to, lender, core::iter::once(first).chain(more), received);
            Ok(())
        })
    })
}

/// Process id of a member that was spawned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_process_pid(process: *mut busway_process, pid: *mut u32) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(process, pid, |process: &MemberProcess| Ok(process.id())) }
}

/// Its place in the pool.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_process_place(process: *mut busway_process, place: *mut u32) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(process, place, |process: &MemberProcess| Ok(process.place())) }
}

/// Kills it at once.
/// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_process_kill(process: *mut busway_process) -> busway_status {
    guard(|| handle::with(process, |process: &MemberProcess| Ok(process.kill()?)))
}

/// Waits a second for it to exit, kills it if it does not, and frees the handle. `exit_status` is how it ended, as waitpid has it; it may be
/// NULL.
/// Threads: any; one frees. Errors: BUSWAY_IO, BUSWAY_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_process_wait(process: *mut busway_process, exit_status: *mut i32) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = if exit_status.is_null() { None } else { Some(unsafe { out(exit_status)? }) };
        let process = handle::retire(process, |_: &MemberProcess| ())?.and_then(Arc::into_inner);
        let status = process.ok_or(Error::Forked)?.wait()?;
        if let Some(to) = to {
            to.write(status.into_raw());
        }
        Ok(())
    })
}

/// As busway_process_wait, for who does not want to know.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_process_free(process: *mut busway_process) -> busway_status {
    guard(|| handle::free::<MemberProcess, _>(process))
}
