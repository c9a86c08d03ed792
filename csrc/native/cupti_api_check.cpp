// Compares cupti_api.h with the vendor's headers at compile time, where those are on the include path. Emits no code.
#include "cupti_api.h"
#include "signature_shape.h"

#if __has_include(<cupti.h>) && __has_include(<cuda.h>)
#include <cupti.h>

#include <array>
#include <cstddef>

namespace perfsuite::cupti {
namespace {

static_assert(kMultipleSubscribers == CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED);
static_assert(kCustom2 == CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM2);
static_assert(kFlushForced == CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
static_assert(kZeroedBuffers == CUPTI_ACTIVITY_ATTR_ZEROED_OUT_ACTIVITY_BUFFER);
static_assert(kDriverApi == CUPTI_CB_DOMAIN_DRIVER_API && kRuntimeApi == CUPTI_CB_DOMAIN_RUNTIME_API);

#define PERFSUITE_CUPTI_CHECK(symbol, member, parameters) \
  static_assert(equal(shape(decltype(&::symbol)(nullptr)), shape(decltype(Api::member)(nullptr))), #symbol);
PERFSUITE_CUPTI_FUNCTIONS(PERFSUITE_CUPTI_CHECK)
PERFSUITE_CUPTI_OPTIONAL_FUNCTIONS(PERFSUITE_CUPTI_CHECK)

// The same of what is called back.
template <class... A>
constexpr std::array<size_t, 8> arguments(void (*)(A...)) {
  return {sizeof(A)...};
}
static_assert(equal(arguments(CUpti_BuffersCallbackRequestFunc(nullptr)), arguments(BufferRequested(nullptr))));
static_assert(equal(arguments(CUpti_BuffersCallbackCompleteFunc(nullptr)), arguments(BufferCompleted(nullptr))));
static_assert(equal(arguments(CUpti_CallbackFunc(nullptr)), arguments(Callback(nullptr))));
static_assert(equal(shape(CUpti_TimestampCallbackFunc(nullptr)), shape(Timestamp(nullptr))));

#if CUPTI_API_VERSION >= 130000
PERFSUITE_CUPTI_SUBSCRIBE_V2(PERFSUITE_CUPTI_CHECK)
static_assert(sizeof(SubscriberParams) == CUpti_SubscriberParams_STRUCT_SIZE);
static_assert(offsetof(SubscriberParams, old_name) == offsetof(CUpti_SubscriberParams, oldSubscriberName));
static_assert(kOldNameBytes == CUPTI_OLD_SUBSCRIBER_NAME_MIN_LEN);
#endif

}  // namespace
}  // namespace perfsuite::cupti
#endif
