// Large tables are read in random places: with small pages, most of the time goes into finding out
// where a page is.
#pragma once

#include <cstdint>

namespace emberay::cpu {

// Moves a large array into huge pages, if the system has them, the first time it is seen at this
// place; afterwards this costs nothing. What the array holds stays, and it may be read and written
// meanwhile. Failing is no error: then it is as slow as before. The environment variable
// EMBERAY_HUGE_PAGES=0, and a system whose setting is "never", forbid it.
void use_huge_pages(const float* values, int64_t count);

}  // namespace emberay::cpu
