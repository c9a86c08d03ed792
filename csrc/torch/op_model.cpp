// What the schema of an operator does not say about the memory it touches.
#include <ATen/core/dispatch/Dispatcher.h>

#include <mutex>
#include <string_view>
#include <unordered_map>

#include "byte_model.h"

namespace perfsuite {
namespace {

struct Exception {
  const char* op;
  uint8_t argument;
  ArgumentAccess access;
};

constexpr ArgumentAccess kNothing{false, false};
constexpr ArgumentAccess kReadOnly{true, false};
constexpr ArgumentAccess kWriteOnly{false, true};
constexpr ArgumentAccess kGathered{true, false, Extent::kOutputs};
constexpr ArgumentAccess reads_elements_of(uint8_t by) { return {true, false, Extent::kElements, by}; }
constexpr ArgumentAccess writes_elements_of(uint8_t by) { return {false, true, Extent::kElements, by}; }
constexpr ArgumentAccess updates_elements_of(uint8_t by) { return {true, true, Extent::kElements, by}; }
constexpr ArgumentAccess reads_rows_of(uint8_t by) { return {true, false, Extent::kRows, by}; }

// Positions are those of native_functions.yaml and the same in every overload.
constexpr Exception kExceptions[] = {
    // Overwrite what they are called on.
    {"aten::fill_", 0, kWriteOnly},
    {"aten::zero_", 0, kWriteOnly},
    {"aten::copy_", 0, kWriteOnly},
    {"aten::_foreach_zero_", 0, kWriteOnly},
    {"aten::_foreach_copy_", 0, kWriteOnly},
    {"aten::uniform_", 0, kWriteOnly},
    {"aten::normal_", 0, kWriteOnly},
    {"aten::random_", 0, kWriteOnly},
    {"aten::bernoulli_", 0, kWriteOnly},
    {"aten::exponential_", 0, kWriteOnly},
    {"aten::log_normal_", 0, kWriteOnly},
    {"aten::cauchy_", 0, kWriteOnly},
    {"aten::geometric_", 0, kWriteOnly},
    // Take shape and dtype from their argument, not its values.
    {"aten::zeros_like", 0, kNothing},
    {"aten::ones_like", 0, kNothing},
    {"aten::full_like", 0, kNothing},
    {"aten::rand_like", 0, kNothing},
    {"aten::randn_like", 0, kNothing},
    {"aten::randint_like", 0, kNothing},
    {"aten::new_zeros", 0, kNothing},
    {"aten::new_ones", 0, kNothing},
    {"aten::new_full", 0, kNothing},
    // Gathers and scatters touch as many elements as there are indices.
    {"aten::embedding", 0, kGathered},
    {"aten::index_select", 0, kGathered},
    {"aten::index", 0, kGathered},
    {"aten::_unsafe_index", 0, kGathered},
    {"aten::gather", 0, kGathered},
    {"aten::take", 0, kGathered},
    {"aten::_embedding_bag", 0, reads_rows_of(1)},
    {"aten::_embedding_bag_forward_only", 0, reads_rows_of(1)},
    {"aten::nll_loss_forward", 0, reads_elements_of(1)},
    {"aten::nll_loss_forward", 2, reads_elements_of(1)},
    {"aten::nll_loss_backward", 1, kNothing},
    {"aten::nll_loss_backward", 3, reads_elements_of(2)},
    {"aten::nll_loss2d_forward", 0, reads_elements_of(1)},
    {"aten::nll_loss2d_forward", 2, reads_elements_of(1)},
    {"aten::nll_loss2d_backward", 1, kNothing},
    {"aten::nll_loss2d_backward", 3, reads_elements_of(2)},
    {"aten::scatter_", 0, writes_elements_of(2)},
    {"aten::scatter_", 3, reads_elements_of(2)},
    {"aten::scatter_add_", 0, updates_elements_of(2)},
    {"aten::scatter_add_", 3, reads_elements_of(2)},
    {"aten::index_add_", 0, updates_elements_of(3)},
    {"aten::index_copy_", 0, writes_elements_of(3)},
    {"aten::index_put_", 0, {true, true, Extent::kIndexPut, 2}},
    {"aten::_index_put_impl_", 0, {true, true, Extent::kIndexPut, 2}},
    {"aten::index_fill_", 0, {false, true, Extent::kUnknown}},
    // Backward formulas that take an input for its shape alone.
    {"aten::max_pool2d_with_indices_backward", 1, kNothing},
    {"aten::avg_pool2d_backward", 1, kNothing},
    {"aten::_adaptive_avg_pool2d_backward", 1, kNothing},
    // Gradients are annotated as written for the sake of loss scaling.
    {"aten::_fused_adamw_", 1, kReadOnly},
    {"aten::_fused_adam_", 1, kReadOnly},
    {"aten::_fused_sgd_", 1, kReadOnly},
    {"aten::_fused_adagrad_", 1, kReadOnly},
};

// Answer from metadata, or change metadata, without the tag that says so.
constexpr std::string_view kMetadataOnly[] = {
    "aten::size",        "aten::stride",   "aten::dim",     "aten::numel",        "aten::is_same_size",
    "aten::result_type", "aten::can_cast", "aten::is_pinned", "aten::set_",       "aten::record_stream",
    "aten::sym_size",    "aten::sym_stride", "aten::sym_numel", "aten::sym_storage_offset", "aten::storage_offset",
    // Of sparse tensors: their parts and what is known of them.
    "aten::_indices",    "aten::_values",  "aten::indices", "aten::values",      "aten::_nnz",
    "aten::sparse_dim",  "aten::dense_dim", "aten::is_coalesced", "aten::_coalesced_",
    "aten::_sparse_coo_tensor_with_dims_and_tensors",
    // Hand everything to another op.
    "aten::_embedding_bag_backward",
};

// Fill their outputs through other ops, then go over them: sorting and selecting work in place on a copy.
constexpr std::string_view kOwnPass[] = {"aten::sort", "aten::median", "aten::kthvalue"};

bool starts_with(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

OpModel make(const c10::OperatorHandle& handle) {
  const c10::FunctionSchema& schema = handle.schema();
  const std::string_view name = schema.name();
  OpModel model;
  model.known = starts_with(name, "aten::") || starts_with(name, "prims::") || starts_with(name, "perfsuite::") ||
                starts_with(name, "mkldnn::");
  model.cpu_kernel = handle.hasKernelForDispatchKey(c10::DispatchKey::CPU);
  model.cuda_kernel = handle.hasKernelForDispatchKey(c10::DispatchKey::CUDA);
  model.composite = handle.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd);
  model.moves_nothing = starts_with(name, "aten::empty") || starts_with(name, "aten::new_empty") ||
                        handle.hasTag(at::Tag::inplace_view);
  for (std::string_view metadata : kMetadataOnly) model.moves_nothing |= name == metadata;
  // Calls the library itself, without a kernel of that name.
  if (name == "aten::convolution_backward") model.cpu_kernel = model.cuda_kernel = true;
  for (std::string_view own : kOwnPass) model.own_pass |= name == own;
  for (const c10::Argument& argument : schema.arguments()) {
    const bool writes = argument.alias_info() && argument.alias_info()->isWrite();
    if (argument.name() == "is_causal") model.is_causal = int(model.arguments.size());
    model.arguments.push_back({!(writes && argument.kwarg_only()), writes});  // kwarg-only: an `out=`, overwritten
  }
  for (const Exception& exception : kExceptions)
    if (name == exception.op && exception.argument < model.arguments.size())
      model.arguments[exception.argument] = exception.access;
  return model;
}

}  // namespace

const OpModel* OpModel::of(const c10::OperatorName& name) {
  static std::mutex mutex;
  static auto& models = *new std::unordered_map<c10::OperatorName, OpModel>();  // outlives every thread
  std::lock_guard<std::mutex> lock(mutex);
  auto it = models.find(name);
  if (it == models.end()) {
    const auto handle = c10::Dispatcher::singleton().findSchema(name);
    it = models.emplace(name, handle ? make(*handle) : OpModel{}).first;
  }
  return &it->second;
}

}  // namespace perfsuite
