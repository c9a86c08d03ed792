// The functions of NVIDIA's CUPTI that the kernel recorder calls, declared so that no vendor header is needed to build.
// cupti_api_check.cpp compares them with the vendor's headers where those are installed; records and their kinds are in
// cupti_activity_abi.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cupti_activity_abi.h"

namespace perfsuite::cupti {

using Subscriber = void*;  // CUpti_SubscriberHandle
constexpr Result kMultipleSubscribers = 39;

constexpr int kCustom2 = 5;         // CUpti_ExternalCorrelationKind; torch.profiler takes CUSTOM0 and CUSTOM1
constexpr unsigned kFlushForced = 1;  // CUpti_ActivityFlag
constexpr int kZeroedBuffers = 5;   // CUpti_ActivityAttribute, a uint8_t: the client hands out zeroed buffers
constexpr int kDriverApi = 1, kRuntimeApi = 2;  // CUpti_CallbackDomain
constexpr uint32_t kRefusesBuffers = 27;  // first version (CUDA 12.9) that survives a request for a buffer it is denied

// CUpti_SubscriberParams
struct SubscriberParams {
  size_t struct_bytes;
  const char* name;
  char* old_name;  // of the client that holds the subscription
  size_t old_name_bytes;
};
constexpr size_t kOldNameBytes = 64;

using Callback = void (*)(void* user, int domain, uint32_t id, const void* data);  // CUpti_CallbackFunc
using BufferRequested = void (*)(uint8_t** buffer, size_t* bytes, size_t* max_records);
using BufferCompleted = void (*)(void* context, uint32_t stream, uint8_t* buffer, size_t bytes, size_t valid_bytes);
using Timestamp = uint64_t (*)();

// name in the library, member, parameters
#define PERFSUITE_CUPTI_FUNCTIONS(F)                                                             \
  F(cuptiGetVersion, version, (uint32_t*))                                                    \
  F(cuptiGetResultString, result_string, (Result, const char**))                              \
  F(cuptiSubscribe, subscribe, (Subscriber*, Callback, void*))                                \
  F(cuptiUnsubscribe, unsubscribe, (Subscriber))                                              \
  F(cuptiActivityRegisterCallbacks, register_callbacks, (BufferRequested, BufferCompleted))   \
  F(cuptiActivityRegisterTimestampCallback, register_timestamp, (Timestamp))                  \
  F(cuptiActivitySetAttribute, set_attribute, (int, size_t*, void*))                          \
  F(cuptiActivityEnable, enable, (uint32_t))                                                  \
  F(cuptiActivityDisable, disable, (uint32_t))                                                \
  F(cuptiActivityFlushAll, flush_all, (uint32_t))                                             \
  F(cuptiActivityGetNextRecord, next_record, (uint8_t*, size_t, void**))                      \
  F(cuptiActivityGetNumDroppedRecords, num_dropped, (void*, uint32_t, size_t*))               \
  F(cuptiActivityPushExternalCorrelationId, push_external_id, (int, uint64_t))                \
  F(cuptiActivityPopExternalCorrelationId, pop_external_id, (int, uint64_t*))
// Those that the recorder can do without: members are null where the library has no such function.
#define PERFSUITE_CUPTI_OPTIONAL_FUNCTIONS(F)                                                    \
  F(cuptiGetCallbackName, callback_name, (int, uint32_t, const char**))                       \
  F(cuptiActivityEnableDriverApi, enable_driver_api, (uint32_t, uint8_t))                     \
  F(cuptiActivityEnableRuntimeApi, enable_runtime_api, (uint32_t, uint8_t))                   \
  F(cuptiActivityEnableAllSyncRecords, enable_all_sync_records, (uint8_t))
// Beside them, in 13.0 and later: checked by itself, because older headers do not have its parameters.
#define PERFSUITE_CUPTI_SUBSCRIBE_V2(F) \
  F(cuptiSubscribe_v2, subscribe_v2, (Subscriber*, Callback, void*, SubscriberParams*))

struct Api {
#define PERFSUITE_CUPTI_MEMBER(symbol, member, parameters) Result(*member) parameters = nullptr;
  PERFSUITE_CUPTI_FUNCTIONS(PERFSUITE_CUPTI_MEMBER)
  PERFSUITE_CUPTI_OPTIONAL_FUNCTIONS(PERFSUITE_CUPTI_MEMBER)
  PERFSUITE_CUPTI_SUBSCRIBE_V2(PERFSUITE_CUPTI_MEMBER)
#undef PERFSUITE_CUPTI_MEMBER
};

}  // namespace perfsuite::cupti
