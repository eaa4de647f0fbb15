//! `qemu-img`, `qemu-io` and `tar`, where they are installed.

use std::path::Path;
use std::process::{Command, Output};

use disk::{Format, Info};

use crate::support::import;

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

/// Whether `qemu-img` ends well with these words.
pub(crate) fn img_tries(arguments: &[&str]) -> bool {
    run("qemu-img", arguments).is_some_and(|output| output.status.success())
}

/// Runs commands of `qemu-io` on an image of this format.
pub(crate) fn io(format: &str, image: &Path, commands: &[&str]) -> String {
    let mut arguments = vec!["-t", "unsafe", "-f", format];
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

/// Reads `image`, which `qemu-img` calls `name`, and compares with what `qemu-img convert` makes of it.
pub(crate) fn agrees(image: &Path, name: &str, format: Format) -> Info {
    let expected = image.with_extension("expected");
    let words = ["convert", "-t", "unsafe", "-f", name, "-O", "raw"];
    img(&[&words[..], &[text(image), text(&expected)]].concat());
    let (info, disk) = import(image, format);
    let expected = std::fs::read(expected).unwrap();
    assert_eq!(expected.len(), disk.len(), "{}", image.display());
    let different = expected.iter().zip(&disk).position(|(left, right)| left != right);
    assert_eq!(different, None, "first different byte of {}", image.display());
    info
}

/// Packs files of `folder` into an archive of this kind.
pub(crate) fn tar(kind: &str, archive: &Path, folder: &Path, names: &[&str]) {
    let format = format!("--format={kind}");
    let words = [&format, "-cf", text(archive), "-C", text(folder)];
    must("tar", &[&words[..], names].concat());
}
