// What a thread needs before it can run out of memory and go on.
#pragma once

#include <exception>

namespace emberay {

// Makes exceptions' share of this thread's local data be there. It is allocated at a thread's first
// exception, and the C library ends the process where there is no memory for it: just when running
// out of memory is what is thrown. Costs a few nanoseconds. (What is asked is of no interest, and
// declared to have no effect, so that it would be left out if nobody kept the answer.)
inline void prepare_for_exceptions() {
  [[maybe_unused]] volatile int thrown = std::uncaught_exceptions();
}

}  // namespace emberay
