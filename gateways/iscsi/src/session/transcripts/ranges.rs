//! Transcripts of commands that name blocks: all that they name is done, or nothing is.
//!
//! The disk of these tests refuses what lies beyond it, with the same sense, so its answer would
//! hide that the session asked it. The transcript does not: it shows every operation that is
//! handed to the disk, before the disk sees it.

use super::*;

/// The last block of the disk in [`portal`].
const LAST_BLOCK: u16 = 2047;

/// An UNMAP parameter list (SBC-3 5.28.2) of ranges, each its first block and its block count.
fn unmap_list(ranges: &[(u64, u32)]) -> Vec<u8> {
    let descriptor_bytes = u16::try_from(ranges.len() * 16).unwrap();
    let mut list = (descriptor_bytes + 6).to_be_bytes().to_vec();
    list.extend_from_slice(&descriptor_bytes.to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    for (first, count) in ranges {
        list.extend_from_slice(&first.to_be_bytes());
        list.extend_from_slice(&count.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    list
}

/// Sends the command and performs whatever it asks of the disk.
fn perform(talk: &mut Talk, cdb: &[u8], expected_bytes: u32, data: &[u8]) {
    talk.cdb(1, cdb, expected_bytes, data);
    while !talk.operations.is_empty() {
        talk.finish_operation();
    }
}

fn unmap(talk: &mut Talk, ranges: &[(u64, u32)]) {
    let list = unmap_list(ranges);
    let length = u8::try_from(list.len()).unwrap();
    let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, length, 0];
    perform(talk, &cdb, u32::from(length), &list);
}

#[test]
fn an_unmap_zeroes_every_range_that_it_names_and_no_other() {
    let mut talk = Talk::logged_in(&[]);
    talk.write(1, 1, 8, 8 * 512, true);
    talk.finish_operation();
    talk.log.clear();
    unmap(&mut talk, &[(1, 1), (4, 2), (8, 1)]);
    talk.check(
        "> cdb 42
         < operate zero 512+512
         > operation done
         < operate zero 2048+1024
         > operation done
         < operate zero 4096+512
         > operation done
         < status 00 None",
    );
    let found = now(talk.disk.read(512, 8 * 512)).unwrap();
    for (block, bytes) in (1..).zip(found.chunks(512)) {
        let byte = u8::from(![1, 4, 5, 8].contains(&block));
        assert_eq!(bytes, [byte; 512], "block {block}");
    }
}

#[test]
fn an_unmap_with_one_range_that_ends_beyond_the_disk_zeroes_none() {
    let mut talk = Talk::logged_in(&[]);
    let last = u64::from(LAST_BLOCK);
    unmap(&mut talk, &[(8, 1), (last, 1)]);
    unmap(&mut talk, &[(8, 1), (last, 2)]);
    talk.check(
        "> cdb 42
         < operate zero 4096+512
         > operation done
         < operate zero 1048064+512
         > operation done
         < status 00 None
         > cdb 42
         < status 02 sense 5/2100 None",
    );
}

/// What a command moves for each block that it names.
#[derive(Clone, Copy)]
enum Moves {
    ToInitiator,
    FromInitiator,
    /// WRITE SAME: one block, however many it names.
    Pattern,
    Nothing,
}

/// A CDB of this opcode for so many blocks from the last one on, by its length group (SPC-4 4.2).
fn from_last_block(opcode: u8, count: u8) -> Vec<u8> {
    let [high, low] = LAST_BLOCK.to_be_bytes();
    match opcode >> 5 {
        0 => vec![opcode, 0, high, low, count, 0],
        4 => vec![opcode, 0, 0, 0, 0, 0, 0, 0, high, low, 0, 0, 0, count, 0, 0],
        5 => vec![opcode, 0, 0, 0, high, low, 0, 0, 0, count, 0, 0],
        _ => vec![opcode, 0, 0, 0, high, low, 0, 0, count, 0],
    }
}

#[test]
fn what_ends_at_the_last_block_is_done_and_what_ends_beyond_it_never_reaches_the_disk() {
    let opcodes: [(Moves, &[u8]); 4] = [
        // READ (6), (10), (12) and (16).
        (Moves::ToInitiator, &[0x08, 0x28, 0xa8, 0x88]),
        // WRITE (6), (10), (12) and (16); WRITE AND VERIFY (10), (12) and (16).
        (
            Moves::FromInitiator,
            &[0x0a, 0x2a, 0xaa, 0x8a, 0x2e, 0xae, 0x8e],
        ),
        // WRITE SAME (10) and (16).
        (Moves::Pattern, &[0x41, 0x93]),
        // VERIFY (10), (12) and (16); SYNCHRONIZE CACHE and PRE-FETCH, (10) and (16).
        (Moves::Nothing, &[0x2f, 0xaf, 0x8f, 0x35, 0x91, 0x34, 0x90]),
    ];
    for (moves, opcode) in opcodes
        .iter()
        .flat_map(|(moves, list)| list.iter().map(|opcode| (*moves, *opcode)))
    {
        let mut talk = Talk::logged_in(&[]);
        let mut from_last = |count: u8| {
            let (expected, data) = match moves {
                Moves::ToInitiator => (u32::from(count) * 512, vec![]),
                Moves::FromInitiator => (u32::from(count) * 512, vec![7; usize::from(count) * 512]),
                Moves::Pattern => (512, vec![7; 512]),
                Moves::Nothing => (0, vec![]),
            };
            perform(&mut talk, &from_last_block(opcode, count), expected, &data);
            (expected, std::mem::take(&mut talk.log))
        };
        let (_, inside) = from_last(1);
        assert!(inside.contains("status 00 None"), "{inside}");

        let (expected, beyond) = from_last(2);
        let residual = match expected {
            0 => "None".to_owned(),
            bytes => format!("Underflow({bytes})"),
        };
        let refused = format!("> cdb {opcode:02x}\n< status 02 sense 5/2100 {residual}\n");
        assert_eq!(beyond, refused);
    }
}
