// Ids for kernel names, by content.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>

namespace perfsuite {

class KernelNames {
 public:
  explicit KernelNames(size_t limit) {
    for (const char* name : {"(other)", "(unnamed)", "(cuda graph)", "memcpy", "memset"}) add(name);
    limit_ = names_.size() + limit;
  }
  static constexpr uint32_t kOther = 0, kUnnamed = 1, kGraph = 2, kMemcpy = 3, kMemset = 4;

  // CUPTI hands out the same pointer for the same kernel, but a module that is unloaded frees it for another name: the
  // content is compared each time, which costs far less than hashing it. kOther beyond the limit of names.
  uint32_t id(const char* name) {
    if (!name) return kUnnamed;
    Cached& cached = cache_[(reinterpret_cast<uintptr_t>(name) * 0x9E3779B97F4A7C15u) >> (64 - kCacheBits)];
    if (cached.pointer == name && std::strcmp(names_[cached.id].c_str(), name) == 0) return cached.id;
    const auto found = ids_.find(name);
    if (found != ids_.end()) {
      cached = {name, found->second};
    } else {
      if (names_.size() >= limit_) return kOther;
      cached = {name, add(name)};
    }
    return cached.id;
  }
  const std::string& name(uint32_t id) const { return names_[id]; }

 private:
  struct Cached {
    const char* pointer = nullptr;
    uint32_t id = 0;
  };
  static constexpr int kCacheBits = 12;

  uint32_t add(const char* name) {
    names_.emplace_back(name);
    return ids_[names_.back()] = uint32_t(names_.size() - 1);
  }

  size_t limit_;
  std::deque<std::string> names_;  // keeps its strings in place
  std::unordered_map<std::string_view, uint32_t> ids_;
  std::array<Cached, size_t(1) << kCacheBits> cache_{};
};

// As a reader wants it: demangled with its template arguments, at most `limit` characters.
std::string readable_kernel_name(const std::string& name, size_t limit = 300);

}  // namespace perfsuite
