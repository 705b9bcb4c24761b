// What row_math.inc.h needs, to be included before a level of vector instructions is chosen.
//
// No function of the standard library may be used there: its inline code, compiled for one level,
// could end up in all the others.
#pragma once

#include <cstdint>

#include "kernels/csrc/cpu/row_math.h"
