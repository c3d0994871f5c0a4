// What the host says of a batch; see runtime/vulkan/batch.h.

struct Row {
  uint token;
  uint position;
};

// Where a row's keys and values lie.
struct Place {
  uint slot;
  uint position;  // in its slot
};

// What a row sees.
struct View {
  uint kept_end;  // the kept positions [0, kept_end)
  // and of its tile's part of the ring these, counted from the first position of its first page
  uint begin;
  uint end;
};

// Rows that follow each other in one slot, whose queries a workgroup takes together.
struct Tile {
  uint first_row;
  uint n_rows;
  uint slot;
  uint kept_pages;  // pages of kept positions that any of them sees
  uint ring_pages;  // the same of the ring
  uint ring_start;  // where in the ring the first of those lies
};

// The rows of one slot, in their order.
struct Run {
  uint slot;
  uint first;  // of its rows in the list of all
  uint n_rows;
  uint is_first;  // of its sequence: nothing is remembered yet
};
