#include "activity_buffers.h"

#include <algorithm>
#include <cstring>

namespace perfsuite {

ActivityBuffers& ActivityBuffers::instance() {
  static auto& buffers = *new ActivityBuffers();
  return buffers;
}

void ActivityBuffers::requested(uint8_t** buffer, size_t* bytes, size_t* max_records) {
  *buffer = instance().take();
  *bytes = *buffer ? kBufferBytes : 0;
  *max_records = 0;  // as many as fit
}

void ActivityBuffers::completed(void*, uint32_t, uint8_t* buffer, size_t, size_t valid_bytes) {
  instance().give(buffer, valid_bytes);
}

uint8_t* ActivityBuffers::take() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (free_.empty()) {
    if (all_.size() >= kMaxBuffers && may_refuse_) return nullptr;  // CUPTI counts what it drops
    std::unique_ptr<uint8_t[]> memory(new (std::nothrow) uint8_t[kBufferBytes]());
    if (!memory) return nullptr;
    uint8_t* buffer = memory.get();
    all_.emplace(buffer, std::move(memory));
    most_held_ = std::max(most_held_, all_.size());
    return buffer;
  }
  uint8_t* buffer = free_.back();
  free_.pop_back();
  return buffer;
}

void ActivityBuffers::give(uint8_t* buffer, size_t valid_bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (all_.find(buffer) == all_.end()) return;  // not one of ours
  if (!running_) {                              // nobody reads any more
    all_.erase(buffer);
    return;
  }
  completed_.push_back({buffer, valid_bytes});
  changed_.notify_one();
}

void ActivityBuffers::start(BufferUse use) {
  std::lock_guard<std::mutex> lock(mutex_);
  use_ = std::move(use);
  may_refuse_ = use_.may_refuse;
  most_held_ = all_.size();
  running_ = true;
  thread_ = std::thread([this] { run(); });
}

size_t ActivityBuffers::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    running_ = false;
    changed_.notify_one();
  }
  thread_.join();
  std::lock_guard<std::mutex> lock(mutex_);
  use_ = {};
  for (uint8_t* buffer : free_) all_.erase(buffer);
  free_.clear();
  return all_.size();
}

void ActivityBuffers::run() {
  std::unique_lock<std::mutex> lock(mutex_);
  auto next_flush = std::chrono::steady_clock::now() + kFlushPeriod;
  while (running_ || !completed_.empty()) {
    changed_.wait_until(lock, next_flush, [this] { return !running_ || !completed_.empty(); });
    while (!completed_.empty()) {
      std::vector<Completed> batch;
      batch.swap(completed_);
      lock.unlock();
      for (const Completed& done : batch) {
        use_.read(done.buffer, done.valid_bytes);
        // We tell CUPTI that its buffers are zero (kZeroedBuffers): else it clears them on the threads that launch.
        std::memset(done.buffer, 0, kBufferBytes);
      }
      lock.lock();
      for (const Completed& done : batch) free_.push_back(done.buffer);
    }
    if (running_ && std::chrono::steady_clock::now() >= next_flush) {
      lock.unlock();
      use_.flush();
      lock.lock();
      next_flush = std::chrono::steady_clock::now() + kFlushPeriod;
    }
  }
}

}  // namespace perfsuite
