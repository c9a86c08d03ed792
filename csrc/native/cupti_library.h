// NVIDIA's CUPTI, found at run time.
#pragma once

#include <string>
#include <vector>

#include "cupti_api.h"

namespace perfsuite {

struct CuptiLibrary {
  cupti::Api api;
  std::string path;
  uint32_t version = 0;     // as cuptiGetVersion gives it: 26 is that of CUDA 12.8, 130001 of 13.0 update 1
  std::string unavailable;  // why nothing of it can be used; empty: usable

  // "cuptiX: what CUPTI says of the code".
  std::string why(const std::string& function, cupti::Result code) const;
};

// driver: what dlopen takes, "libcuda.so.1". Without a driver that sees a GPU nothing of CUPTI is called: most of its
// functions fail then, and some crash. take_loaded: a libcupti that is in the process already, torch's, comes first: two
// of them would be two clients. candidates: then tried in this order.
// The libraries stay loaded for the rest of the process, because CUPTI may call back at any time.
CuptiLibrary open_cupti(const std::string& driver, const std::vector<std::string>& candidates, bool take_loaded);

}  // namespace perfsuite
