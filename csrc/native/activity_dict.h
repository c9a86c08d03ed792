// Sums of activity records as plain Python data.
#pragma once

#include <pybind11/pybind11.h>

#include "activity_sums.h"

namespace perfsuite {

// {"rows", "devices", "syncs", "overheads", "slices", counts}: the shape that instruments/kernels.py records, with
// "external" (external correlation id) in place of a row's site and phases as ids (-1: none). Needs the GIL.
pybind11::dict as_dict(const ActivityData& data);

}  // namespace perfsuite
