// Writing past the caches: for outputs of more than these hold it saves reading every line before it is overwritten.
#pragma once

#include <cstdint>

namespace perfsuite::cpu {

// Outputs of more than this have left the caches before anybody reads them.
constexpr int64_t kStreamBytes = 16 << 20;

// Whether Vec::stream may write rows so many bytes apart: it needs whole vectors, at most 64 bytes.
inline bool can_stream(const void* out, int64_t row_bytes, int64_t total_bytes) {
  return total_bytes > kStreamBytes && reinterpret_cast<uintptr_t>(out) % 64 == 0 && row_bytes % 64 == 0;
}

// Other threads may read what was streamed as soon as the caller says that it is written.
inline void finish_streams() {
#if defined(__x86_64__)
  __builtin_ia32_sfence();
#endif
}

}  // namespace perfsuite::cpu
