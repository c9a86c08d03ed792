// perfsuite::batch_norm_add_relu_cpp_forward and _backward: the kernels of csrc/ops/cpu/batch_norm_add_relu.h as torch
// operators without autograd. Rows are cut into parts whose number depends on the sizes alone, each with sums of its own
// that are added in order: any number of threads gives the same bits.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "../ops/cpu/batch_norm_add_relu.h"
#include "op.h"

namespace {

using at::Tensor;
using perfsuite::const_data;
using perfsuite::mutable_data;
namespace cpu = perfsuite::cpu;

// Outputs of more than this leave the caches before anybody reads them.
constexpr int64_t kStreamBytes = 16 << 20;
// Every part has sums that are to be added: enough parts for as many threads, of enough rows to be worth it.
constexpr int64_t kMostParts = 64;
constexpr int64_t kLeastRows = 64;

// The rows of an NHWC tensor, and their parts.
struct Rows {
  int64_t rows, channels, parts;

  explicit Rows(const Tensor& x) : rows(x.size(0) * x.size(2) * x.size(3)), channels(x.size(1)), parts(1) {
    while (parts < kMostParts && parts * perfsuite::kElementsPerTask < x.numel() && 2 * parts * kLeastRows <= rows)
      parts *= 2;
  }
  int64_t begin(int64_t part) const { return rows * part / parts; }

  // body(part, first row, number of rows), on torch's threads.
  template <class Body>
  void each_part(const Body& body) const {
    at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) body(part, begin(part), begin(part + 1) - begin(part));
    });
  }
  // Sums of all parts, (2, channels); add(part, first row, rows, sums) adds to those of one.
  template <class Add>
  std::vector<double> sums(const Add& add) const {
    std::vector<double> all(size_t(parts * 2 * channels), 0.0);
    each_part([&](int64_t part, int64_t row, int64_t count) { add(row, count, &all[size_t(part * 2 * channels)]); });
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t j = 0; j < 2 * channels; ++j) all[size_t(j)] += all[size_t(part * 2 * channels + j)];
    return all;
  }
};

bool streams(const Tensor& out) {
  return int64_t(out.nbytes()) > kStreamBytes && out.size(1) * out.element_size() % 64 == 0 &&
         reinterpret_cast<uintptr_t>(out.const_data_ptr()) % 64 == 0;
}

// In the type that is computed in; one for each channel.
Tensor of_channels(const std::optional<Tensor>& values, const Tensor& x, double otherwise) {
  if (values) return values->to(perfsuite::acc_type(x)).contiguous();
  return at::full({x.size(1)}, otherwise, x.options().dtype(perfsuite::acc_type(x)));
}

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// y, mean, 1 / sqrt(variance + eps), unbiased variance (of no meaning where the statistics were given), mask.
Forward forward(const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                const std::optional<Tensor>& add, const std::optional<Tensor>& given_mean,
                const std::optional<Tensor>& given_var, double eps, bool relu, bool keep_mask) {
  const Rows rows(x);
  const int64_t channels = rows.channels;
  const cpu::Isa isa = cpu::best_isa();
  const Tensor w = of_channels(weight, x, 1), b = of_channels(bias, x, 0);
  const auto stats = x.options().dtype(perfsuite::acc_type(x));
  Tensor y = perfsuite::empty_reused_like(x);
  Tensor mean = at::empty({channels}, stats), rstd = at::empty({channels}, stats), var = at::empty({channels}, stats);
  Tensor mask = perfsuite::empty_reused({relu && keep_mask ? rows.rows : 0, cpu::mask_bytes(channels)}, at::kByte);
  const Tensor from_mean = given_mean ? of_channels(given_mean, x, 0) : Tensor();
  const Tensor from_var = given_mean ? of_channels(given_var, x, 0) : Tensor();

  PERFSUITE_FOR_TYPE(x, "batch_norm_add_relu", [&] {
    using Acc = cpu::acc_t<T>;
    const T* from = const_data<T>(x);
    const Acc *weights = const_data<Acc>(w), *biases = const_data<Acc>(b);
    Acc *means = mutable_data<Acc>(mean), *rstds = mutable_data<Acc>(rstd), *vars = mutable_data<Acc>(var);
    std::vector<Acc> scale(channels), shift(channels);
    const auto set = [&](int64_t j, double exact_mean, double variance) {
      const double r = 1 / std::sqrt(variance + eps), s = r * weights[j];
      means[j] = Acc(exact_mean);
      rstds[j] = Acc(r);
      scale[j] = Acc(s);
      // What the mean lost when it was rounded comes back here. Where that is no number nothing is lost.
      const double lost = (double(means[j]) - exact_mean) * s;
      shift[j] = Acc(biases[j] + (std::isfinite(lost) ? lost : 0));
    };
    if (given_mean) {
      const Acc *given_means = const_data<Acc>(from_mean), *given_vars = const_data<Acc>(from_var);
      for (int64_t j = 0; j < channels; ++j) {
        set(j, given_means[j], given_vars[j]);
        vars[j] = given_vars[j];
      }
    } else {
      std::vector<Acc> origin(channels);
      for (int64_t j = 0; j < channels && rows.rows; ++j) {
        const Acc value = cpu::to_acc(from[j]);
        origin[j] = std::isfinite(value) ? value : 0;
      }
      const auto sums = rows.sums([&](int64_t row, int64_t count, double* out) {
        cpu::batch_norm_sums(from + row * channels, origin.data(), count, channels, out, isa);
      });
      const double n = double(std::max<int64_t>(1, rows.rows));
      for (int64_t j = 0; j < channels; ++j) {
        const double step = sums[j] / n, squares = sums[channels + j] - step * sums[j];
        set(j, origin[j] + step, squares < 0 ? 0 : squares / n);  // NaN stays NaN
        vars[j] = Acc((squares < 0 ? 0 : squares) / std::max(1.0, n - 1));
      }
    }
    const cpu::Normalise<T> normalise{means, scale.data(), shift.data()};
    const T* added = add ? const_data<T>(*add) : nullptr;
    T* out = mutable_data<T>(y);
    uint8_t* bits = relu && keep_mask ? mutable_data<uint8_t>(mask) : nullptr;
    const bool stream = streams(y);
    rows.each_part([&](int64_t, int64_t row, int64_t count) {
      const int64_t at = row * channels;
      cpu::batch_norm_add_relu_apply(from + at, added ? added + at : nullptr, normalise, relu, count, channels, out + at,
                                     bits ? bits + row * cpu::mask_bytes(channels) : nullptr, stream, isa);
    });
  });
  return {y, mean, rstd, var, mask};
}

using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Gradients of x, weight, bias and add; the last is empty unless it is wanted. training: mean and rstd are x's own.
Backward backward(const Tensor& dy, const Tensor& x, const std::optional<Tensor>& weight, const Tensor& mean,
                  const Tensor& rstd, const Tensor& mask, bool training, bool relu, bool want_add) {
  const Rows rows(x);
  const int64_t channels = rows.channels;
  const cpu::Isa isa = cpu::best_isa();
  const Tensor w = of_channels(weight, x, 1);
  Tensor dx = perfsuite::empty_reused_like(x);
  Tensor d_add = want_add ? perfsuite::empty_reused_like(x) : at::empty({0}, x.options());
  Tensor d_weight = at::empty_like(mean), d_bias = at::empty_like(mean);

  PERFSUITE_FOR_TYPE(x, "batch_norm_add_relu_backward", [&] {
    using Acc = cpu::acc_t<T>;
    const T *upstream = const_data<T>(dy), *from = const_data<T>(x);
    const Acc *means = const_data<Acc>(mean), *rstds = const_data<Acc>(rstd), *weights = const_data<Acc>(w);
    Acc *weight_out = mutable_data<Acc>(d_weight), *bias_out = mutable_data<Acc>(d_bias);
    const uint8_t* bits = relu ? const_data<uint8_t>(mask) : nullptr;
    const auto bits_at = [&](int64_t row) { return bits ? bits + row * cpu::mask_bytes(channels) : nullptr; };
    const auto sums = rows.sums([&](int64_t row, int64_t count, double* out) {
      const int64_t at = row * channels;
      cpu::batch_norm_add_relu_backward_sums(upstream + at, bits_at(row), from + at, means, count, channels, out, isa);
    });
    // With n rows: dx = w rstd (g - sum(g) / n - (x - mean) rstd^2 sum(g (x - mean)) / n)
    std::vector<Acc> a(channels), b(channels), c(channels);
    const double n = double(std::max<int64_t>(1, rows.rows));
    for (int64_t j = 0; j < channels; ++j) {
      const double r = rstds[j], slope = r * weights[j];
      a[j] = Acc(slope);
      b[j] = Acc(-slope * r * r * (sums[channels + j] / n));
      c[j] = Acc(-slope * (sums[j] / n));
      weight_out[j] = Acc(sums[channels + j] * r);
      bias_out[j] = Acc(sums[j]);
    }
    const cpu::Coefficients<T> coefficients{means, a.data(), training ? b.data() : nullptr, c.data()};
    T *out = mutable_data<T>(dx), *out_add = want_add ? mutable_data<T>(d_add) : nullptr;
    rows.each_part([&](int64_t, int64_t row, int64_t count) {
      const int64_t at = row * channels;
      cpu::batch_norm_add_relu_backward(upstream + at, bits_at(row), from + at, coefficients, count, channels, out + at,
                                        out_add ? out_add + at : nullptr, isa);
    });
  });
  return {dx, d_weight, d_bias, d_add};
}

Forward forward_meta(const Tensor& x, const std::optional<Tensor>&, const std::optional<Tensor>&,
                     const std::optional<Tensor>&, const std::optional<Tensor>&, const std::optional<Tensor>&, double,
                     bool relu, bool keep_mask) {
  const auto stats = x.options().dtype(perfsuite::acc_type(x));
  const c10::SymInt channels = x.sym_size(1), none = 0;
  const c10::SymInt rows = relu && keep_mask ? x.sym_size(0) * x.sym_size(2) * x.sym_size(3) : none;
  const auto one = [&] { return at::empty_symint({channels}, stats); };
  return {at::empty_like(x), one(), one(), one(),
          at::empty_symint({rows, (channels + 7) / 8}, x.options().dtype(at::kByte))};
}

Backward backward_meta(const Tensor&, const Tensor& x, const std::optional<Tensor>&, const Tensor& mean, const Tensor&,
                       const Tensor&, bool, bool, bool want_add) {
  return {at::empty_like(x), at::empty_like(mean), at::empty_like(mean),
          want_add ? at::empty_like(x) : at::empty({0}, x.options())};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def(
      "batch_norm_add_relu_cpp_forward(Tensor x, Tensor? weight, Tensor? bias, Tensor? add, Tensor? given_mean, "
      "Tensor? given_var, float eps, bool relu, bool keep_mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "batch_norm_add_relu_cpp_backward(Tensor dy, Tensor x, Tensor? weight, Tensor mean, Tensor rstd, Tensor mask, "
      "bool training, bool relu, bool want_add) -> (Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) {
  m.impl("batch_norm_add_relu_cpp_forward", forward);
  m.impl("batch_norm_add_relu_cpp_backward", backward);
}
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) {
  m.impl("batch_norm_add_relu_cpp_forward", forward_meta);
  m.impl("batch_norm_add_relu_cpp_backward", backward_meta);
}
