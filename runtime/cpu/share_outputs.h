#pragma once

#include <algorithm>
#include <cstddef>

#include "cpu/kernels.h"
#include "cpu/threads.h"

namespace vga::cpu {

/// Shares the outputs of n products, of which product i has outputs_of(i), out among threads:
/// body(product, first, last). An output is worth `work` multiply-adds. Each product begins with a
/// group.
template <class OutputsOf, class Body>
void share_outputs(ThreadPool& threads, size_t n, size_t work, OutputsOf&& outputs_of,
                   Body&& body) {
  const auto padded = [&](size_t i) {
    return (outputs_of(i) + project_group - 1) / project_group * project_group;
  };
  size_t n_outputs = 0;
  for (size_t i = 0; i < n; ++i) n_outputs += padded(i);
  const size_t groups = grain_for(work * project_group);
  threads.run(n_outputs, groups * project_group, [&](size_t begin, size_t end, size_t) {
    // [begin, end) counts the outputs of all products in a row.
    for (size_t i = 0; i < n; ++i) {
      const size_t first = std::min(begin, padded(i));
      const size_t last = std::min(end, padded(i));
      if (first < last) body(i, first, std::min(last, outputs_of(i)));
      begin -= first;
      end -= last;
    }
  });
}

}  // namespace vga::cpu
