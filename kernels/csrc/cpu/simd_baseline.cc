// The loops over rows, for any machine.
#include "kernels/csrc/cpu/row_math_headers.h"

#define EMBERAY_LEVEL baseline
#include "kernels/csrc/cpu/row_math.inc.h"
