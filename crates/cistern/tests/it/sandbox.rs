//! The sandbox of image parsers, in the real executable: each way out is tried and must be closed, and the death of
//! a parser has a name.

use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::files::Files;
use crate::harness::images::{import, settled};
use crate::harness::process::{cistern, parsers_of, run_ok};
use crate::harness::{Server, disks, until};

#[test]
fn a_parser_can_open_no_file_and_no_socket_and_start_nothing() {
    let report = run_ok(cistern().args(["__sandbox", "self-test"]));
    let said = |attempt: &str| {
        let start = format!("{attempt}: ");
        let line = report.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{attempt} was not tried: {report}"))
            .to_owned()
    };
    for works in ["nothing", "write-pipe"] {
        assert_eq!(said(works), "allowed", "the sandbox itself works: {report}");
    }
    for way_out in [
        "open",
        "create",
        "socket",
        "unix-socket",
        "exec",
        "fork",
        "thread",
        "signal",
        "other-process",
        "memory-file",
        "write-input",
        // A kernel without Landlock: the other wall stands by itself.
        "without-landlock",
    ] {
        assert_eq!(said(way_out), "denied (killed)", "{way_out}");
    }
    assert_eq!(said("memory"), "denied");
    assert_eq!(said("loop"), "ended (out of time)");
    assert_ne!(said("landlock"), "allowed");
    // A kernel without seccomp: nothing is parsed there.
    assert_eq!(said("without-seccomp"), "refused to begin");
    assert!(!Path::new("/tmp/cistern-sandbox-escaped").exists());
}

#[test]
fn a_parser_says_what_is_wrong_through_the_pipe_alone() {
    for (input, word) in [("/dev/null", "empty"), (env!("CARGO_BIN_EXE_cistern"), "program")] {
        let file = std::fs::File::open(input).expect("is there");
        let output = cistern()
            .args(["__sandbox", "open", "1000000"])
            .stdin(file)
            .output()
            .expect("the executable starts");
        assert!(output.status.success(), "{input}: {output:?}");
        assert!(output.stderr.is_empty(), "{input}: {output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(word), "{input}: {said}");
    }
}

/// The parser that the server has started, where there is one.
fn parser_of(server: u32) -> Option<PathBuf> {
    parsers_of(server).into_iter().next()
}

/// What the parser's state file says of seccomp: 2 once the list of system calls is in force.
fn is_locked(parser: &Path) -> bool {
    std::fs::read_to_string(parser.join("status")).is_ok_and(|status| status.contains("\nSeccomp:\t2\n"))
}

/// A disk whose zeros take the parser seconds: 24 GiB in 9 KiB of zstd.
fn slow_disk() -> Vec<u8> {
    let pack = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).expect("fits");
    let mut packed = pack(&disks::raw(4, 1));
    let zeros = pack(&vec![0; 64 << 20]);
    for _ in 0..24 << 4 {
        packed.extend_from_slice(&zeros);
    }
    packed
}

/// Waits for a parser that has closed its sandbox.
async fn parser_at_work(server: &Server) -> PathBuf {
    until("a parser at work", 60, || async {
        parser_of(server.pid()).filter(|parser| is_locked(parser))
    })
    .await
}

fn send(parser: &Path, signal: Signal) {
    let name = parser
        .file_name()
        .expect("a number")
        .to_string_lossy()
        .into_owned();
    let pid = Pid::from_raw(name.parse().expect("a number")).expect("not zero");
    kill_process(pid, signal).expect("it runs");
}

#[tokio::test]
async fn the_death_of_a_parser_has_a_name() {
    let server = Server::start();
    let (api, files) = (server.api(), Files::start().await);
    let url = files.put("slow.zst", slow_disk());
    for (signal, words) in [
        (Signal::SYS, "something forbidden"),
        (Signal::XCPU, "too much processor time"),
        (Signal::ABORT, "more memory than is allowed"),
        (Signal::TERM, "broke off"),
    ] {
        let id = import(&api, "slow", &url).await;
        send(&parser_at_work(&server).await, signal);
        let image = settled(&api, id).await;
        assert_eq!(image["status"], "deleted", "{image}");
        let reason = image["error_message"].as_str().expect("a reason");
        assert!(reason.contains(words), "{signal:?}: {reason}");
    }
    assert_eq!(parser_of(server.pid()), None, "none is left");
    // As the kernel does when memory runs out: not the image's fault.
    let id = import(&api, "slow", &url).await;
    send(&parser_at_work(&server).await, Signal::KILL);
    let image = settled(&api, id).await;
    assert_eq!(image["status"], "available", "it was tried again: {image:#}");
    assert!(server.log_text().contains("killed from outside"));
}

#[tokio::test]
async fn a_parser_holds_nothing_but_the_image_and_its_pipes() {
    let server = Server::start();
    let (api, files) = (server.api(), Files::start().await);
    let id = import(&api, "slow", &files.put("slow.zst", slow_disk())).await;
    let parser = parser_at_work(&server).await;
    let open: Vec<String> = std::fs::read_dir(parser.join("fd"))
        .expect("lists")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .filter(|target| !target.starts_with("pipe:") && target != "/dev/null")
        .collect();
    let spool = server.data().join("spool");
    assert!(
        !open.is_empty() && open.iter().all(|target| Path::new(target).starts_with(&spool)),
        "nothing but the image: {open:?}"
    );
    let environment = std::fs::read(parser.join("environ")).expect("reads");
    assert_eq!(
        environment, b"_RJEM_MALLOC_CONF=background_thread:false,narenas:1\0",
        "no secret came along"
    );
    // Cancelling ends it.
    send(&parser, Signal::STOP);
    assert_eq!(api.delete(&format!("/v2/images/{id}")).await.status, 204);
    until("the parser's end", 60, || async {
        parser_of(server.pid()).is_none().then_some(())
    })
    .await;
}
