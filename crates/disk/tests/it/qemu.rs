//! `qemu-img` and `qemu-io`, where they are installed.

use std::path::Path;
use std::process::{Command, Output};

/// Whether QEMU's tools are there. Where they are not, says so, and fails where they are required.
pub(crate) fn available(test: &str) -> bool {
    if ["qemu-img", "qemu-io"]
        .iter()
        .all(|program| run(program, &["--version"]).is_some())
    {
        return true;
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "the one switch that CI sets for tests with outside programs"
    )]
    let required = std::env::var("CISTERN_REQUIRE_CLIENTS").is_ok_and(|value| value == "1");
    assert!(
        !required,
        "qemu-img is missing and CISTERN_REQUIRE_CLIENTS=1 is set: install qemu-utils"
    );
    println!("skipped: {test}: qemu-img is not installed (Debian: qemu-utils)");
    false
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test may start the tool that it compares with"
)]
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    Command::new(program).args(arguments).output().ok()
}

fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments).expect("the program starts");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{program} {arguments:?}: {out}{err}");
    out.into_owned()
}

/// Runs `qemu-img` with these words; fails the test when it fails.
pub(crate) fn img(arguments: &[&str]) -> String {
    must("qemu-img", arguments)
}

/// Runs one command of `qemu-io` on a qcow2 image.
pub(crate) fn io(image: &Path, commands: &[&str]) -> String {
    let mut arguments = vec!["-t", "unsafe", "-f", "qcow2"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(text(image));
    must("qemu-io", &arguments)
}

/// A path as text, for the command line.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are plain")
}
