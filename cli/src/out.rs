//! Standard output of every command, for readers that may leave early (`hedgerow status | head`).
//!
//! Invariants: a closed pipe ends a command quietly with the code of SIGPIPE, which is no success:
//! what was to be said was not all said; no other failure to write is hidden.
//! Does not: buffer beyond a call.

use std::io::Write as _;
use std::process;

/// What a shell reports of a process that SIGPIPE ended: 128 + 13.
pub(crate) const EXIT_PIPE: i32 = 141;

/// Writes to standard output; see the file's head.
pub(crate) fn write(text: std::fmt::Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    end_unless(stdout.write_fmt(text).and_then(|()| stdout.flush()));
}

/// Writes bytes to standard output, as [`write`] writes text.
pub(crate) fn write_bytes(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    end_unless(stdout.write_all(bytes).and_then(|()| stdout.flush()));
}

/// Ends the command unless all was written.
fn end_unless(written: std::io::Result<()>) {
    let Err(error) = written else { return };
    if error.kind() != std::io::ErrorKind::BrokenPipe {
        eprintln!("hedgerow: standard output: {error}");
        process::exit(1);
    }
    process::exit(EXIT_PIPE);
}

/// Tells what a server that just started offers. Whether anybody reads it is no matter to a server:
/// it serves on.
pub(crate) fn offer(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let told = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    drop(told);
}

/// `println!` through [`write`].
macro_rules! say {
    () => { $crate::out::write(format_args!("\n")) };
    ($($text:tt)*) => {{
        $crate::out::write(format_args!("{}\n", format_args!($($text)*)));
    }};
}
pub(crate) use say;
