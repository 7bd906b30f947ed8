//! What a shard's replica holds, for whoever judges it from outside.
//!
//! Does not: answer anybody in production; those ask by the protocol.

use hedgerow_env::BlobName;

use super::keys;
use crate::{StateError, View};

/// Rows read at once.
const PAGE: usize = 512;

/// The name of every blob that the replica has, live or free.
///
/// # Errors
/// [`StateError`].
pub fn blob_names(view: &dyn View) -> Result<Vec<BlobName>, StateError> {
    let (mut from, end) = (keys::blobs(), keys::after_blobs());
    let mut names = Vec::new();
    loop {
        let page = view.scan(&from, &end, PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(names);
        };
        from.clone_from(last);
        from.push(0);
        for (key, _) in &page {
            names.push(keys::name_of_key(key)?);
        }
    }
}
