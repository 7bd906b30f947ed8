//! A disk with a write cache that forgets: a network block device whose power can be cut.
//!
//! Writes go into the cache; FLUSH (or a write with FUA) makes them durable, after a delay as a slow
//! disk has. A cut forgets all that was not flushed. Until [`Power::restore`] the device then answers
//! everything and keeps nothing, so that the kernel above lets go of it without hanging.
//!
//! Speaks as much of the NBD protocol (fixed newstyle, simple replies) as qemu's client needs; one
//! connection at a time, one request at a time.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// What is cached is noted in blocks of this size.
const BLOCK_BYTES: u64 = 4096;
const PREFERRED_REQUEST_BYTES: u32 = 4096;
/// An option carries a name; the protocol allows names of this length.
const LARGEST_OPTION_BYTES: u32 = 4096;
/// Larger requests are refused; qemu sends at most this.
const LARGEST_REQUEST_BYTES: u32 = 32 << 20;

/// The device.
pub(super) struct Power {
    shared: Arc<Shared>,
    port: u16,
}

struct Shared {
    bytes: u64,
    flush_delay_ms: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// What the device answers reads with.
    cache: File,
    /// What is left after a cut.
    durable: File,
    unflushed: BTreeSet<u64>,
    powered: bool,
}

impl Power {
    /// A device of `bytes` zeros, with its files in `folder`.
    pub(super) fn new(folder: &Path, bytes: u64) -> anyhow::Result<Power> {
        let file = |name: &str| -> anyhow::Result<File> {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true);
            let file = options.open(folder.join(name))?;
            file.set_len(bytes)?;
            Ok(file)
        };
        let shared = Arc::new(Shared {
            bytes,
            flush_delay_ms: AtomicU64::new(0),
            state: Mutex::new(State {
                cache: file("cache")?,
                durable: file("durable")?,
                unflushed: BTreeSet::new(),
                powered: true,
            }),
        });
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port on loopback")?;
        let port = listener.local_addr()?.port();
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that leaves in the middle of a request is no error of this device.
                if let Err(error) = server.serve(stream) {
                    eprintln!("   block device: {error:#}");
                }
            }
        });
        Ok(Power { shared, port })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// From now on a flush takes this long before it has any effect.
    pub(super) fn set_flush_delay(&self, delay: Duration) {
        let milliseconds = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.shared
            .flush_delay_ms
            .store(milliseconds, Ordering::Relaxed);
    }

    /// Cuts the power; returns how many bytes were in the cache and nowhere else.
    pub(super) fn cut(&self) -> u64 {
        let mut state = self.shared.lock();
        state.powered = false;
        state.unflushed.len() as u64 * BLOCK_BYTES
    }

    /// Power again: the device holds what was durable when it was cut, and nothing else.
    pub(super) fn restore(&self) -> anyhow::Result<()> {
        let mut state = self.shared.lock();
        let lost = std::mem::take(&mut state.unflushed);
        for block in lost {
            copy_block(&state.durable, &state.cache, block)?;
        }
        state.powered = true;
        Ok(())
    }
}

fn copy_block(from: &File, to: &File, block: u64) -> anyhow::Result<()> {
    let mut bytes = vec![0; usize::try_from(BLOCK_BYTES)?];
    from.read_exact_at(&mut bytes, block * BLOCK_BYTES)?;
    to.write_all_at(&bytes, block * BLOCK_BYTES)?;
    Ok(())
}

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const OPTION_ABORT: u32 = 2;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = (1 << 31) + 1;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
/// HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES.
const EXPORT_FLAGS: u16 = 1 | 4 | 8 | 32 | 64;
const COMMAND_FUA: u16 = 1;
const EINVAL: u32 = 22;

struct Request {
    flags: u16,
    kind: u16,
    handle: u64,
    offset: u64,
    length: u32,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    fn serve(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        stream.write_all(b"NBDMAGIC")?;
        stream.write_all(&OPTION_MAGIC.to_be_bytes())?;
        // FIXED_NEWSTYLE, NO_ZEROES; the client answers with the same two bits.
        stream.write_all(&3_u16.to_be_bytes())?;
        read::<4>(&mut stream)?;
        if !self.agree(&mut stream)? {
            return Ok(());
        }
        while let Some(request) = read_request(&mut stream)? {
            self.answer(&mut stream, &request)?;
        }
        Ok(())
    }

    /// Option haggling; whether transmission begins.
    fn agree(&self, stream: &mut TcpStream) -> anyhow::Result<bool> {
        loop {
            if u64::from_be_bytes(read(stream)?) != OPTION_MAGIC {
                bail!("this is no option");
            }
            let option = u32::from_be_bytes(read(stream)?);
            let length = u32::from_be_bytes(read(stream)?);
            if length > LARGEST_OPTION_BYTES {
                bail!("an option of {length} bytes");
            }
            stream.read_exact(&mut vec![0; length as usize])?;
            let mut reply = |kind: u32, data: &[u8]| -> anyhow::Result<()> {
                let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
                bytes.extend(option.to_be_bytes());
                bytes.extend(kind.to_be_bytes());
                bytes.extend(u32::try_from(data.len())?.to_be_bytes());
                bytes.extend(data);
                Ok(stream.write_all(&bytes)?)
            };
            match option {
                OPTION_GO => {
                    let mut export = INFO_EXPORT.to_be_bytes().to_vec();
                    export.extend(self.bytes.to_be_bytes());
                    export.extend(EXPORT_FLAGS.to_be_bytes());
                    reply(REPLY_INFO, &export)?;
                    let mut sizes = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
                    for size in [512, PREFERRED_REQUEST_BYTES, LARGEST_REQUEST_BYTES] {
                        sizes.extend(size.to_be_bytes());
                    }
                    reply(REPLY_INFO, &sizes)?;
                    reply(REPLY_ACK, &[])?;
                    return Ok(true);
                }
                OPTION_ABORT => {
                    reply(REPLY_ACK, &[])?;
                    return Ok(false);
                }
                _ => reply(REPLY_UNSUPPORTED, &[])?,
            }
        }
    }

    fn answer(&self, stream: &mut TcpStream, request: &Request) -> anyhow::Result<()> {
        let inside = request.offset.checked_add(u64::from(request.length));
        let sound = inside.is_some_and(|end| end <= self.bytes);
        let mut data = Vec::new();
        if request.kind == 1 {
            // The data follows whatever the answer will be.
            data.resize(request.length as usize, 0);
            stream.read_exact(&mut data)?;
        }
        let fua = request.flags & COMMAND_FUA != 0;
        let error = match request.kind {
            0 | 1 | 4 | 6 if !sound => EINVAL,
            0 => {
                data.resize(request.length as usize, 0);
                self.lock().cache.read_exact_at(&mut data, request.offset)?;
                0
            }
            1 => self.write(request.offset, &data, fua)?,
            3 => self.flush(None)?,
            // TRIM may keep what it is allowed to drop.
            4 => 0,
            6 => self.write(request.offset, &vec![0; request.length as usize], fua)?,
            _ => EINVAL,
        };
        let mut reply = REPLY_MAGIC.to_be_bytes().to_vec();
        reply.extend(error.to_be_bytes());
        reply.extend(request.handle.to_be_bytes());
        if request.kind == 0 && error == 0 {
            reply.extend(data);
        }
        Ok(stream.write_all(&reply)?)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> anyhow::Result<u32> {
        let end = offset + data.len() as u64;
        let blocks = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        {
            let mut state = self.lock();
            if !state.powered {
                return Ok(0);
            }
            state.cache.write_all_at(data, offset)?;
            state.unflushed.extend(blocks.clone());
        }
        if fua { self.flush(Some(blocks)) } else { Ok(0) }
    }

    /// Makes `blocks` durable, or everything.
    fn flush(&self, blocks: Option<std::ops::Range<u64>>) -> anyhow::Result<u32> {
        let delay = self.flush_delay_ms.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(delay));
        let mut state = self.lock();
        if !state.powered {
            return Ok(0);
        }
        let chosen: Vec<u64> = match blocks {
            Some(blocks) => state.unflushed.range(blocks).copied().collect(),
            None => state.unflushed.iter().copied().collect(),
        };
        for block in chosen {
            copy_block(&state.cache, &state.durable, block)?;
            state.unflushed.remove(&block);
        }
        Ok(0)
    }
}

fn read<const N: usize>(stream: &mut TcpStream) -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// None when the client has left or says that it leaves.
fn read_request(stream: &mut TcpStream) -> anyhow::Result<Option<Request>> {
    let mut magic = [0; 4];
    if stream.read(&mut magic[..1])? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut magic[1..])?;
    if u32::from_be_bytes(magic) != REQUEST_MAGIC {
        bail!("this is no request");
    }
    let request = Request {
        flags: u16::from_be_bytes(read(stream)?),
        kind: u16::from_be_bytes(read(stream)?),
        handle: u64::from_be_bytes(read(stream)?),
        offset: u64::from_be_bytes(read(stream)?),
        length: u32::from_be_bytes(read(stream)?),
    };
    if request.length > LARGEST_REQUEST_BYTES {
        bail!("a request of {} bytes", request.length);
    }
    Ok((request.kind != 2).then_some(request))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> (Power, std::path::PathBuf) {
        let folder = std::env::temp_dir().join(format!("hedgerow-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        (Power::new(&folder, 1 << 20).unwrap(), folder)
    }

    fn byte(power: &Power, offset: u64) -> u8 {
        let mut bytes = [0];
        power
            .shared
            .lock()
            .cache
            .read_exact_at(&mut bytes, offset)
            .unwrap();
        bytes[0]
    }

    #[test]
    fn a_cut_forgets_what_was_not_flushed_and_nothing_else() {
        let (power, folder) = device("cut");
        power.shared.write(4096, &[1; 512], false).unwrap();
        power.shared.flush(None).unwrap();
        power.shared.write(4608, &[2; 512], false).unwrap();
        power.shared.write(20_480, &[3; 512], true).unwrap();
        assert_eq!(power.cut(), 4096);
        power.shared.write(4096, &[9; 512], true).unwrap();
        power.shared.flush(None).unwrap();
        power.restore().unwrap();
        assert_eq!([4096, 4608, 20_480].map(|at| byte(&power, at)), [1, 0, 3]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_flush_that_the_cut_overtakes_has_no_effect() {
        let (power, folder) = device("overtaken");
        power.set_flush_delay(Duration::from_millis(200));
        power.shared.write(0, &[1; 512], false).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| power.shared.flush(None).unwrap());
            std::thread::sleep(Duration::from_millis(50));
            power.cut();
        });
        power.restore().unwrap();
        assert_eq!(byte(&power, 0), 0);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
