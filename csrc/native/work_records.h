// Work of a device from each kind of activity record that tells of some.
#pragma once

#include "cupti_activity_abi.h"
#include "device_work.h"
#include "kernel_names.h"

namespace perfsuite {

DeviceWork work_of(const cupti::KernelRecord& record, KernelNames& names);
DeviceWork work_of(const cupti::MemcpyRecord& record, KernelNames& names);
DeviceWork work_of(const cupti::MemcpyPeerRecord& record, KernelNames& names);
DeviceWork work_of(const cupti::MemsetRecord& record, KernelNames& names);
DeviceWork work_of(const cupti::GraphTraceRecord& record, KernelNames& names);

}  // namespace perfsuite
