//! Which system calls a confined plugin may make, as two filters that the kernel runs for each.
//!
//! The first one lists what is allowed, so that a call which a newer kernel adds is refused until somebody has thought about
//! it. It answers ENOSYS, to which libraries have a way round: for them it is an older kernel. The second one looks at
//! arguments of what the first one allows, and names calls that are refused for what they do; it answers EPERM, which tells an
//! author what happened. Where both refuse, the second one's answer counts, because it is installed last.
//!
//! `docs/confinement.md` has the same as a table, with the reasons.

use super::Confinement;
use crate::error::{Error, Result};
use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCmpOp::*, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// System calls, by name and number.
type Calls = &'static [(&'static str, c_long)];

macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), $name as c_long)),*] };
}

/// What a program in any language needs, and cannot harm others with; files are for Landlock to limit.
const ALLOWED: Calls = calls! {
    // Files and descriptors.
    SYS_read SYS_readv SYS_pread64 SYS_preadv SYS_preadv2 SYS_write SYS_writev SYS_pwrite64 SYS_pwritev SYS_pwritev2
    SYS_lseek SYS_openat SYS_close SYS_close_range SYS_dup SYS_dup3 SYS_fcntl SYS_flock SYS_ioctl SYS_pipe2
    SYS_fstat SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs SYS_faccessat SYS_faccessat2 SYS_readlinkat SYS_getdents64
    SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
    SYS_mkdirat SYS_mknodat SYS_unlinkat SYS_linkat SYS_symlinkat SYS_renameat SYS_renameat2
    SYS_ftruncate SYS_fallocate SYS_fsync SYS_fdatasync SYS_sync_file_range SYS_fadvise64 SYS_readahead
    SYS_copy_file_range SYS_sendfile SYS_splice SYS_tee SYS_getcwd SYS_chdir SYS_fchdir SYS_umask SYS_memfd_create
    // Waiting for descriptors.
    SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2
    SYS_eventfd2 SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_signalfd4
    // Sockets that it was given, or makes in pairs.
    SYS_socketpair SYS_sendto SYS_sendmsg SYS_sendmmsg SYS_recvfrom SYS_recvmsg SYS_recvmmsg SYS_shutdown
    SYS_getsockopt SYS_setsockopt SYS_getsockname SYS_getpeername
    // Memory.
    SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_brk SYS_msync SYS_mincore
    SYS_mlock SYS_mlock2 SYS_munlock SYS_mlockall SYS_munlockall SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect
    SYS_mseal SYS_get_mempolicy
    // Threads.
    SYS_clone SYS_exit SYS_exit_group SYS_gettid SYS_set_tid_address SYS_set_robust_list SYS_rseq SYS_membarrier
    SYS_futex SYS_futex_waitv SYS_sched_yield SYS_getcpu SYS_restart_syscall
    SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_getscheduler SYS_sched_setscheduler SYS_sched_getparam
    SYS_sched_setparam SYS_sched_getattr SYS_sched_setattr SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_rr_get_interval SYS_getpriority SYS_setpriority SYS_ioprio_get SYS_ioprio_set
    // Processes: itself and its children.
    SYS_execve SYS_execveat SYS_wait4 SYS_waitid SYS_getpid SYS_getppid SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid
    SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups SYS_capget SYS_capset
    SYS_prctl SYS_prlimit64 SYS_getrlimit SYS_setrlimit SYS_getrusage SYS_times SYS_sysinfo SYS_uname SYS_pidfd_open
    // Signals: to whom is a question of its arguments, or of Landlock.
    SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigsuspend SYS_rt_sigtimedwait
    SYS_sigaltstack SYS_kill SYS_tgkill
    // Time and chance.
    SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday SYS_getitimer SYS_setitimer
    SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete SYS_getrandom
    // Confining itself further.
    SYS_seccomp SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self
};

/// Older forms of the above, which only x86-64 has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: Calls = calls! {
    SYS_open SYS_creat SYS_dup2 SYS_pipe SYS_stat SYS_lstat SYS_access SYS_readlink SYS_getdents
    SYS_mkdir SYS_mknod SYS_rmdir SYS_unlink SYS_link SYS_symlink SYS_rename
    SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_signalfd
    SYS_fork SYS_vfork SYS_getpgrp SYS_alarm SYS_pause SYS_time SYS_arch_prctl
};
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: Calls = &[];

/// More ways to signal, allowed where Landlock looks whom.
const SIGNALS: Calls = calls! { SYS_tkill SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_pidfd_send_signal };

/// With [`Confinement::allow_network`].
const NETWORK: Calls = calls! { SYS_socket SYS_connect SYS_bind SYS_listen SYS_accept SYS_accept4 };

/// Refused with EPERM, for what they do.
const REFUSED: Calls = calls! {
    // Other processes.
    SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise SYS_process_mrelease SYS_pidfd_getfd
    SYS_kcmp SYS_migrate_pages SYS_move_pages SYS_get_robust_list SYS_perf_event_open
    // Ways round this filter and Landlock, and much of the kernel to attack.
    SYS_bpf SYS_userfaultfd SYS_setns SYS_unshare SYS_mount SYS_umount2 SYS_mount_setattr SYS_move_mount SYS_open_tree
    SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick SYS_pivot_root SYS_chroot SYS_name_to_handle_at SYS_open_by_handle_at
    SYS_fanotify_init SYS_fanotify_mark SYS_keyctl SYS_add_key SYS_request_key SYS_personality SYS_vmsplice
    // What files are, which Landlock does not limit.
    SYS_truncate SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat
    SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr
    // Memory and queues that others of the same user have.
    SYS_shmget SYS_shmat SYS_shmctl SYS_shmdt SYS_semget SYS_semop SYS_semctl SYS_semtimedop
    SYS_msgget SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink
    // The machine.
    SYS_reboot SYS_kexec_load SYS_init_module SYS_finit_module SYS_delete_module SYS_swapon SYS_swapoff SYS_acct
    SYS_quotactl SYS_syslog SYS_sethostname SYS_setdomainname SYS_settimeofday SYS_clock_settime SYS_clock_adjtime
    SYS_adjtimex SYS_vhangup
};

/// As [`REFUSED`], of x86-64 only.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: Calls = calls! {
    SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat SYS_iopl SYS_ioperm SYS_modify_ldt SYS_kexec_file_load
};
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: Calls = &[];

/// Stands in a filter for the id of the process that installs it, which is only known then. No process has it.
const OWN_PID: u32 = 0x7fff_fff1;

/// The two filters, to be [installed](Filters::install) in the child.
pub(super) struct Filters {
    allow: BpfProgram,
    refuse: BpfProgram,
}

impl Filters {
    /// Compiles them. `scoped`: Landlock keeps signals from everybody else.
    pub fn new(confinement: &Confinement, scoped: bool) -> Result<Self> {
        let if_so = |so: bool, calls: Calls| if so { calls } else { &[] };
        let allowed = [ALLOWED, ALLOWED_HERE, if_so(scoped, SIGNALS), if_so(confinement.network, NETWORK)];
        let refused = [REFUSED, REFUSED_HERE, if_so(!scoped, SIGNALS), if_so(!confinement.network, NETWORK)];
        let always = |calls: [Calls; 4]| calls.concat().into_iter().map(|(_, number)| (number, vec![]));
        let by_arguments = by_arguments(confinement.network, scoped).map_err(cannot_compile)?;
        let rules = always(refused).chain(by_arguments).collect();
        let errno = |errno: c_int| SeccompAction::Errno(errno as u32);
        Ok(Self {
            allow: compile(always(allowed).collect(), errno(ENOSYS), SeccompAction::Allow).map_err(cannot_compile)?,
            refuse: compile(rules, SeccompAction::Allow, errno(EPERM)).map_err(cannot_compile)?,
        })
    }

    /// Whether this kernel has what they need.
    pub fn are_supported() -> bool {
        let action = SECCOMP_RET_ERRNO;
        // SAFETY: the kernel reads the action that is passed, and changes nothing.
        unsafe { syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
    }

    /// Installs them for the calling thread, for ever, after which it can gain no privileges. Allocates nothing.
    pub fn install(&mut self) -> std::io::Result<()> {
        let own = std::process::id();
        for instruction in self.refuse.iter_mut().filter(|instruction| instruction.k == OWN_PID) {
            instruction.k = own;
        }
        for program in [&self.allow, &self.refuse] {
            seccompiler::apply_filter(program).map_err(|e| match e {
                seccompiler::Error::Prctl(e) | seccompiler::Error::Seccomp(e) => e,
                _ => std::io::ErrorKind::Unsupported.into(),
            })?;
        }
        Ok(())
    }
}

fn compile(
    rules: Vec<(c_long, Vec<SeccompRule>)>,
    mismatch: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    // One by one: collecting would sort them first, with six kilobytes of code.
    let mut by_number = BTreeMap::new();
    by_number.extend(rules);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(by_number, mismatch, matching, arch)?.try_into()
}

fn cannot_compile(_: seccompiler::BackendError) -> Error {
    Error::Unsupported { what: "a filter of system calls on this architecture" }
}

/// What is refused of calls that are allowed otherwise: any of their rules, each of which is conditions that all hold.
fn by_arguments(network: bool, scoped: bool) -> Result<Vec<(c_long, Vec<SeccompRule>)>, seccompiler::BackendError> {
    // The kernel looks at 32 bits of all these, whatever the others are.
    let condition = |(index, op, value): (u8, SeccompCmpOp, c_int)| {
        SeccompCondition::new(index, Dword, op, u64::from(value as u32))
    };
    let rule = |conditions: &[(u8, SeccompCmpOp, c_int)]| {
        SeccompRule::new(conditions.iter().cloned().map(condition).collect::<Result<_, _>>()?)
    };
    let bits = |bits: c_int| MaskedEq(u64::from(bits as u32));
    let rules = |of: &[&[(u8, SeccompCmpOp, c_int)]]| of.iter().map(|of| rule(of)).collect::<Result<Vec<_>, _>>();

    // A namespace of its own would give privileges in it, and with them more of the kernel to attack. A child of the host's
    // would be one that the host knows nothing of.
    let namespaces = [
        CLONE_NEWNS,
        CLONE_NEWCGROUP,
        CLONE_NEWUTS,
        CLONE_NEWIPC,
        CLONE_NEWUSER,
        CLONE_NEWPID,
        CLONE_NEWNET,
        CLONE_PARENT,
    ];
    let clone = namespaces.iter().map(|flag| rule(&[(0, bits(*flag), *flag)])).collect::<Result<Vec<_>, _>>()?;
    // Signals by descriptor, at any time and to anybody of the same user; leases, which hold up whoever opens the file.
    let fcntl = rules(&[&[(1, Eq, F_SETOWN)], &[(1, Eq, F_SETOWN_EX)], &[(1, Eq, F_SETSIG)], &[(1, Eq, F_SETLEASE)]])?;
    // The same, and input for a terminal that it shares with its host.
    let ioctl = rules(&[
        &[(1, Eq, FIOSETOWN)],
        &[(1, Eq, SIOCSPGRP)],
        &[(1, Eq, TIOCSTI as c_int)],
        &[(1, Eq, TIOCLINUX as c_int)],
    ])?;
    // Landlock before Linux 6.2 lets truncate whoever may read.
    let truncating = |flags: u8| {
        let mode = bits(O_ACCMODE | O_TRUNC);
        rules(&[&[(flags, mode.clone(), O_RDONLY | O_TRUNC)], &[(flags, mode, O_ACCMODE | O_TRUNC)]])
    };
    // Pairs of streams alone, since a datagram socket may be connected to another than its pair. (SOCK_RAW is one, too.)
    let kind = bits(0xf);
    let socketpair = rules(&[&[(0, Ne, AF_UNIX)], &[(1, kind.clone(), SOCK_DGRAM)], &[(1, kind, SOCK_RAW)]])?;
    let itself = || rules(&[&[(0, Ne, 0)]]);
    let mut all = vec![
        (SYS_clone, clone),
        (SYS_fcntl, fcntl),
        (SYS_ioctl, ioctl),
        (SYS_openat, truncating(2)?),
        #[cfg(target_arch = "x86_64")]
        (SYS_open, truncating(1)?),
        (SYS_socketpair, socketpair),
        // Those of other processes of the same user it could change, too.
        (SYS_prlimit64, itself()?),
        (SYS_sched_setaffinity, itself()?),
        (SYS_sched_setscheduler, itself()?),
        (SYS_sched_setparam, itself()?),
        (SYS_sched_setattr, itself()?),
        (SYS_setpriority, rules(&[&[(0, Ne, PRIO_PROCESS as c_int)], &[(1, Ne, 0)]])?),
        (SYS_ioprio_set, rules(&[&[(0, Ne, IOPRIO_WHO_PROCESS)], &[(1, Ne, 0)]])?),
    ];
    if !scoped {
        let to_others = || rules(&[&[(0, Ne, OWN_PID as c_int)]]);
        all.extend([(SYS_kill, to_others()?), (SYS_tgkill, to_others()?)]);
    }
    if network {
        let ip = [(0, Ne, AF_INET), (0, Ne, AF_INET6)];
        let kinds = [(1, bits(0xf), SOCK_RAW)];
        // Others would be loaded into the kernel for it.
        let protocols = [(2, Ne, 0), (2, Ne, IPPROTO_TCP), (2, Ne, IPPROTO_UDP), (2, Ne, IPPROTO_MPTCP)];
        all.push((SYS_socket, rules(&[&ip, &kinds, &protocols])?));
    }
    Ok(all)
}

/// `IOPRIO_WHO_PROCESS` of linux/ioprio.h.
const IOPRIO_WHO_PROCESS: c_int = 1;
/// Of asm-generic/sockios.h.
const FIOSETOWN: c_int = 0x8901;
/// Of asm-generic/sockios.h.
const SIOCSPGRP: c_int = 0x8902;
/// Of linux/fcntl.h.
const F_SETSIG: c_int = 10;
/// Of linux/fcntl.h.
const F_SETOWN_EX: c_int = 15;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn named(lists: &[Calls]) -> Vec<&'static str> {
        lists.concat().into_iter().map(|(name, _)| name.strip_prefix("SYS_").expect("a system call")).collect()
    }

    #[test]
    fn the_page_lists_what_the_filters_do() {
        let page = include_str!("../../docs/confinement.md");
        let rows = |heading: &str| -> BTreeSet<&str> {
            let table = page.split(heading).nth(1).expect("a table").split("\n\n").next().unwrap_or_default();
            table.lines().skip(2).flat_map(|row| row.split('`').skip(1).step_by(2)).collect()
        };
        let allowed = named(&[ALLOWED, ALLOWED_HERE, SIGNALS, NETWORK]);
        let refused = named(&[REFUSED, REFUSED_HERE]);
        let (allowed_there, refused_there) = (rows("| allowed | calls |"), rows("| refused with `EPERM` | calls |"));
        for (code, page) in [(&allowed, &allowed_there), (&refused, &refused_there)] {
            let code: BTreeSet<_> = code.iter().copied().collect();
            assert!(code.is_subset(page), "not on the page: {:?}", &code - page);
            let rest = page - &code;
            assert!(
                cfg!(not(target_arch = "x86_64")) || rest.iter().eq(["allow_network"].iter().take(rest.len())),
                "on the page alone: {rest:?}"
            );
        }
        let both: Vec<_> = allowed.iter().filter(|name| refused.contains(name)).collect();
        assert!(both.is_empty(), "allowed and refused: {both:?}");
        assert_eq!(allowed.iter().collect::<BTreeSet<_>>().len(), allowed.len(), "listed twice");
    }

    #[test]
    fn the_filters_fit_in_a_program_of_the_kernel() {
        for (network, scoped) in [(false, false), (false, true), (true, false), (true, true)] {
            let confinement = Confinement::new();
            let confinement = if network { confinement.allow_network() } else { confinement };
            let filters = Filters::new(&confinement, scoped).unwrap();
            let own = filters.refuse.iter().filter(|instruction| instruction.k == OWN_PID).count();
            assert_eq!(own, if scoped { 0 } else { 2 }, "places for the process id");
            assert!(filters.allow.iter().all(|instruction| instruction.k != OWN_PID));
        }
    }
}
