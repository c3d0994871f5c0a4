// Sums and maxima over lanes. A team is what reduces at once: a subgroup or, where those cannot be
// relied on, the whole workgroup through shared memory. In the latter case every lane must call.

#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require

const bool uses_subgroups = subgroup_size > 1;
const uint team_size = uses_subgroups ? subgroup_size : workgroup_size;
const uint n_teams = workgroup_size / team_size;

uint team_index() {
  return uses_subgroups ? gl_SubgroupID : 0;
}
uint team_lane() {
  return uses_subgroups ? gl_SubgroupInvocationID : lane_index();
}

shared float reduced[workgroup_size];

float team_add(float x) {
  if (uses_subgroups) return subgroupAdd(x);
  barrier();  // until the last result was read
  reduced[lane_index()] = x;
  for (uint n = workgroup_size / 2; n > 0; n /= 2) {
    barrier();
    if (lane_index() < n) reduced[lane_index()] += reduced[lane_index() + n];
  }
  barrier();
  return reduced[0];
}

float team_max(float x) {
  if (uses_subgroups) return subgroupMax(x);
  barrier();
  reduced[lane_index()] = x;
  for (uint n = workgroup_size / 2; n > 0; n /= 2) {
    barrier();
    if (lane_index() < n) {
      reduced[lane_index()] = max(reduced[lane_index()], reduced[lane_index() + n]);
    }
  }
  barrier();
  return reduced[0];
}

// Over the whole workgroup; every lane must call.
float group_add(float x) {
  x = team_add(x);
  if (n_teams == 1) return x;
  barrier();
  if (team_lane() == 0) reduced[team_index()] = x;
  barrier();
  float sum = 0;
  for (uint i = 0; i < n_teams; ++i) sum += reduced[i];
  return sum;
}
