//! The command window: CmdSN, ExpCmdSN and MaxCmdSN (RFC 7143 4.2.2.1).
//!
//! Invariants: requests leave in CmdSN order without gaps; numbers outside the window are ignored;
//! MaxCmdSN never goes back.

use std::collections::BTreeMap;

/// Commands that an initiator may have under way. Enough for any queue depth in use (Linux: 128 per
/// session by default), and a bound on tasks and on data that came unasked.
pub(super) const COMMAND_WINDOW: u32 = 128;

/// Whether `a` comes before `b` (RFC 1982).
fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

/// The window of one session; `T` is a request that waits for its turn.
#[derive(Debug)]
pub(super) struct CommandWindow<T> {
    expected: u32,
    maximum: u32,
    held: BTreeMap<u32, T>,
}

impl<T> CommandWindow<T> {
    /// A window whose first request will be `first`.
    pub(super) fn new(first: u32) -> Self {
        let maximum = first.wrapping_add(COMMAND_WINDOW - 1);
        Self {
            expected: first,
            maximum,
            held: BTreeMap::new(),
        }
    }

    pub(super) fn expected(&self) -> u32 {
        self.expected
    }

    pub(super) fn maximum(&self) -> u32 {
        self.maximum
    }

    /// Opens the window as far as `active` tasks allow.
    pub(super) fn open(&mut self, active: usize) {
        let active = u32::try_from(active)
            .unwrap_or(u32::MAX)
            .min(COMMAND_WINDOW);
        let maximum = self
            .expected
            .wrapping_add(COMMAND_WINDOW - active)
            .wrapping_sub(1);
        if before(self.maximum, maximum) {
            self.maximum = maximum;
        }
    }

    /// Takes a request; gives it back when it is its turn. Others wait, or vanish when their number
    /// is outside the window or taken.
    pub(super) fn take(&mut self, number: u32, request: T) -> Option<T> {
        if number == self.expected && !before(self.maximum, number) {
            self.expected = self.expected.wrapping_add(1);
            return Some(request);
        }
        if before(self.expected, number) && !before(self.maximum, number) {
            self.held.entry(number).or_insert(request);
            debug_assert!(
                self.held.len() <= 2 * COMMAND_WINDOW as usize,
                "the window bounds it"
            );
        }
        None
    }

    /// A held request whose turn has come.
    pub(super) fn next_held(&mut self) -> Option<T> {
        let request = self.held.remove(&self.expected)?;
        self.expected = self.expected.wrapping_add(1);
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_leave_in_order_whatever_the_order_of_their_arrival() {
        let first = u32::MAX - 1;
        let mut window = CommandWindow::new(first);
        assert_eq!(window.take(first.wrapping_add(2), "c"), None);
        assert_eq!(window.take(first.wrapping_add(1), "b"), None);
        assert_eq!(window.next_held(), None);
        assert_eq!(window.take(first, "a"), Some("a"));
        assert_eq!(window.next_held(), Some("b"));
        assert_eq!(window.next_held(), Some("c"));
        assert_eq!(window.expected(), 1);
    }

    #[test]
    fn numbers_outside_the_window_are_ignored_and_it_never_shrinks() {
        let mut window = CommandWindow::new(10);
        assert_eq!(window.take(9, ()), None);
        assert_eq!(window.take(10 + COMMAND_WINDOW, ()), None);
        assert!(window.held.is_empty());
        let maximum = window.maximum();
        window.open(100);
        assert_eq!(window.maximum(), maximum);
        assert_eq!(window.take(10, ()), Some(()));
        window.open(1);
        assert_eq!(window.maximum(), maximum, "the one task holds its place");
        window.open(0);
        assert_eq!(window.maximum(), maximum + 1);
    }
}
