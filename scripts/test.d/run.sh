# What the stages of scripts/test are made of: builds and runs of tests.

heading() { printf '\n== %s\n' "$*"; }

# Runs a command whose output matters where it fails alone.
quietly() {
  local log=$logs/$1.log
  shift
  "$@" >"$log" 2>&1 || { tail -n 50 "$log"; return 1; }
}

# side_by_side COMMAND...: all at once, each a line of words; what one says comes when it has ended.
side_by_side() {
  local command pids=() failed=false i=0
  for command in "$@"; do
    $command >"$logs/${command%% *}.log" 2>&1 &
    pids+=($!)
  done
  for command in "$@"; do
    wait "${pids[i++]}" || failed=true
    cat "$logs/${command%% *}.log"
  done
  ! $failed
}

# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  quietly "configure-$preset" cmake --preset "$preset"
  quietly "build-$preset" cmake --build --preset "$preset" ${1:+--target "$@"}
}

slowest() {
  sed -nE 's/^\[       OK \] (.*) \(([0-9]+) ms\)$/\2 \1/p' "$@" | sort -rn |
    awk 'NR <= 10 { printf "%8.1f s  %s\n", $1 / 1000, $2 }'
}

# suite NAME BINARY [FILTER]: the tests that the filter leaves, in few processes, but more than
# there are cores: no core is left with a long one.
suite() {
  local log=$logs/$1 binary=$2 filter=${3:-*} failed=false n=$((4 * cores))
  rm -f "$log"-*.log
  seq 0 $((n - 1)) |
    GTEST_TOTAL_SHARDS=$n xargs -P "$cores" -I {} bash -c 'GTEST_SHARD_INDEX={} timeout 3000 \
      "$1" --gtest_filter="$2" >"$3-{}.log" 2>&1 || { tail -n 50 "$3-{}.log"; exit 1; }' \
      _ "$binary" "$filter" "$log" || failed=true
  # A filter that leaves nothing tests nothing.
  cat "$log"-*.log | awk -v name="$1" '
    /^\[  PASSED/ { passed += $4 }
    /^\[  SKIPPED \] [0-9]+ test/ { skipped += $4 }
    END { printf "%s: %d passed, %d skipped\n", name, passed, skipped; exit passed == 0 }' || failed=true
  slowest "$log"-*.log
  ! $failed
}

# on_device NAME LIMITS [FILTER]: under the eyes of the validation layers.
on_device() {
  heading "${2:-no limits}"
  VGA_DEVICE=vulkan VGA_VULKAN_VALIDATION=1 VGA_VULKAN_LIMITS=$2 suite "$1" "$tests" "${3:-*}"
  # A test of a device that was skipped has tested nothing.
  if grep -h 'SKIPPED.*Vulkan' "$logs/$1"-*.log; then return 1; fi
}

fuzz() {  # fuzz SECONDS NAME
  local name=$2 found=build/fuzz/$2
  mkdir -p "$found"
  quietly "fuzz-$name" "build/asan/bin/fuzz-$name" "$found" "tests/corpus/$name" \
    -max_total_time="$1" -max_len=4096 -rss_limit_mb=2048 -timeout=10 \
    -artifact_prefix="build/fuzz/" -print_final_stats=1
  awk -v name="$name" '/cov: / { cov = $4 } /number_of_executed_units/ { runs = $2 }
    END { print name ": " runs " inputs, " cov " branches" }' "$logs/fuzz-$name.log"
}

fuzz_all() {  # fuzz_all SECONDS
  local name targets=()
  for name in tests/fuzz_*.cpp; do targets+=("$(basename "$name" .cpp | sed s/fuzz_//)"); done
  build asan fuzz-targets
  export -f fuzz quietly
  export logs
  printf '%s\n' "${targets[@]}" | xargs -P "$cores" -I {} bash -c "set -e; fuzz $1 {}"
}
