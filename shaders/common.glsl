// Constants that every shader is specialized with, and how it finds its place in the grid.

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint workgroup_size = 128;  // a power of two
layout(constant_id = 1) const uint subgroup_size = 1;     // where SUBGROUPS are relied on

// What no score goes below; drivers need not keep infinities.
const float lowest = -3.0e38;

// Workgroups are counted along x, then y: one axis may have no more than 65535.
uint group_index() {
  return gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
}
uint lane_index() {
  return gl_LocalInvocationID.x;
}
uint thread_index() {
  return group_index() * workgroup_size + lane_index();
}

// Rows of activations begin at multiples of 8 floats. What lies between a row and the next one is
// zero and stays so.
uint padded(uint cols) {
  return (cols + 7) / 8 * 8;
}
