//! Mode pages (SPC-4 7.5, SBC-3 6.5): caching and control.
//!
//! WCE is zero and cannot be changed: a write is durable when it is answered. Of the control page
//! D_SENSE and SWP can be changed; both last until a reset.

use super::cdb::ModeSense;
use super::sense::Sense;
use crate::port::Geometry;

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;

/// SAVING PARAMETERS NOT SUPPORTED (SPC-4 6.11.5).
const NO_SAVED_PAGES: u16 = 0x3900;

/// What MODE SELECT can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ModeParameters {
    /// D_SENSE: sense data in descriptor format.
    pub(crate) descriptor_sense: bool,
    /// SWP: the initiator asked for write protection.
    pub(crate) write_protect: bool,
}

/// Which values MODE SENSE asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Current,
    Changeable,
    Default,
}

impl ModeParameters {
    fn page(self, code: u8, values: Values) -> Option<Vec<u8>> {
        let state = match values {
            Values::Current => self,
            Values::Default => Self::default(),
            Values::Changeable => Self {
                descriptor_sense: true,
                write_protect: true,
            },
        };
        let fixed = values != Values::Changeable;
        match code {
            CACHING => {
                let mut page = vec![0; 20];
                page[..2].copy_from_slice(&[CACHING, 18]);
                Some(page)
            }
            CONTROL => {
                let mut page = vec![0; 12];
                page[..2].copy_from_slice(&[CONTROL, 10]);
                page[2] = u8::from(state.descriptor_sense) << 2;
                page[4] = u8::from(state.write_protect) << 3;
                if fixed {
                    page[2] |= 0x20; // TST: a task set for each I_T nexus
                    page[3] = 0x10; // QUEUE ALGORITHM MODIFIER: unrestricted reordering
                    page[8..10].copy_from_slice(&[0xff, 0xff]); // BUSY TIMEOUT PERIOD unlimited
                }
                Some(page)
            }
            _ => None,
        }
    }

    /// MODE SENSE's data.
    pub(crate) fn sense(self, request: ModeSense, geometry: Geometry) -> Result<Vec<u8>, Sense> {
        let values = match request.control {
            0 => Values::Current,
            1 => Values::Changeable,
            2 => Values::Default,
            _ => {
                let mut sense = Sense::invalid_cdb_field(2, Some(7));
                sense.code = NO_SAVED_PAGES;
                return Err(sense);
            }
        };
        let pages = match (request.page, request.subpage) {
            (ALL_PAGES, 0 | ALL_SUBPAGES) => vec![CACHING, CONTROL],
            (page, 0 | ALL_SUBPAGES) => vec![page],
            _ => return Err(Sense::invalid_cdb_field(3, Some(7))),
        };
        let mut body = Vec::new();
        if !request.no_descriptors {
            body.extend_from_slice(&block_descriptor(geometry, request.long_lba));
        }
        let descriptor_bytes = body.len();
        for page in pages {
            let bytes = self
                .page(page, values)
                .ok_or(Sense::invalid_cdb_field(2, Some(5)))?;
            body.extend_from_slice(&bytes);
        }
        let specific = self.device_specific(geometry);
        Ok(with_header(request, specific, descriptor_bytes, &body))
    }

    /// WP and DPOFUA (SBC-3 6.5.1).
    fn device_specific(self, geometry: Geometry) -> u8 {
        let protected = geometry.read_only || self.write_protect;
        0x10 | u8::from(protected) << 7
    }

    /// MODE SELECT's outcome: the parameters after it.
    pub(crate) fn select(self, long: bool, list: &[u8], geometry: Geometry) -> Result<Self, Sense> {
        if list.is_empty() {
            return Ok(self);
        }
        let header_bytes = if long { 8 } else { 4 };
        let header = list.get(..header_bytes).ok_or(Sense::PARAMETER_LENGTH)?;
        let (descriptor_bytes, long_lba) = if long {
            (
                usize::from(u16::from_be_bytes([header[6], header[7]])),
                header[4] & 1 == 1,
            )
        } else {
            (usize::from(header[3]), false)
        };
        let rest = &list[header_bytes..];
        let descriptor = rest
            .get(..descriptor_bytes)
            .ok_or(Sense::PARAMETER_LENGTH)?;
        let at = u16::try_from(header_bytes).expect("4 or 8");
        check_descriptor(descriptor, long_lba, geometry, at)?;
        let mut changed = self;
        let mut pages = &rest[descriptor_bytes..];
        while !pages.is_empty() {
            let offset = list.len() - pages.len();
            let &[code, length, ..] = pages else {
                return Err(Sense::PARAMETER_LENGTH);
            };
            let whole = 2 + usize::from(length);
            let page = pages.get(..whole).ok_or(Sense::PARAMETER_LENGTH)?;
            changed = changed.apply(code & 0x7f, page, offset)?;
            pages = &pages[whole..];
        }
        Ok(changed)
    }

    /// One page of a MODE SELECT that stands at `offset` of the list.
    fn apply(self, code: u8, page: &[u8], offset: usize) -> Result<Self, Sense> {
        let invalid = |index: usize| {
            Sense::invalid_parameter(u16::try_from(offset + index).unwrap_or(u16::MAX), None)
        };
        let current = self.page(code, Values::Current).ok_or_else(|| invalid(0))?;
        let changeable = self
            .page(code, Values::Changeable)
            .ok_or_else(|| invalid(0))?;
        if page.len() != current.len() {
            return Err(invalid(1));
        }
        for index in 2..page.len() {
            if (page[index] ^ current[index]) & !changeable[index] != 0 {
                return Err(invalid(index));
            }
        }
        Ok(match code {
            CONTROL => Self {
                descriptor_sense: page[2] & 0x04 != 0,
                write_protect: page[4] & 0x08 != 0,
            },
            _ => self,
        })
    }
}

fn with_header(request: ModeSense, specific: u8, descriptors: usize, body: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(8 + body.len());
    if request.long {
        let length = u16::try_from(body.len() + 6).expect("mode pages are small");
        let descriptors = u16::try_from(descriptors).expect("one descriptor at most");
        data.extend_from_slice(&length.to_be_bytes());
        data.extend_from_slice(&[0, specific, u8::from(request.long_lba), 0]);
        data.extend_from_slice(&descriptors.to_be_bytes());
    } else {
        let length = u8::try_from(body.len() + 3).expect("mode pages are small");
        let descriptors = u8::try_from(descriptors).expect("one descriptor at most");
        data.extend_from_slice(&[length, 0, specific, descriptors]);
    }
    data.extend_from_slice(body);
    data
}

/// Short or long LBA mode parameter block descriptor (SBC-3 6.5.2).
fn block_descriptor(geometry: Geometry, long: bool) -> Vec<u8> {
    let size = geometry.block_size_bytes.to_be_bytes();
    if long {
        let mut bytes = geometry.block_count.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&size);
        bytes
    } else {
        let count = u32::try_from(geometry.block_count).unwrap_or(u32::MAX);
        let mut bytes = count.to_be_bytes().to_vec();
        bytes.extend_from_slice(&size);
        bytes
    }
}

/// A block descriptor may only say what is so already; a count of zero means no change.
fn check_descriptor(bytes: &[u8], long: bool, geometry: Geometry, at: u16) -> Result<(), Sense> {
    let same = match (bytes.len(), long) {
        (0, _) => return Ok(()),
        (8, false) | (16, true) => {
            let current = block_descriptor(geometry, long);
            let count = if long { 8 } else { 4 };
            let unchanged = bytes[..count].iter().all(|b| *b == 0);
            bytes[count..] == current[count..] && (unchanged || bytes[..count] == current[..count])
        }
        _ => false,
    };
    if same {
        Ok(())
    } else {
        Err(Sense::invalid_parameter(at, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry() -> Geometry {
        Geometry::new(512, 2048)
    }

    fn request(control: u8, page: u8) -> ModeSense {
        ModeSense {
            long: false,
            no_descriptors: false,
            long_lba: false,
            control,
            page,
            subpage: 0,
            allocation: 255,
        }
    }

    #[test]
    fn the_write_cache_is_off_and_cannot_be_switched_on() {
        let mode = ModeParameters::default();
        let data = mode.sense(request(0, CACHING), geometry()).unwrap();
        assert_eq!(data[0], u8::try_from(data.len() - 1).unwrap());
        assert_eq!((data[3], data[12], data[14]), (8, CACHING, 0));

        let mut list = vec![0, 0, 0, 0];
        list.extend_from_slice(&data[12..]);
        assert_eq!(mode.select(false, &list, geometry()), Ok(mode));
        list[6] |= 0x04;
        assert_eq!(
            mode.select(false, &list, geometry()),
            Err(Sense::invalid_parameter(6, None))
        );
    }

    #[test]
    fn descriptor_sense_can_be_switched_on_and_changeable_values_say_so() {
        let mode = ModeParameters::default();
        let changeable = mode.sense(request(1, CONTROL), geometry()).unwrap();
        assert_eq!(changeable[14] & 0x04, 0x04);
        let data = mode.sense(request(0, CONTROL), geometry()).unwrap();
        let mut list = vec![0, 0, 0, 0];
        list.extend_from_slice(&data[12..]);
        list[6] |= 0x04;
        let changed = mode.select(false, &list, geometry()).unwrap();
        assert!(changed.descriptor_sense && !changed.write_protect);
    }

    #[test]
    fn lists_cut_short_and_foreign_block_sizes_are_refused() {
        let mode = ModeParameters::default();
        for cut in 1..16 {
            let mut list = vec![0, 0, 0, 0, CONTROL, 10];
            list.resize(16, 0);
            let result = mode.select(false, &list[..cut], geometry());
            assert!(cut == 4 || result.is_err(), "cut at {cut}");
        }
        let list = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0x10, 0];
        assert_eq!(
            mode.select(false, &list, geometry()),
            Err(Sense::invalid_parameter(4, None))
        );
        let saved = mode.sense(request(3, ALL_PAGES), geometry()).unwrap_err();
        assert_eq!(saved.code, NO_SAVED_PAGES);
    }
}
