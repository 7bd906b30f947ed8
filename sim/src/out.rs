//! Standard output of every command, for readers that may leave early (`hedgerow-sim sweep | head`).
//!
//! Invariants: a closed pipe ends the process quietly with the code of SIGPIPE, which is no success:
//! what was to be said was not all said; no other failure to write is hidden.
//! Does not: buffer beyond a call.

use std::io::Write as _;
use std::process;

/// What a shell reports of a process that SIGPIPE ended: 128 + 13.
pub(crate) const EXIT_PIPE: i32 = 141;

/// Writes to standard output; see the file's head.
pub(crate) fn write(text: std::fmt::Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_fmt(text).and_then(|()| stdout.flush());
    let Err(error) = written else { return };
    if error.kind() != std::io::ErrorKind::BrokenPipe {
        eprintln!("hedgerow-sim: standard output: {error}");
        process::exit(1);
    }
    process::exit(EXIT_PIPE);
}

/// `println!` through [`write`].
macro_rules! say {
    () => { $crate::out::write(format_args!("\n")) };
    ($($text:tt)*) => {{
        $crate::out::write(format_args!("{}\n", format_args!($($text)*)));
    }};
}
pub(crate) use say;
