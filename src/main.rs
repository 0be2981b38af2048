//! Calls [`settee::program`]. No code is here: an async function of the library is compiled a second time in a crate that
//! awaits it, which would add all handlers again.

use std::process::ExitCode;

fn main() -> ExitCode {
    settee::program::main()
}
