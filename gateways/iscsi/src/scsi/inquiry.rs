//! INQUIRY: standard data and vital product data pages (SPC-4 6.6, 7.8; SBC-3 6.6).

use super::sense::Sense;
use super::{TRANSFER_BYTES_MAX, UNMAP_BYTES_MAX, UNMAP_DESCRIPTORS_MAX, write_same_blocks_max};
use crate::port::{Geometry, LogicalUnit};

const VENDOR: &[u8; 8] = b"HEDGEROW";
const PRODUCT: &[u8; 16] = b"Virtual Disk    ";

/// The only target portal group.
pub(crate) const PORTAL_GROUP: u16 = 1;

/// The first byte of every answer for a logical unit that is not there: qualifier 3, type 1Fh.
const NO_DEVICE: u8 = 0x7f;

/// Version descriptors: SAM-5, SPC-4, SBC-3, iSCSI (SPC-4 table 154), no version claimed.
const VERSIONS: [u16; 4] = [0x00a0, 0x0460, 0x04c0, 0x0960];

/// VPD pages, in order.
const PAGES: [u8; 6] = [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2];

/// Standard INQUIRY data; `unit` is none for a logical unit that does not exist.
pub(crate) fn standard(unit: Option<&LogicalUnit>) -> Vec<u8> {
    let mut data = vec![0_u8; 96];
    data[0] = if unit.is_some() { 0 } else { NO_DEVICE };
    data[2] = 0x06; // SPC-4
    data[3] = 0x12; // HISUP, response data format 2
    data[4] = 91;
    data[7] = 0x02; // CMDQUE
    data[8..16].copy_from_slice(VENDOR);
    data[16..32].copy_from_slice(PRODUCT);
    data[32..36].copy_from_slice(&revision());
    for (slot, version) in data[58..].chunks_exact_mut(2).zip(VERSIONS) {
        slot.copy_from_slice(&version.to_be_bytes());
    }
    data
}

/// The product revision: major and minor version, at most four characters.
fn revision() -> [u8; 4] {
    let text = concat!(
        env!("CARGO_PKG_VERSION_MAJOR"),
        ".",
        env!("CARGO_PKG_VERSION_MINOR")
    );
    let mut revision = [b' '; 4];
    for (slot, byte) in revision.iter_mut().zip(text.bytes()) {
        *slot = byte;
    }
    revision
}

/// A vital product data page.
pub(crate) fn page(
    code: u8,
    unit: Option<&LogicalUnit>,
    geometry: Option<Geometry>,
    target_name: &str,
) -> Result<Vec<u8>, Sense> {
    let (Some(unit), Some(geometry)) = (unit, geometry) else {
        return if code == 0 {
            Ok(vec![NO_DEVICE, 0, 0, 1, 0])
        } else {
            Err(Sense::invalid_cdb_field(2, Some(7)))
        };
    };
    let body = match code {
        0x00 => PAGES.to_vec(),
        0x80 => hexadecimal(&unit.identity).into_bytes(),
        0x83 => identification(unit, target_name),
        0xb0 => block_limits(geometry),
        0xb1 => characteristics(),
        0xb2 => provisioning(geometry),
        _ => return Err(Sense::invalid_cdb_field(2, Some(7))),
    };
    let length = u16::try_from(body.len()).expect("VPD pages are small");
    let [high, low] = length.to_be_bytes();
    let mut data = vec![0, code, high, low];
    data.extend_from_slice(&body);
    Ok(data)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Device identification (SPC-4 7.8.6): the unit as NAA 3, EUI-64 based and T10 vendor designator;
/// the target port by relative number, portal group and iSCSI name.
fn identification(unit: &LogicalUnit, target_name: &str) -> Vec<u8> {
    let mut page = Vec::new();
    let mut designator = |protocol_and_set: u8, kind: u8, value: &[u8]| {
        let length = u8::try_from(value.len()).expect("names were limited");
        page.extend_from_slice(&[protocol_and_set, kind, 0, length]);
        page.extend_from_slice(value);
    };
    designator(0x01, 0x03, &locally_assigned(unit.identity));
    designator(0x01, 0x02, &unit.identity);

    let mut vendor = VENDOR.to_vec();
    vendor.extend_from_slice(hexadecimal(&unit.identity).as_bytes());
    vendor.push(b' ');
    vendor.extend(
        unit.name
            .bytes()
            .filter(|b| (0x20..0x7f).contains(b))
            .take(128),
    );
    designator(0x02, 0x01, &vendor);

    // Association 1 with PIV: the target port, protocol iSCSI (5).
    let [high, low] = PORTAL_GROUP.to_be_bytes();
    designator(0x51, 0x94, &[0, 0, 0, 1]);
    designator(0x51, 0x95, &[0, 0, high, low]);
    designator(
        0x53,
        0x98,
        &padded_name(&format!("{target_name},t,0x{PORTAL_GROUP:04x}")),
    );
    // Association 2: the target device.
    designator(0x53, 0xa8, &padded_name(target_name));
    page
}

/// NAA 3, locally assigned (SPC-4 7.8.6.6.4): NAA 6 would need a registered company id. Its 60 bits
/// are mixed from all of the identity, for disks of one family share half of theirs.
fn locally_assigned(identity: [u8; 16]) -> [u8; 8] {
    // FNV-1a with a final avalanche: fixed for ever, for initiators remember the value.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in identity {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    (0x3 << 60 | hash >> 4).to_be_bytes()
}

/// A SCSI name string: ended by a zero and padded to words (SPC-4 7.8.6.11).
fn padded_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
    bytes
}

/// Blocks in `bytes`, as a field of 32 bits.
fn blocks(bytes: u64, geometry: Geometry) -> u32 {
    u32::try_from(bytes / u64::from(geometry.block_size_bytes)).unwrap_or(u32::MAX)
}

/// Block limits (SBC-3 6.6.4).
fn block_limits(geometry: Geometry) -> Vec<u8> {
    let mut page = vec![0_u8; 60];
    let granularity = blocks(u64::from(geometry.optimal_io_bytes), geometry).max(1);
    let narrow = u16::try_from(granularity).unwrap_or(u16::MAX);
    let mut put =
        |at: usize, bytes: &[u8]| page[at - 4..at - 4 + bytes.len()].copy_from_slice(bytes);
    put(6, &narrow.to_be_bytes()); // optimal transfer length granularity
    put(8, &blocks(TRANSFER_BYTES_MAX, geometry).to_be_bytes());
    put(12, &blocks(OPTIMAL_TRANSFER_BYTES, geometry).to_be_bytes());
    if geometry.thin {
        put(20, &blocks(UNMAP_BYTES_MAX, geometry).to_be_bytes());
        put(24, &UNMAP_DESCRIPTORS_MAX.to_be_bytes());
        put(28, &granularity.to_be_bytes());
        put(32, &0x8000_0000_u32.to_be_bytes()); // UGAVALID, aligned at block 0
    }
    let same = write_same_blocks_max(geometry.block_size_bytes);
    put(36, &same.to_be_bytes());
    page
}

/// Transfers of this size reach full speed.
const OPTIMAL_TRANSFER_BYTES: u64 = 1 << 20;

/// Block device characteristics (SBC-3 6.6.3): not rotating.
fn characteristics() -> Vec<u8> {
    let mut page = vec![0_u8; 60];
    page[1] = 1;
    page
}

/// Logical block provisioning (SBC-3 6.6.5): unmapped blocks read as zeros.
fn provisioning(geometry: Geometry) -> Vec<u8> {
    if geometry.thin {
        // LBPU, LBPWS, LBPWS10, LBPRZ; provisioning type thin.
        vec![0, 0xe4, 0x02, 0]
    } else {
        vec![0, 0x00, 0x01, 0]
    }
}
