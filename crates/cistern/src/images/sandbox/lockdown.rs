//! What the child gives up before it touches its input, and for good.
//!
//! seccomp is the wall: a list of the few system calls that parsing needs; any other kills the process. Without it
//! nothing is parsed. Landlock (no files, no network) stands behind it where the kernel has it, and resource limits
//! bound what is left.

use std::collections::BTreeMap;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Memory the child may write to, in bytes. Decoders need up to 128 MiB.
const DATA_BYTES: u64 = 512 << 20;
/// Address space, which also counts what is only reserved, in bytes.
const ADDRESS_BYTES: u64 = 8 << 30;

/// Gives everything up. The error is for the log.
pub fn all(cpu_seconds: u64) -> Result<(), String> {
    // Landlock opens a descriptor for a moment, which the limits forbid.
    landlock()?;
    limits(cpu_seconds).map_err(|e| format!("could not set resource limits: {e}"))?;
    seccomp()
}

/// Resource limits alone.
fn limits(cpu_seconds: u64) -> rustix::io::Result<()> {
    let set = |resource, to| {
        setrlimit(
            resource,
            Rlimit {
                current: Some(to),
                maximum: Some(to),
            },
        )
    };
    set(Resource::Data, DATA_BYTES)?;
    set(Resource::As, ADDRESS_BYTES)?;
    set(Resource::Cpu, cpu_seconds)?;
    set(Resource::Nofile, 3)?;
    set(Resource::Fsize, 0)?;
    set(Resource::Nproc, 0)?;
    set(Resource::Core, 0)
}

/// No file and no network by Landlock, as far as this kernel knows it; false where it does not.
pub fn landlock() -> Result<bool, String> {
    let restrict = || {
        Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V5))?
            .handle_access(AccessNet::from_all(ABI::V5))?
            .create()?
            .restrict_self()
    };
    restrict()
        .map(|status| status.ruleset != RulesetStatus::NotEnforced)
        .map_err(|e| format!("could not restrict files and network: {e}"))
}

/// The list of system calls.
pub fn seccomp() -> Result<(), String> {
    let program = filter().map_err(|e| format!("could not make the list of system calls: {e}"))?;
    seccompiler::apply_filter(&program).map_err(|e| format!("could not restrict system calls: {e}"))
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(calls()?, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// Reading, writing, seeking in what is open; memory that is not executable; locks within the process; the end.
fn calls() -> Result<Calls, seccompiler::BackendError> {
    let plain = [
        libc::SYS_read,
        libc::SYS_pread64,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let mut calls: Calls = plain.into_iter().map(|call| (call, Vec::new())).collect();
    // Memory that is executable could hold code that an input brought.
    let no_exec = || rule(2, SeccompCmpOp::MaskedEq(4), 0);
    calls.insert(libc::SYS_mmap, vec![no_exec()?]);
    calls.insert(libc::SYS_mprotect, vec![no_exec()?]);
    // The standard library asks whether a descriptor is open before it closes it; the allocator names its memory.
    calls.insert(libc::SYS_fcntl, vec![rule(1, SeccompCmpOp::Eq, 1)?]);
    calls.insert(libc::SYS_prctl, vec![rule(0, SeccompCmpOp::Eq, 0x5356_4d41)?]);
    // It may abort itself, as it does when memory runs out, but signal no other.
    let own = u64::from(std::process::id());
    calls.insert(libc::SYS_tgkill, vec![rule(0, SeccompCmpOp::Eq, own)?]);
    Ok(calls)
}

fn rule(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        op,
        value,
    )?])
}
