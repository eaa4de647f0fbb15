//! What the child gives up before it touches its input, and for good.
//!
//! seccomp is the wall: a list of the few system calls that parsing needs; any other kills the process. Without it
//! nothing is parsed. Landlock (no files, no network) stands behind it where the kernel has it (5.13 and newer): it is
//! a second wall, so a kernel without it is no reason to refuse. `cistern doctor` says which of the two are there.
//! Resource limits bound what is left.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Memory the child may write to, in bytes. Decoders need up to 128 MiB.
const DATA_BYTES: u64 = 512 << 20;
/// Address space, which also counts what is only reserved, in bytes.
const ADDRESS_BYTES: u64 = 8 << 30;
/// Between the signal that names the reason and the one that cannot be caught, in seconds. Where both are due at once
/// the kernel sends the latter only.
const CPU_GRACE_SECONDS: u64 = 5;
/// Standard error, which is `/dev/null`: a panic or an allocator that gives up writes there before it aborts.
const STDERR: RawFd = 2;

/// Gives everything up, but for writing to `output`, and to the socket `question` where the input has to be asked for.
/// The error is for the log.
pub fn all(cpu_seconds: u64, output: RawFd, question: Option<RawFd>) -> Result<(), String> {
    // Landlock opens a descriptor for a moment, which the limits forbid.
    landlock()?;
    limits(cpu_seconds).map_err(|e| format!("could not set resource limits: {e}"))?;
    seccomp(output, question)
}

/// Resource limits alone.
fn limits(cpu_seconds: u64) -> rustix::io::Result<()> {
    let set_both = |resource, current, maximum| {
        let (current, maximum) = (Some(current), Some(maximum));
        setrlimit(resource, Rlimit { current, maximum })
    };
    let set = |resource, to| set_both(resource, to, to);
    set(Resource::Data, DATA_BYTES)?;
    set(Resource::As, ADDRESS_BYTES)?;
    set_both(Resource::Cpu, cpu_seconds, cpu_seconds + CPU_GRACE_SECONDS)?;
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
fn seccomp(output: RawFd, question: Option<RawFd>) -> Result<(), String> {
    apply(
        calls(output, question),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
    )
}

/// Makes this process see a kernel that lacks these system calls, to try what becomes of the sandbox there.
pub fn pretend_without(lacking: &[i64]) -> Result<(), String> {
    let calls = lacking.iter().map(|call| (*call, Vec::new())).collect();
    let not_there = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    apply(Ok(calls), SeccompAction::Allow, not_there)
}

fn apply(
    calls: Result<Calls, seccompiler::BackendError>,
    others: SeccompAction,
    listed: SeccompAction,
) -> Result<(), String> {
    let program = || -> Result<BpfProgram, seccompiler::BackendError> {
        let arch = std::env::consts::ARCH.try_into()?;
        SeccompFilter::new(calls?, others, listed, arch)?.try_into()
    };
    let program = program().map_err(|e| format!("could not make the list of system calls: {e}"))?;
    seccompiler::apply_filter(&program).map_err(|e| format!("could not restrict system calls: {e}"))
}

type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// Reading and seeking in what is open; writing to the one pipe, and asking where there is somebody to ask; memory that
/// is not executable; locks within the process; the end.
fn calls(output: RawFd, question: Option<RawFd>) -> Result<Calls, seccompiler::BackendError> {
    let plain = [
        libc::SYS_read,
        libc::SYS_pread64,
        libc::SYS_readv,
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
    for call in [libc::SYS_write, libc::SYS_writev] {
        let to = |descriptor: RawFd| rule(0, SeccompCmpOp::Eq, u64::from(descriptor.cast_unsigned()));
        let mut places = vec![to(output)?, to(STDERR)?];
        places.extend(question.map(to).transpose()?);
        calls.insert(call, places);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What cannot be tried from safe code is at least not on the list; that what is not on it kills, `tests/it` tries.
    #[test]
    fn nothing_on_the_list_reaches_out_of_the_process() {
        let listed = calls(4, Some(3)).expect("makes");
        for call in [
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_open_by_handle_at,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_sendto,
            libc::SYS_sendmsg,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_pidfd_send_signal,
            libc::SYS_io_uring_setup,
            libc::SYS_memfd_create,
            libc::SYS_pwrite64,
            libc::SYS_pwritev,
            libc::SYS_pwritev2,
            libc::SYS_sendfile,
            libc::SYS_splice,
            libc::SYS_copy_file_range,
            libc::SYS_ftruncate,
            libc::SYS_fallocate,
            libc::SYS_dup,
            libc::SYS_ioctl,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_keyctl,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_seccomp,
            libc::SYS_prlimit64,
        ] {
            assert!(!listed.contains_key(&call), "system call {call}");
        }
        for call in [
            libc::SYS_write,
            libc::SYS_writev,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_fcntl,
            libc::SYS_prctl,
            libc::SYS_tgkill,
        ] {
            assert!(
                !listed[&call].is_empty(),
                "system call {call} is bounded by its arguments"
            );
        }
    }
}
