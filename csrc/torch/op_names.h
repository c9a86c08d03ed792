// Names of ops, each known by a small number, and what is known of the operator behind a name.
#pragma once

#include <ATen/record_function.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "byte_model.h"

namespace perfsuite {

struct OpName {
  uint32_t id = 0;
  std::string text;      // as the report shows it: an autograd node by its own name
  std::string recorded;  // as torch records it
  bool is_node = false;  // the evaluation of an autograd node by the engine
};

// The name of this id, which find() has given out.
const OpName& op_name(uint32_t id);

// What a name is looked up by: the address of its text, which is fixed for operators, checked by its characters.
class OpNameCache {
 public:
  struct Entry {
    const char* address = nullptr;
    const OpName* name = nullptr;
    const OpModel* model = nullptr;  // null: not looked up yet, or no operator
    bool model_known = false;
  };
  Entry& find(const char* text) {
    Entry& entry = entries_[(reinterpret_cast<uintptr_t>(text) >> 3) * 0x9E3779B97F4A7C15ull >> 54];
    if (entry.address != text || std::strcmp(entry.name->recorded.c_str(), text) != 0) refill(entry, text);
    return entry;
  }
  // Null for what is no operator.
  static const OpModel* model(Entry& entry, const at::RecordFunction& fn) {
    if (!entry.model_known) {
      const auto name = fn.operator_name();
      entry.model = name ? OpModel::of(*name) : nullptr;
      entry.model_known = true;
    }
    return entry.model;
  }

 private:
  static void refill(Entry& entry, const char* text);
  std::array<Entry, 1024> entries_;
};

}  // namespace perfsuite
