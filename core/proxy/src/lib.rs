//! Placeholder during the first hour.
