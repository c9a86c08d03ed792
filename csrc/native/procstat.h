// CPU time, resident memory and page faults of this process, all threads together.
#pragma once

#include "source.h"

namespace perfsuite {

class ProcStat : public Source {
 public:
  ProcStat();
  ~ProcStat() override;
  ProcStat(const ProcStat&) = delete;
  ProcStat& operator=(const ProcStat&) = delete;

  const char* label() const override { return "proc"; }
  const std::vector<Column>& columns() const override { return columns_; }
  void read(Reading& row) override;

 private:
  std::vector<Column> columns_;
  int statm_ = -1;
  double page_bytes_;
};

}  // namespace perfsuite
