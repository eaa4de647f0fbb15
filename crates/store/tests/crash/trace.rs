//! Runs this test program as a child under `strace`, and reads what it called.
//!
//! Everything is traced but what changes no file ([`HARMLESS`]); whoever reads the calls fails at one that it does not
//! know.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Calls that change no file and open none, and so are not traced.
const HARMLESS: &str = "futex,epoll_wait,epoll_pwait,epoll_pwait2,epoll_ctl,epoll_create1,eventfd2,poll,ppoll,read,pread64,\
    readv,preadv,lseek,getdents64,stat,lstat,fstat,newfstatat,statx,statfs,fstatfs,access,faccessat,faccessat2,readlink,\
    readlinkat,getcwd,munmap,mprotect,madvise,brk,mremap,mincore,rt_sigaction,rt_sigprocmask,rt_sigreturn,sigaltstack,clone,\
    clone3,set_robust_list,rseq,prctl,arch_prctl,set_tid_address,getrandom,getpid,gettid,getuid,geteuid,getgid,getegid,\
    sched_yield,sched_getaffinity,sched_setaffinity,sched_getparam,sched_getscheduler,nanosleep,clock_nanosleep,\
    clock_gettime,clock_getres,gettimeofday,sysinfo,uname,prlimit64,getrlimit,getrusage,execve,exit,exit_group,\
    restart_syscall,tgkill,kill,wait4,socketpair,sendto,recvfrom,shutdown,fadvise64,membarrier,times,getppid,umask";

/// One call that has ended, in words.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    pub(crate) result: i64,
    /// Lines of the trace in which it began and ended: what ended before another began came before it.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Call {
    /// An argument that is a number or a descriptor.
    pub(crate) fn number(&self, n: usize) -> i64 {
        let text = self.args.get(n).map_or("", String::as_str);
        text.parse()
            .unwrap_or_else(|_| panic!("`{text}` is no number in {self:.200?}"))
    }

    /// An argument that is a string.
    pub(crate) fn bytes(&self, n: usize) -> Vec<u8> {
        let text = self.args.get(n).map_or("", String::as_str);
        let digits = text
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'))
            .unwrap_or_else(|| panic!("no whole string: {text:.100}"));
        digits
            .as_bytes()
            .chunks(4)
            .map(|of| (nibble(of[2]) << 4) | nibble(of[3]))
            .collect()
    }

    pub(crate) fn path(&self, n: usize) -> PathBuf {
        PathBuf::from(String::from_utf8(self.bytes(n)).expect("paths are UTF-8"))
    }
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => panic!("strace writes strings in hexadecimal"),
    }
}

/// Whether there is `strace`. Where it is missing that is said, and `CISTERN_REQUIRE_CLIENTS=1` makes it a failure.
#[expect(clippy::disallowed_methods, reason = "the suite's own settings")]
pub(crate) fn strace_or_skip() -> bool {
    let is_there = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("strace").is_file()));
    let is_required = std::env::var("CISTERN_REQUIRE_CLIENTS").is_ok_and(|value| value == "1");
    assert!(
        is_there || !is_required,
        "nothing may be skipped here: strace is missing"
    );
    if !is_there {
        eprintln!("skipped: strace is not installed; tests/clients/install.sh does that");
    }
    is_there
}

/// A number of the environment, for longer runs.
#[expect(clippy::disallowed_methods, reason = "the suite's own settings")]
pub(crate) fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |value| value.parse().expect("a number"))
}

/// What the child is asked to do, where this process is one: the words of [`child`].
#[expect(clippy::disallowed_methods, reason = "how a test speaks to itself as a child")]
pub(crate) fn asked() -> Option<Vec<String>> {
    let words = std::env::var("CISTERN_TEST_CRASH_CHILD").ok()?;
    Some(words.split('\n').map(str::to_owned).collect())
}

/// Runs this program as a child that does `words`, under strace with `options`.
#[expect(clippy::disallowed_methods, reason = "the suite starts itself under strace")]
pub(crate) fn child(options: &[&str], words: &[&str]) -> Output {
    Command::new("strace")
        .args(["-f", "-qq"])
        .args(options)
        .arg("--")
        .arg(std::env::current_exe().expect("has a name"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env("CISTERN_TEST_CRASH_CHILD", words.join("\n"))
        .output()
        .expect("strace starts")
}

/// Traces a child to its end.
pub(crate) fn traced(file: &Path, words: &[&str]) -> Vec<Call> {
    let unwanted = format!("trace=!{}", HARMLESS.replace(char::is_whitespace, ""));
    let file_name = file.to_string_lossy();
    let options = [
        "--seccomp-bpf",
        "-xx",
        "-s",
        "33554432",
        "-e",
        &unwanted,
        "-o",
        &file_name,
    ];
    let output = child(&options, words);
    assert!(output.status.success(), "{output:?}");
    read(file)
}

fn read(file: &Path) -> Vec<Call> {
    let mut lines = BufReader::new(std::fs::File::open(file).expect("there is a trace"));
    let (mut calls, mut unfinished) = (Vec::new(), HashMap::new());
    let mut line = String::new();
    for number in 0.. {
        line.clear();
        if lines.read_line(&mut line).expect("ASCII") == 0 {
            break;
        }
        let (thread, text) = line.trim_end().split_once(' ').expect("a thread and a call");
        let text = text.trim_start();
        if text.starts_with("---") || text.starts_with("+++") {
            continue;
        }
        if let Some(begun) = text.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread.to_owned(), (number, begun.trim_end().to_owned()));
        } else if let Some(rest) = text.strip_prefix("<... ") {
            let (_, rest) = rest.split_once("resumed>").expect("what strace writes");
            let (start, begun) = unfinished.remove(thread).expect("it began");
            calls.extend(parse(&format!("{begun}{rest}"), start, number));
        } else {
            calls.extend(parse(text, number, number));
        }
    }
    calls
}

/// A call that has ended well; one that failed has changed nothing.
fn parse(text: &str, start: usize, end: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(').expect("a call");
    let (args, result) = rest.rsplit_once(" = ").expect("a result");
    let result = result.split([' ', '<']).next().unwrap_or_default();
    let result = match result.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok()?,
        None => result.parse().ok()?,
    };
    if result < 0 {
        return None;
    }
    let args = args.trim_end().strip_suffix(')').expect("the end of a call");
    Some(Call {
        name: name.to_owned(),
        args: args.split(", ").map(str::to_owned).collect(),
        result,
        start,
        end,
    })
}
