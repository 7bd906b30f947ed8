//! A disk in memory with faults, and a one-thread world, for tests.
