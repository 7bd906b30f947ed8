//! [`View`] and [`Update`] over redb's transactions on the state's one table.
//!
//! Does not: know what keys mean.

use std::sync::Arc;

use redb::{ReadOnlyTable, ReadableTable, Table};

use super::backend::Health;
use crate::state::Pair;
use crate::{StateError, Update, View};

/// Keys and values are plain bytes in byte order.
pub(crate) type Definition = redb::TableDefinition<'static, &'static [u8], &'static [u8]>;

/// What a failed call of redb means for the replica.
pub(crate) fn state_error(health: &Health, error: impl Into<redb::Error>) -> StateError {
    let error = error.into();
    if matches!(error, redb::Error::Corrupted(_)) {
        health.set_damaged();
    }
    if health.is_damaged() {
        return StateError::Damaged(error.to_string());
    }
    if health.is_full() {
        return StateError::NoRoom(error.to_string());
    }
    StateError::Stopped(error.to_string())
}

/// A consistent view: one read transaction.
pub(crate) struct Reading {
    pub(super) table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub(super) health: Arc<Health>,
}

/// One write transaction's table.
pub(crate) struct Writing<'a> {
    pub(super) table: Table<'a, &'static [u8], &'static [u8]>,
    pub(super) health: &'a Health,
}

type Found = Result<Option<Vec<u8>>, StateError>;

fn get<T>(table: &T, health: &Health, key: &[u8]) -> Found
where
    T: ReadableTable<&'static [u8], &'static [u8]>,
{
    let found = table.get(key).map_err(|error| state_error(health, error))?;
    Ok(found.map(|value| value.value().to_vec()))
}

fn scan<T>(
    table: &T,
    health: &Health,
    (from, to): (&[u8], &[u8]),
    limit: usize,
) -> Result<Vec<Pair>, StateError>
where
    T: ReadableTable<&'static [u8], &'static [u8]>,
{
    if from >= to {
        return Ok(Vec::new());
    }
    let range = table
        .range::<&[u8]>(from..to)
        .map_err(|error| state_error(health, error))?;
    range
        .take(limit)
        .map(|pair| {
            let (key, value) = pair.map_err(|error| state_error(health, error))?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        })
        .collect()
}

fn last<T>(
    table: &T,
    health: &Health,
    (from, to): (&[u8], &[u8]),
) -> Result<Option<Pair>, StateError>
where
    T: ReadableTable<&'static [u8], &'static [u8]>,
{
    if from >= to {
        return Ok(None);
    }
    let mut range = table
        .range::<&[u8]>(from..to)
        .map_err(|error| state_error(health, error))?;
    let Some(pair) = range.next_back() else {
        return Ok(None);
    };
    let (key, value) = pair.map_err(|error| state_error(health, error))?;
    Ok(Some((key.value().to_vec(), value.value().to_vec())))
}

impl View for Reading {
    fn get(&self, key: &[u8]) -> Found {
        get(&self.table, &self.health, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StateError> {
        scan(&self.table, &self.health, (from, to), limit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, StateError> {
        last(&self.table, &self.health, (from, to))
    }
}

impl View for Writing<'_> {
    fn get(&self, key: &[u8]) -> Found {
        get(&self.table, self.health, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StateError> {
        scan(&self.table, self.health, (from, to), limit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, StateError> {
        last(&self.table, self.health, (from, to))
    }
}

impl Update for Writing<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.table
            .insert(key, value)
            .map(drop)
            .map_err(|error| state_error(self.health, error))
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.table
            .remove(key)
            .map(drop)
            .map_err(|error| state_error(self.health, error))
    }
}
