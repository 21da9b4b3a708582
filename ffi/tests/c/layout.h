// What tests that write into shared memory know of docs/layout.md.

#ifndef LAYOUT_H
#define LAYOUT_H

#include "check.h"

enum { HEADER_SIZE = 4096 };

// Where the section of this kind begins in a region whose first page this is; 0 if it has none.
static inline uint64_t section_of(const void *page, uint32_t kind)
{
    enum { COUNT_AT = 12, TABLE_AT = 64, ROW = 32, OFFSET_IN_ROW = 16 };
    const uint8_t *bytes = page;
    uint32_t count, of;
    uint64_t offset = 0;
    memcpy(&count, bytes + COUNT_AT, 4);
    for (uint32_t i = 0; i < count && offset == 0; i++) {
        memcpy(&of, bytes + TABLE_AT + i * ROW, 4);
        if (of == kind)
            memcpy(&offset, bytes + TABLE_AT + i * ROW + OFFSET_IN_ROW, 8);
    }
    return offset;
}

#endif
