#include "row_updates.h"

#include <vector>

#include "vector.h"

namespace perfsuite::cpu {
namespace {

// Rows are asked for this many lookups before they are needed.
constexpr int64_t kAhead = 8;
constexpr int64_t kWidestVector = 16;

#define PERFSUITE_BODY "row_updates_rows.h"
#include "each_isa.h"
}  // namespace

template <class T>
void update_rows(const RowUpdates<T>& op, int64_t part, int64_t parts, Isa isa) {
  thread_local SortedLookups lookups;
  const int64_t count = lookups.select(op.lookups, part, parts);
  std::vector<acc_t<T>> g(op.width + kWidestVector);
  PERFSUITE_DISPATCH(isa, update_runs<T>(op, lookups.sorted.data(), count, g.data()));
}

#define PERFSUITE_INSTANTIATE(T) template void update_rows<T>(const RowUpdates<T>&, int64_t, int64_t, Isa);
PERFSUITE_INSTANTIATE(float)
PERFSUITE_INSTANTIATE(double)
PERFSUITE_INSTANTIATE(BFloat16)
PERFSUITE_INSTANTIATE(Half)

}  // namespace perfsuite::cpu
