//! The `cistern` executable.

use std::process::ExitCode;

/// Keeps a long-running server's memory from fragmenting, which glibc's does with many threads, and gives what is
/// free back to the system.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cistern::main()
}
