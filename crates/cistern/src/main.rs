//! The `cistern` executable.

use std::process::ExitCode;

/// Keeps a long-running server's memory from fragmenting, which glibc's does with many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cistern::main()
}
