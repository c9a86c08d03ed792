// The buffers that CUPTI writes activity records to: handed out when it asks, read on a thread of our own when it is
// done with them, and used again.
//
// The two callbacks only move pointers under a short lock and call nothing of CUPTI: CUPTI may call them with locks of
// its own held. Reading on our own thread keeps CUPTI's worker free for the device.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "cupti_api.h"

namespace perfsuite {

// What a recording makes of its buffers. All three are called on the thread of the buffers.
struct BufferUse {
  std::function<void(uint8_t* buffer, size_t valid_bytes)> read;
  std::function<void()> flush;  // once a period
  bool may_refuse;  // whether CUPTI survives being denied a buffer; where not, the limit is exceeded instead
};

// One in the process, never destroyed: CUPTI may call back until the process ends, also when nobody records.
class ActivityBuffers {
 public:
  // CUPTI recommends 1 to 10 MB. A launch takes about 0.3 kB, so that a thread that launches 100 000 kernels a second
  // fills 30 of the smallest ones: each arrives within a fraction of a second. Every thread that calls CUDA has one.
  static constexpr size_t kBufferBytes = size_t(1) << 20;
  static constexpr size_t kMaxBuffers = 64;
  // A buffer that is not full comes only when it is flushed; the sums need it twice within their horizon of 3 s.
  static constexpr std::chrono::milliseconds kFlushPeriod{1000};

  static ActivityBuffers& instance();
  static void requested(uint8_t** buffer, size_t* bytes, size_t* max_records);
  static void completed(void* context, uint32_t stream, uint8_t* buffer, size_t bytes, size_t valid_bytes);

  void start(BufferUse use);
  // Reads what has come so far, ends the thread and frees the memory that CUPTI does not hold. Returns how many buffers
  // it still holds.
  size_t stop();
  size_t most_held() const { return most_held_; }  // buffers at once, of the last recording

 private:
  struct Completed {
    uint8_t* buffer;
    size_t valid_bytes;
  };
  uint8_t* take();
  void give(uint8_t* buffer, size_t valid_bytes);
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  BufferUse use_;
  bool running_ = false, may_refuse_ = false;
  std::thread thread_;
  std::unordered_map<uint8_t*, std::unique_ptr<uint8_t[]>> all_;
  std::vector<uint8_t*> free_;  // all zero
  std::vector<Completed> completed_;
  size_t most_held_ = 0;
};

}  // namespace perfsuite
