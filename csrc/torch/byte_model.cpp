#include "byte_model.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <charconv>
#include <tuple>

namespace perfsuite {
namespace {

const char* short_name(c10::ScalarType type) {
  switch (type) {
    case c10::ScalarType::Float: return "f32";
    case c10::ScalarType::Double: return "f64";
    case c10::ScalarType::Half: return "f16";
    case c10::ScalarType::BFloat16: return "bf16";
    case c10::ScalarType::Long: return "i64";
    case c10::ScalarType::Int: return "i32";
    case c10::ScalarType::Short: return "i16";
    case c10::ScalarType::Char: return "i8";
    case c10::ScalarType::Byte: return "u8";
    case c10::ScalarType::Bool: return "bool";
    case c10::ScalarType::ComplexFloat: return "c64";
    case c10::ScalarType::ComplexDouble: return "c128";
    default: return c10::toString(type);
  }
}

void append(std::string& text, int64_t value) {
  char digits[24];
  text.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}

// 12, 3.4k, 1.2M, 5.6G
void append_count(std::string& text, int64_t value) {
  int64_t unit = 1;
  const char* suffix = "";
  for (const char* next : {"k", "M", "G", "T"}) {
    if (value < 1000 * unit) break;
    unit *= 1000;
    suffix = next;
  }
  append(text, value / unit);
  if (unit > 1) {
    text += '.';
    append(text, value % unit * 10 / unit);
  }
  text += suffix;
}

void separate(std::string& text) {
  if (!text.empty()) text += ' ';
}

bool has_plain_sizes(const at::Tensor& tensor) {
  return !tensor.is_nested() && !tensor.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
}

bool has_plain_memory(const at::Tensor& tensor) {
  return tensor.layout() == c10::kStrided && has_plain_sizes(tensor) && tensor.has_storage() && !tensor.is_meta() &&
         !tensor.key_set().has(c10::DispatchKey::Python);
}

void append_tensor(std::string& text, const at::Tensor& tensor) {
  separate(text);
  text += short_name(tensor.scalar_type());
  text += '[';
  if (!has_plain_sizes(tensor)) {
    text += '?';
  } else {
    bool first = true;
    for (int64_t size : tensor.sizes()) {
      if (!first) text += ',';
      first = false;
      append(text, size);
    }
  }
  text += ']';
}

void append_list(std::string& text, c10::ArrayRef<c10::IValue> values) {
  int64_t count = 0, elements = 0;
  const char* type = nullptr;
  for (const c10::IValue& value : values) {
    if (!value.isTensor() || !value.toTensor().defined()) continue;
    const at::Tensor& tensor = value.toTensor();
    const char* name = short_name(tensor.scalar_type());
    type = type == nullptr || type == name ? name : "mixed";
    ++count;
    if (has_plain_sizes(tensor)) elements += tensor.numel();
  }
  if (count == 0) return;
  separate(text);
  text += '[';
  append(text, count);
  text += 'x';
  text += type;
  text += ' ';
  append_count(text, elements);
  text += ']';
}

// Bytes of the distinct elements: a dimension of stride 0 repeats the same ones.
int64_t distinct_bytes(const at::Tensor& tensor) {
  int64_t elements = 1;
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  for (size_t i = 0; i < sizes.size(); ++i)
    if (strides[i] != 0 || sizes[i] == 0) elements *= sizes[i];
  // Overlapping windows (unfold) have no more elements than their memory.
  return std::min(elements * int64_t(tensor.element_size()), int64_t(tensor.storage().nbytes()));
}

int64_t elements_of(const c10::IValue& value) {
  if (!value.isTensor() || !value.toTensor().defined() || !has_plain_sizes(value.toTensor())) return -1;
  return value.toTensor().numel();
}

// How many elements of a tensor a list of indices picks, each dimension by its own or by none: those of the indices times
// the dimensions that have none. 0 for a mask, which another op inside fills by; -1 where it does not follow from shapes.
int64_t indexed_elements(const c10::IValue& self, const c10::IValue& indices) {
  if (elements_of(self) < 0 || !indices.isList()) return -1;
  const at::Tensor& tensor = self.toTensor();
  const auto list = indices.toListRef();
  int64_t picked = -1, others = tensor.numel();
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].isTensor() || !list[i].toTensor().defined()) continue;
    const at::Tensor& index = list[i].toTensor();
    if (index.scalar_type() == c10::ScalarType::Bool || index.scalar_type() == c10::ScalarType::Byte) return 0;
    const int64_t elements = elements_of(list[i]);
    if (elements < 0 || int64_t(i) >= tensor.dim() || (picked >= 0 && elements != picked)) return -1;
    picked = elements;
    others /= std::max<int64_t>(tensor.size(int64_t(i)), 1);
  }
  return picked < 0 ? -1 : picked * others;
}

}  // namespace

void SampledCall::begin(const OpModel* model, c10::ArrayRef<const c10::IValue> inputs) {
  model_ = model;
  signature_.clear();
  regions_.clear();
  touched_.clear();
  children_bytes_ = 0;
  known_ = model && model->known;
  any_output_ = any_write_ = on_cuda_ = false;
  all_alias_ = true;
  output_elements_ = 0;
  if (!model) return;
  for (size_t i = 0; i < inputs.size(); ++i) {
    ArgumentAccess access = i < model->arguments.size() ? model->arguments[i] : ArgumentAccess{};
    if (access.extent == Extent::kIndexPut) access.reads = inputs.size() > 3 && inputs[3].isBool() && inputs[3].toBool();
    const bool counted = access.extent != Extent::kWhole && access.extent != Extent::kOutputs;
    int64_t elements = counted && access.by < inputs.size() ? elements_of(inputs[access.by]) : -1;
    if (access.extent == Extent::kIndexPut && elements == 1) elements = indexed_elements(inputs[i], inputs[1]);
    add_input(inputs[i], access, elements);
  }
  num_inputs_ = regions_.size();
  const size_t causal = size_t(model->is_causal);
  if (model->is_causal >= 0 && causal < inputs.size() && inputs[causal].isBool()) {
    separate(signature_);
    signature_ += inputs[causal].toBool() ? "causal=1" : "causal=0";
  }
}

void SampledCall::add_input(const c10::IValue& value, ArgumentAccess access, int64_t by_elements) {
  if (value.isTensor()) {
    const at::Tensor& tensor = value.toTensor();
    if (!tensor.defined() || tensor.unsafeGetTensorImpl()->is_wrapped_number()) return;  // a Python number: no memory
    append_tensor(signature_, tensor);
    add_tensor(tensor, access, by_elements);
  } else if (value.isList()) {
    const auto values = value.toListRef();
    append_list(signature_, values);
    for (const c10::IValue& element : values)
      if (element.isTensor() && element.toTensor().defined()) add_tensor(element.toTensor(), access, by_elements);
  }
}

void SampledCall::add_tensor(const at::Tensor& tensor, ArgumentAccess access, int64_t by_elements) {
  on_cuda_ |= tensor.is_cuda();
  if (!known_) return;
  if (!has_plain_memory(tensor)) {
    known_ = false;
    return;
  }
  const int64_t element_bytes = int64_t(tensor.element_size());
  const int64_t whole = distinct_bytes(tensor);
  int64_t touched = whole;
  switch (access.extent) {
    case Extent::kWhole:
    case Extent::kOutputs: break;
    case Extent::kIndexPut:
    case Extent::kElements:
    case Extent::kRows: {
      const int64_t rows = tensor.dim() > 0 ? std::max<int64_t>(tensor.size(0), 1) : 1;
      if (by_elements < 0) known_ = false;
      touched = std::min(whole, by_elements * (access.extent == Extent::kRows ? whole / rows : element_bytes));
      break;
    }
    case Extent::kUnknown: known_ = false;
  }
  any_write_ |= access.writes;
  regions_.push_back({tensor.storage().unsafeGetStorageImpl(), tensor.storage_offset() * element_bytes, whole,
                      access.reads ? touched : 0, access.writes ? touched : 0, element_bytes,
                      access.extent == Extent::kOutputs, access.writes && !access.reads});
}

void SampledCall::add_output(const at::Tensor& tensor) {
  any_output_ = true;
  on_cuda_ |= tensor.is_cuda();
  if (!known_) return;
  if (!has_plain_memory(tensor)) {
    known_ = false;
    return;
  }
  output_elements_ += tensor.numel();
  const void* storage = tensor.storage().unsafeGetStorageImpl();
  const int64_t whole = distinct_bytes(tensor);
  for (size_t i = 0; i < num_inputs_; ++i) {
    Region& region = regions_[i];
    if (region.storage != storage) continue;
    if (region.overwritten && region.whole < whole) region.whole = region.writes = whole;
    return;
  }
  all_alias_ = false;
  const int64_t element_bytes = int64_t(tensor.element_size());
  regions_.push_back({storage, tensor.storage_offset() * element_bytes, whole, 0, whole, element_bytes, false, false});
}

int64_t SampledCall::least_bytes(int64_t* footprint) {
  for (Region& region : regions_) {
    if (!region.gathered) continue;
    region.reads = std::min(region.reads, output_elements_ * region.element_bytes);
  }
  // The same tensor given twice is one tensor.
  std::sort(regions_.begin(), regions_.end(), [](const Region& a, const Region& b) {
    return std::tie(a.storage, a.offset, a.whole) < std::tie(b.storage, b.offset, b.whole);
  });
  const auto by_storage = [](const Touched& a, const Touched& b) { return a.storage < b.storage; };
  const auto inside = touched_.begin(), end = touched_.end();
  std::sort(inside, end, by_storage);
  std::vector<Touched> own;
  int64_t least = 0, untouched = 0;
  *footprint = 0;
  for (size_t i = 0; i < regions_.size();) {
    Touched mine{regions_[i].storage, 0, 0};
    while (i < regions_.size() && regions_[i].storage == mine.storage) {
      const Region& first = regions_[i];
      int64_t reads = 0, writes = 0;
      for (; i < regions_.size() && regions_[i].storage == first.storage && regions_[i].offset == first.offset &&
             regions_[i].whole == first.whole;
           ++i) {
        reads = std::max(reads, regions_[i].reads);
        writes = std::max(writes, regions_[i].writes);
      }
      mine.reads += reads;
      mine.writes += writes;
      *footprint += std::max(reads, writes);
    }
    least += mine.reads + mine.writes;
    for (auto [child, last] = std::equal_range(inside, end, mine, by_storage); child != last; ++child) {
      mine.reads = std::max<int64_t>(0, mine.reads - child->reads);
      mine.writes = std::max<int64_t>(0, mine.writes - child->writes);
    }
    untouched += mine.reads + mine.writes;
    if (mine.reads || mine.writes) own.push_back(mine);
  }
  touched_.insert(touched_.end(), own.begin(), own.end());
  if (model_->own_pass) return least;
  // A kernel may fill, cast or copy through other ops, and these may have moved more than the least.
  return least > children_bytes_ ? least - children_bytes_ : untouched;
}

void SampledCall::finish(const std::vector<c10::IValue>& outputs, SampledCall* parent) {
  std::string& text = signature_;
  if (model_ && !outputs.empty()) {
    const size_t before = text.size();
    separate(text);
    text += "->";
    const size_t arrow = text.size();
    for (const c10::IValue& value : outputs) {
      if (value.isTensor() && value.toTensor().defined()) {
        append_tensor(text, value.toTensor());
        add_output(value.toTensor());
      } else if (value.isList()) {
        const auto values = value.toListRef();
        append_list(text, values);
        for (const c10::IValue& element : values)
          if (element.isTensor() && element.toTensor().defined()) add_output(element.toTensor());
      }
    }
    if (text.size() == arrow) text.resize(before);  // returns no tensor
  }

  bytes_ = own_bytes();
  if (bytes_ <= 0) footprint_bytes_ = bytes_;
  if (!parent) return;
  parent->children_bytes_ += children_bytes_ + std::max<int64_t>(0, bytes_);
  if (parent->touched_.size() <= kMaxTouched)
    parent->touched_.insert(parent->touched_.end(), touched_.begin(), touched_.end());
}

int64_t SampledCall::own_bytes() {
  if (!model_ || !model_->known) return kUnknownBytes;
  const bool kernel = on_cuda_ ? model_->cuda_kernel : model_->cpu_kernel;
  if (model_->moves_nothing) return 0;
  if (!kernel && (model_->composite || children_bytes_ > 0)) return 0;  // its children did it
  if (!known_ || touched_.size() > kMaxTouched) return kUnknownBytes;
  if (any_output_ && all_alias_ && !any_write_) return 0;  // a view
  return least_bytes(&footprint_bytes_);
}

}  // namespace perfsuite
