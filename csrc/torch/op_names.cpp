#include "op_names.h"

#include <deque>
#include <mutex>
#include <unordered_map>

namespace perfsuite {
namespace {

// Operators and node types number a few thousand; a program that makes names up meets this limit, and then "(other)".
constexpr size_t kMaxNames = size_t(1) << 14;
constexpr std::string_view kEnginePrefix = "autograd::engine::evaluate_function: ";

struct Names {
  std::mutex mutex;
  std::deque<OpName> all{OpName{0, "(other)", "(other)", false}};
  std::unordered_map<std::string_view, const OpName*> by_text;

  const OpName& intern(const char* text) {
    std::lock_guard<std::mutex> lock(mutex);
    const auto found = by_text.find(text);
    if (found != by_text.end()) return *found->second;
    if (all.size() >= kMaxNames) return all.front();
    OpName& name = all.emplace_back();
    name.id = uint32_t(all.size() - 1);
    name.recorded = text;
    name.is_node = std::string_view(text).substr(0, kEnginePrefix.size()) == kEnginePrefix;
    name.text = name.is_node ? name.recorded.substr(kEnginePrefix.size()) : name.recorded;
    by_text.emplace(name.recorded, &name);
    return name;
  }
};

Names& names() {
  static auto& instance = *new Names();  // outlives every thread
  return instance;
}

}  // namespace

const OpName& op_name(uint32_t id) {
  std::lock_guard<std::mutex> lock(names().mutex);
  return names().all[id];
}

void OpNameCache::refill(Entry& entry, const char* text) { entry = {text, &names().intern(text), nullptr, false}; }

}  // namespace perfsuite
