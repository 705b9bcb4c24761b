// Update: gradients are summed per row, and an optimizer changes the rows in place.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/csrc/cpu/groups.h"
#include "kernels/csrc/cpu/row_math.h"

namespace emberay::cpu {

// Every row of the parts takes one step. A row has one owner, so results do not depend on threads.
void update_rows(const std::vector<Part>& parts, const float* gradients, const Variables& variables,
                 Optimizer optimizer, Workers& workers);

// The rows of the parts, and the sums of their gradients: part p goes to places
// [places[p], places[p] + its size), as far as they are below ends[p]. The rest of rows [count] and
// sums [count, width] is filled with kNoRow and 0.
void write_sums(const std::vector<Part>& parts, const std::vector<int64_t>& places,
                const std::vector<int64_t>& ends, const float* gradients, int64_t width,
                int64_t count, int32_t* rows, float* sums, Workers& workers);

}  // namespace emberay::cpu
