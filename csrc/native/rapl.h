// Energy counters of processor packages and memory, as the kernel's powercap files show them.
#pragma once

#include "source.h"

namespace perfsuite {

struct RaplZone {
  std::string name;  // "package-0", "package-0-dram"
  size_t column;
  int file;
  double range_j;  // where the counter wraps; missing where the kernel does not say
};

class Rapl : public Source {
 public:
  explicit Rapl(const std::string& powercap);  // e.g. "/sys/class/powercap"
  ~Rapl() override;
  Rapl(const Rapl&) = delete;
  Rapl& operator=(const Rapl&) = delete;

  const char* label() const override { return "rapl"; }
  std::string unavailable() const override { return unavailable_; }
  const std::vector<Column>& columns() const override { return columns_; }
  const std::vector<RaplZone>& zones() const { return zones_; }
  void read(Reading& row) override;

 private:
  std::vector<Column> columns_;
  std::vector<RaplZone> zones_;
  std::string unavailable_;
};

}  // namespace perfsuite
