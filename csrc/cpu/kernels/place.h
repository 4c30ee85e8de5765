// SPDX-License-Identifier: MIT
// Where the threads of a team stand in a layer.
#pragma once

#include "../team.h"
#include "isa.h"

namespace fused_rnn::cpu::FUSED_RNN_ISA {

// How a team shares a layer: first the recurrences, then rows or hidden units. Threads that
// share units of the same rows meet at every step, threads of different rows never do.
struct Split {
  int recurrence_groups, row_groups, unit_groups;
};

// Where one thread stands in the split; idle threads only meet at the team's barrier.
struct Place {
  Split split;
  int recurrence_group, row_group, unit_group;
  bool idle;

  Place(const Split& split, int rank) : split(split) {
    unit_group = rank % split.unit_groups;
    row_group = rank / split.unit_groups % split.row_groups;
    recurrence_group = rank / (split.unit_groups * split.row_groups);
    idle = recurrence_group >= split.recurrence_groups;
  }

  // Threads that share this thread's rows.
  void wait_units(Team& team) const {
    const int group = recurrence_group * split.row_groups + row_group;
    team.wait(1 + split.recurrence_groups + group, split.unit_groups);
  }

  // Threads that share this thread's recurrence.
  void wait_recurrence(Team& team) const {
    team.wait(1 + recurrence_group, split.row_groups * split.unit_groups);
  }

  int recurrence_size() const { return split.row_groups * split.unit_groups; }
  int recurrence_rank() const { return row_group * split.unit_groups + unit_group; }
  int rank() const { return recurrence_group * recurrence_size() + recurrence_rank(); }
};

}  // namespace fused_rnn::cpu::FUSED_RNN_ISA
