//! A disk in memory and a catalog of such disks, for tests and for the example server.
//!
//! Keeps what was written until it is dropped; "durable" means nothing here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::port::{
    BlockDevice, BlockError, ChapCredentials, Geometry, LogicalUnit, OperationTag, TargetCatalog,
    TargetDescription,
};

/// Granularity of allocation in bytes.
const PAGE_BYTES: usize = 64 << 10;

#[derive(Debug)]
struct Content {
    geometry: Geometry,
    pages: BTreeMap<u64, Box<[u8]>>,
}

/// A thin disk in memory.
#[derive(Debug)]
pub struct MemoryDisk {
    content: Mutex<Content>,
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        Self {
            content: Mutex::new(Content {
                geometry,
                pages: BTreeMap::new(),
            }),
        }
    }

    /// Changes the number of blocks.
    pub fn resize(&self, block_count: u64) {
        self.lock().geometry.block_count = block_count;
    }

    /// Makes every further operation see another geometry.
    pub fn set_read_only(&self, read_only: bool) {
        self.lock().geometry.read_only = read_only;
    }

    /// Bytes of memory that hold data.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        u64::try_from(self.lock().pages.len() * PAGE_BYTES).expect("memory is below 2^64 bytes")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Content> {
        self.content
            .lock()
            .expect("no holder of the content panics")
    }
}

impl Content {
    fn check(&self, first_byte: u64, length_bytes: u64) -> Result<(), BlockError> {
        let size = self.geometry.block_count * u64::from(self.geometry.block_size_bytes);
        let inside = first_byte
            .checked_add(length_bytes)
            .is_some_and(|end| end <= size);
        if inside {
            Ok(())
        } else {
            Err(BlockError::OutOfRange)
        }
    }

    /// Calls `visit` with each page index, the range in the page and the offset in the request.
    fn each_page(first_byte: u64, length: usize, mut visit: impl FnMut(u64, usize, usize, usize)) {
        let page_bytes = u64::try_from(PAGE_BYTES).expect("a small number");
        let mut done = 0;
        while done < length {
            let position = first_byte + u64::try_from(done).expect("within memory");
            let within = usize::try_from(position % page_bytes).expect("within a page");
            let count = (PAGE_BYTES - within).min(length - done);
            visit(position / page_bytes, within, done, count);
            done += count;
        }
    }

    fn read(&self, first_byte: u64, length: usize) -> Bytes {
        let mut data = vec![0; length];
        Self::each_page(first_byte, length, |page, within, done, count| {
            if let Some(bytes) = self.pages.get(&page) {
                data[done..done + count].copy_from_slice(&bytes[within..within + count]);
            }
        });
        Bytes::from(data)
    }

    fn write(&mut self, first_byte: u64, data: &[u8]) {
        Self::each_page(first_byte, data.len(), |page, within, done, count| {
            let bytes = self
                .pages
                .entry(page)
                .or_insert_with(|| vec![0; PAGE_BYTES].into_boxed_slice());
            bytes[within..within + count].copy_from_slice(&data[done..done + count]);
        });
    }

    fn zero(&mut self, first_byte: u64, length: u64) {
        let page_bytes = u64::try_from(PAGE_BYTES).expect("a small number");
        let end = first_byte + length;
        let pages = first_byte / page_bytes..end.div_ceil(page_bytes);
        let touched: Vec<u64> = self.pages.range(pages).map(|(page, _)| *page).collect();
        for page in touched {
            let start = page * page_bytes;
            let from = usize::try_from(first_byte.max(start) - start).expect("within a page");
            let to = usize::try_from(end.min(start + page_bytes) - start).expect("within a page");
            if from == 0 && to == PAGE_BYTES {
                self.pages.remove(&page);
            } else if let Some(bytes) = self.pages.get_mut(&page) {
                bytes[from..to].fill(0);
            }
        }
    }
}

impl BlockDevice for MemoryDisk {
    fn geometry(&self) -> Geometry {
        self.lock().geometry
    }

    fn read(
        &self,
        first_byte: u64,
        length_bytes: u32,
    ) -> BoxFuture<'static, Result<Bytes, BlockError>> {
        let content = self.lock();
        let length = usize::try_from(length_bytes).expect("32 bits fit");
        let result = content
            .check(first_byte, u64::from(length_bytes))
            .map(|()| content.read(first_byte, length));
        Box::pin(std::future::ready(result))
    }

    fn write(
        &self,
        first_byte: u64,
        data: Bytes,
        _tag: OperationTag,
    ) -> BoxFuture<'static, Result<(), BlockError>> {
        let mut content = self.lock();
        let length = u64::try_from(data.len()).expect("within memory");
        let result = content
            .check(first_byte, length)
            .map(|()| content.write(first_byte, &data));
        Box::pin(std::future::ready(result))
    }

    fn write_zeroes(
        &self,
        first_byte: u64,
        length_bytes: u64,
        _unmap: bool,
        _tag: OperationTag,
    ) -> BoxFuture<'static, Result<(), BlockError>> {
        let mut content = self.lock();
        let result = content
            .check(first_byte, length_bytes)
            .map(|()| content.zero(first_byte, length_bytes));
        Box::pin(std::future::ready(result))
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), BlockError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn cancel(&self, _tag: OperationTag) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A catalog that can be changed at any time.
#[derive(Debug, Default)]
pub struct MemoryCatalog {
    targets: Mutex<BTreeMap<String, TargetDescription>>,
}

impl MemoryCatalog {
    /// Exports `device` as LUN 0 of the target `name`.
    pub fn export(
        &self,
        name: &str,
        device: Arc<dyn BlockDevice>,
        identity: [u8; 16],
        chap: Option<ChapCredentials>,
    ) {
        let unit = LogicalUnit {
            device,
            identity,
            name: name.to_owned(),
        };
        let description = TargetDescription {
            name: name.to_owned(),
            units: BTreeMap::from([(0, unit)]),
            chap,
            portals: Vec::new(),
        };
        self.lock().insert(name.to_owned(), description);
    }

    /// Exports nothing under this name any more.
    pub fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, TargetDescription>> {
        self.targets
            .lock()
            .expect("no holder of the catalog panics")
    }
}

impl TargetCatalog for MemoryCatalog {
    fn target_names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn find(&self, name: &str) -> Option<TargetDescription> {
        self.lock().get(name).cloned()
    }
}
