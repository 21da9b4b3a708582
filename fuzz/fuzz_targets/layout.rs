//! The header page of a region: what a table of sections says, and what a link or a pool makes of it.
#![no_main]

use busway::internals::link::words::{BellView, Side, View};
use busway::region::{HEADER_SIZE, Header, MAGIC, Region, TABLE_AT, Table, VERSION};
use busway::sync::{AtomicU32, PeerWord};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut page = [0; HEADER_SIZE];
    let Some((&[pages, whole], table)) = data.split_first_chunk() else { return };
    let length = (u64::from(pages) + 1) * HEADER_SIZE as u64;
    if whole & 1 == 1 {
        // Whatever the header says.
        let len = table.len().min(HEADER_SIZE);
        page[..len].copy_from_slice(&table[..len]);
        let _ = Table::version(&page);
        let _ = Table::from_page(&page, length);
    }
    // With a header that is right, so that the table is looked at.
    let len = table.len().min(HEADER_SIZE - TABLE_AT);
    let header = Header { magic: MAGIC, version: VERSION, sections: (len / 32) as u32, length, zero: [0; 5] };
    page[..TABLE_AT].copy_from_slice(bytemuck::bytes_of(&header));
    page[TABLE_AT..][..len].copy_from_slice(&table[..len]);
    let Ok(table) = Table::from_page(&page, length) else { return };
    for section in table.sections() {
        let end = section.offset + u64::from(section.count) * u64::from(section.stride);
        assert!(section.offset >= HEADER_SIZE as u64 && end <= length && section.offset % 64 == 0);
    }
    let (one, other) = Region::heap_pair(table.len());
    // SAFETY: the memory is this thread's alone.
    if let Ok(view) = unsafe { View::<PeerWord>::new(one, &table) } {
        // The first and the last of everything is there.
        let words = [&view.call_words, &view.released];
        let sum: u32 = words.iter().map(|words| words.at(0).hint() + words.at(words.count() - 1).hint()).sum();
        assert_eq!(sum + view.cells.at(view.cells.count() - 1).flags.hint(), 0);
        assert!(!view.entries.at(view.entries.count() - 1).holds(0));
        for slots in &view.classes {
            // SAFETY: inside the slot.
            let last = unsafe { slots.at(slots.count - 1).add(slots.size as usize - 1).read() };
            assert_eq!(last, 0);
        }
        assert_eq!(view.control.sleepers.0.hint() + view.intake.pos.0.hint() + view.lane.space_wait.0.hint(), 0);
    }
    for cells in [8, u32::from(pages)] {
        let (bells, _) = Region::heap_pair(table.len());
        if let Ok(bells) = BellView::new(bells, &table, cells, Side::Host) {
            let word = |word: &AtomicU32| word.fetch_add(1, busway::sync::Ordering::Relaxed);
            let _ = word(&bells.ours.requests.0) + word(bells.theirs.replies.at(cells - 1));
        }
    }
    drop(other);
});
