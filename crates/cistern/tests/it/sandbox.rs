//! The sandbox of image parsers, in the real executable: each way out is tried and must be closed.

use crate::harness::process::{cistern, run_ok};

#[test]
fn a_parser_can_open_no_file_and_no_socket_and_start_nothing() {
    let report = run_ok(cistern().args(["__sandbox", "self-test"]));
    let lines: Vec<&str> = report.lines().collect();
    assert_eq!(
        lines.first(),
        Some(&"nothing: allowed"),
        "the sandbox itself works"
    );
    for way_out in ["open", "create", "socket", "unix-socket", "exec", "fork"] {
        let expected = format!("{way_out}: denied (killed)");
        assert!(lines.contains(&expected.as_str()), "{way_out}: {report}");
    }
    assert!(lines.contains(&"memory: denied"), "{report}");
    let landlock = lines.iter().find(|line| line.starts_with("landlock: "));
    assert!(landlock.is_some_and(|line| !line.contains("allowed")), "{report}");
    assert!(!std::path::Path::new("/tmp/cistern-sandbox-escaped").exists());
}

#[test]
fn a_parser_says_what_is_wrong_through_the_pipe_alone() {
    for (input, word) in [("/dev/null", "empty"), (env!("CARGO_BIN_EXE_cistern"), "")] {
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
