#include "focal_loss.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "vector.h"

namespace perfsuite::cpu {
namespace {

constexpr int64_t kBlock = 2048;  // elements of a block of short rows

enum class Power { kZero, kTwo, kAny };

#define PERFSUITE_BODY "focal_loss_rows.h"
#include "each_isa.h"

// The losses of u times weight, gradient scale weight du.
template <class T>
double focal_any(const acc_t<T>* u, int64_t n, double gamma, acc_t<T> factor, T* slopes, Isa isa) {
  const auto g = acc_t<T>(gamma);
  if (gamma == 2) return PERFSUITE_DISPATCH(isa, focal_row<T, Power::kTwo>(u, n, g, factor, slopes));
  if (gamma == 0) return PERFSUITE_DISPATCH(isa, focal_row<T, Power::kZero>(u, n, g, factor, slopes));
  return PERFSUITE_DISPATCH(isa, focal_row<T, Power::kAny>(u, n, g, factor, slopes));
}

}  // namespace

int64_t focal_loss_block(int64_t classes) { return std::max<int64_t>(1, kBlock / classes); }

// First every class is taken as not the target, with -inf, which has no loss and no gradient, in the place of the
// targets and of ignored rows; then the targets, gathered.
template <class T>
void focal_loss(const FocalLoss<T>& op, int64_t begin, int64_t end, double* sums, T* gradient, acc_t<T> scale,
                Isa isa) {
  using Acc = acc_t<T>;
  constexpr Acc nothing = -std::numeric_limits<Acc>::infinity();
  const int64_t block = focal_loss_block(op.classes);
  std::vector<Acc> u(block * op.classes), target_u(block);
  std::vector<T> target_slopes(block);
  std::vector<int64_t> place(block);
  for (int64_t b = begin; b < end; ++b) {
    const int64_t first = b * block, rows = std::min(block, op.rows - first), count = rows * op.classes;
    const T* logits = op.logits + first * op.row_stride;
    if (op.row_stride == op.classes) {
      PERFSUITE_DISPATCH(isa, widen_row<T>(logits, count, u.data()));
    } else {
      for (int64_t r = 0; r < rows; ++r)
        PERFSUITE_DISPATCH(isa, widen_row<T>(logits + r * op.row_stride, op.classes, &u[r * op.classes]));
    }
    int64_t targets = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t target = op.target[first + r];
      if (target == kIgnored) {
        std::fill_n(&u[r * op.classes], op.classes, nothing);
      } else if (target != kBackground) {
        place[targets] = r * op.classes + target;
        target_u[targets] = -u[place[targets]];
        u[place[targets++]] = nothing;
      }
    }
    T* out = gradient ? gradient + first * op.classes : nullptr;
    double sum = op.other_weight * focal_any<T>(u.data(), count, op.gamma, scale * Acc(op.other_weight), out, isa);
    if (targets) {
      T* slopes = gradient ? target_slopes.data() : nullptr;
      sum += op.target_weight *
             focal_any<T>(target_u.data(), targets, op.gamma, -scale * Acc(op.target_weight), slopes, isa);
      if (gradient)
        for (int64_t i = 0; i < targets; ++i) out[place[i]] = target_slopes[i];
    }
    if (sums) sums[b] = sum;
  }
}

#define PERFSUITE_INSTANTIATE(T) \
  template void focal_loss<T>(const FocalLoss<T>&, int64_t, int64_t, double*, T*, acc_t<T>, Isa);
PERFSUITE_INSTANTIATE(float)
PERFSUITE_INSTANTIATE(double)
PERFSUITE_INSTANTIATE(BFloat16)
PERFSUITE_INSTANTIATE(Half)

}  // namespace perfsuite::cpu
