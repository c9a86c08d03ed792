// The least bytes that one call of an operator moves, from its schema and the tensors it was called with.
//
// Every distinct tensor is read once and written once, a dimension of stride 0 counts once, views and ops that only
// change metadata move nothing, tensors that are overwritten are not read, and gathers count the elements they touch.
// An op made of other ops is not counted again: what its children moved is theirs, and counts towards its least bytes. At
// the least an op moves those of its tensors that none of its children has touched.
#pragma once

#include <ATen/core/ivalue.h>
#include <ATen/core/operator_name.h>

#include <cstdint>
#include <string>
#include <vector>

namespace perfsuite {

// How much of an argument is touched.
enum class Extent : uint8_t {
  kWhole,
  kOutputs,   // as many elements as the outputs have
  kElements,  // as many elements as argument `by` has
  kIndexPut,  // the same; unknown where that is a single one that is broadcast; read only where it accumulates
  kRows,      // as many rows as argument `by` has elements
  kUnknown,
};

struct ArgumentAccess {
  bool reads = true;
  bool writes = false;
  Extent extent = Extent::kWhole;
  uint8_t by = 0;
};

// What is known of an operator before it is called; made once per operator and kept for ever.
struct OpModel {
  std::vector<ArgumentAccess> arguments;
  int is_causal = -1;       // position of attention's argument of that name: it halves the products
  bool known = false;       // an operator of a library whose schemas say what is written
  bool moves_nothing = false;
  bool own_pass = false;    // goes over its tensors once more after the ops inside it have filled them
  bool composite = false;   // autograd traces through it: its children do all the work
  bool cpu_kernel = false;  // has a kernel of its own, which may still call other ops
  bool cuda_kernel = false;

  static const OpModel* of(const c10::OperatorName& name);
};

constexpr int64_t kUnknownBytes = -1;

// One call on a step whose shapes are sampled. Reused from call to call, so that nothing is allocated in the steady state.
class SampledCall {
 public:
  // Takes the inputs; `model` is null for what is no operator (autograd nodes).
  void begin(const OpModel* model, c10::ArrayRef<const c10::IValue> inputs);
  // Takes the outputs, and tells the call around this one, if any, what was touched.
  void finish(const std::vector<c10::IValue>& outputs, SampledCall* parent);

  bool is_operator() const { return model_ != nullptr; }
  // "f32[1024,128] f32[128,384] -> f32[1024,384]"; a list of tensors is "[24xf32 1.2M]": how many and their elements.
  // Attention says " causal=0" or " causal=1" after its inputs.
  const std::string& signature() const { return signature_; }
  int64_t bytes() const { return bytes_; }                      // of this op without its children, or kUnknownBytes
  int64_t footprint_bytes() const { return footprint_bytes_; }  // distinct bytes touched, or kUnknownBytes

 private:
  struct Region {
    const void* storage;
    int64_t offset, whole, reads, writes;  // bytes
    int64_t element_bytes;
    bool gathered;     // what is read is yet to be limited by the outputs
    bool overwritten;  // an `out=`, which the op may have resized
  };
  struct Touched {
    const void* storage;
    int64_t reads, writes;  // bytes
  };
  static constexpr size_t kMaxTouched = 65536;
  void add_input(const c10::IValue& value, ArgumentAccess access, int64_t by_elements);
  int64_t own_bytes();
  void add_tensor(const at::Tensor& tensor, ArgumentAccess access, int64_t by_elements);
  void add_output(const at::Tensor& tensor);
  int64_t least_bytes(int64_t* footprint);

  const OpModel* model_ = nullptr;
  std::string signature_;
  std::vector<Region> regions_;
  std::vector<Touched> touched_;  // by the ops inside this one, then by itself as well
  int64_t children_bytes_ = 0;    // what the ops inside this one moved
  size_t num_inputs_ = 0;
  int64_t output_elements_ = 0;
  bool known_ = false, any_output_ = false, all_alias_ = true, any_write_ = false, on_cuda_ = false;
  int64_t bytes_ = 0, footprint_bytes_ = 0;
};

}  // namespace perfsuite
