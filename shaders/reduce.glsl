// Sums and maxima over lanes. A team is what reduces at once: a subgroup or, where those cannot be
// relied on, the whole workgroup through shared memory. In the latter case every lane must call.

shared float reduced[workgroup_size];

#ifdef SUBGROUPS
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require

const uint team_size = subgroup_size;

uint team_index() {
  return gl_SubgroupID;
}
uint team_lane() {
  return gl_SubgroupInvocationID;
}
float team_add(float x) {
  return subgroupAdd(x);
}
float team_max(float x) {
  return subgroupMax(x);
}
#else
const uint team_size = workgroup_size;

uint team_index() {
  return 0;
}
uint team_lane() {
  return lane_index();
}

float team_add(float x) {
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
#endif

const uint n_teams = workgroup_size / team_size;

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

float group_max(float x) {
  x = team_max(x);
  if (n_teams == 1) return x;
  barrier();
  if (team_lane() == 0) reduced[team_index()] = x;
  barrier();
  float most = reduced[0];
  for (uint i = 1; i < n_teams; ++i) most = max(most, reduced[i]);
  return most;
}
