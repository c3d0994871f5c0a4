# The stages of scripts/test --all, each a function that a failure ends.

# Large shapes walk the code that small ones walk; under sanitizers they take most of the time.
large='*_w301_*:*_w333_*:*heads_of_320_*:*heads_of_512_*:*LongContexts*'

# Pools, sessions of many threads, what runs on a pool: attention, products, INT8 by simulation,
# conversion, the bench's measure of memory; and a tokenizer that many threads use. Products of one
# kernel and flags that are refused have names like these, but no threads.
has_threads='ThreadPool*:*Session*:*WindowTest*Threads*:*Reference*:*HowPages*:*Quantize*'
has_threads+=':*Scheduler*:ConvertRoundTrip*:Bench.*:*Threads*:Load*'
has_threads+="-$large:*QuantizeModel.EveryType*:*ExpertsHaveEveryType*:*KernelsTest*:Programs.*"

names_of() { "$1" --gtest_list_tests --gtest_filter="$has_threads" | sed 's/ *#.*//' | sort; }

stage_release() {
  build release
  build release vga-thread-tests
  diff <(names_of "$tests") <(names_of build/release/bin/vga-thread-tests) ||
    { echo 'what has threads stands outside of vga_thread_tests: tsan would not run it'; return 1; }
  # In a run of all stages the device's own tests wait for the stage that is theirs.
  suite release "$tests" "${1:-*}"
  VGA_CPU=scalar suite scalar "$tests" '*Reference*:*Session*'
  # In a run of all stages Python's runs these, with numpy.
  [[ -n ${1:-} ]] || python3 tests/test_scripts.py
}

python=build/python/bin/python

# Formats, with the packages of others.
check_formats() {
  $python tests/check_gguf.py build/release/bin tests/data/cases/* models/vga-stories
  $python tests/check_tokenizer.py build/release/bin "$1"
  $python tests/check_templates.py build/release/bin "$1" tests/corpus/template/*
  $python tests/test_scripts.py
}

# The server from outside. Each of these waits a good deal.
check_servers() {
  $python tests/check_server.py build/release/bin build/vga-stories.gguf
  $python tests/check_clients.py build/release/bin build/vga-stories.gguf
  $python tests/check_page.py build/release/bin build/vga-stories.gguf --if-present
}

check_installed() { tests/check_install build/vga-stories.gguf; }

stage_python() {
  build release
  [[ -x $python ]] || python3 -m venv build/python
  $python -m pip install -q -r tests/requirements.txt
  build/release/bin/vga-convert models/vga-stories -o build/vga-stories.gguf --type f16 >/dev/null
  local base
  base=$(scripts/try-model smollm2 --get)
  side_by_side "check_formats $base" check_servers check_installed
}

# Chat formats differ in their tokens, of which a device and what is allocated know nothing: two of
# twelve stand for all. Templates have tests of their own.
many_formats='*ConversationTest*/llama*:*ConversationTest*/mistral*:*ConversationTest*/zephyr'

# What is asked of every family and every gate in the same way. On a device the families are compared
# with the CPU, and with transformers; of windows it is the kept tokens and gates by head that matter.
many_families='*/Families.EveryKernel*:*/Families.Chunks*:*/Families.Streaming*:*/Families.WhatAll*'
many_windows='*WindowTest*_element_w37_*:*WindowTest*_w37_k0:*WindowTest*_w37_k4'
# Programs and texts that a device has no part in, and types that its products have tests of. Of
# vga-stream's its memory stays.
no_device='Texts*:Programs*:BenchTest*:Quantize*:Tokenizer*:ByteBpe*:Jinja*:Tables/*'
for letter in C G P R T W; do no_device+=":StreamProgram.$letter*"; done

stage_device() {
  build release
  on_device device '' "-$many_formats:$many_families:$many_windows:$no_device"
}

# Sessions and windows over one span of the cache and several; the gates have ops of their own.
sessions='*SessionTest*/value_output_head:SessionCopy*:SessionErrors*:Snapshot*'
sessions+=':*WindowTest*value_output_head_bias*:WindowLayers*'
# Ops, attention, logits of all cases and families, sessions. Programs, and what a window refuses to
# copy, go to the device in its own stage.
walks_the_layer="Vulkan*:*VulkanAttend*:*VulkanDelta*:*VulkanCase*:PyTorch/Reference*:*Families.Vulkan*:$sessions"
elsewhere='Vulkan.Programs*:Vulkan.Chats*:Vulkan.TheShipped*:*WhatAWindowSlid*'
# What is far behind in a context comes in more dispatches, whatever slices there are.
far_behind='*LongContextsDoNot*'
in_slices="Vulkan*:*VulkanDelta*:*VulkanCase*:$sessions"

# With so small bindings weights, caches and activations come in slices. Some asks for more at once:
# eight rows of logits, a head's keys. Weights are sliced in earnest at 400 kB.
small_bindings() {  # small_bindings FILTER, with what it leaves out at its end
  on_device range range=1000000 "$1:*VulkanAttend*:*LogitsTakeNoMore*"
  on_device allocation allocation=4000000 '*VulkanAttend*'
  on_device range-logits range=4000000 '*LogitsTakeNoMore*'
  on_device range-weights range=400000 'VulkanOps.Embed*:VulkanOps.Project*:VulkanExperts.Project*'
}

stage_limits() {
  build release
  # What these take away is used in different places: offsets, submissions, bindings, memory.
  on_device poor alignment=256,cost=20000,no-push-descriptors,discrete \
    "$walks_the_layer-$elsewhere:$many_windows"
  # A subgroup of one is the shaders' affair, and takes a driver on the CPU twice as long.
  on_device subgroup subgroup=1 "VulkanOps*:VulkanExperts*:*VulkanDelta*:*VulkanAttend*"
  # Memory that a discrete device would copy is used where it lies.
  on_device alignment alignment=256 '*VulkanCase*:Vulkan.*-'"$elsewhere"
  small_bindings "$in_slices-$elsewhere:$many_windows:$far_behind"
}

stage_asan() {
  # A folder in which this was GCC's is not made clang's by a preset.
  grep -qs '^CMAKE_CXX_COMPILER:.*clang' build/asan/CMakeCache.txt || rm -f build/asan/CMakeCache.txt
  build asan vga-tests
  suite asan build/asan/bin/vga-tests "-*Vulkan*:$large:$many_formats:$many_windows"
  # What a driver never frees is not our leak. Shapes of attention and products are the shaders'
  # affair; those with windows, biases and slices walk all that the host does for them.
  ASAN_OPTIONS=detect_leaks=0 suite asan-vulkan build/asan/bin/vga-tests \
    "*Vulkan*-$large:*VulkanAttend*window_0_*:*.ProjectEqualsTheCpu:*.ProjectExpertsEqualsTheCpu:*RoundedCaches*"
  VGA_CPU=scalar suite asan-scalar build/asan/bin/vga-tests "*Reference*:*Session*-*Vulkan*:$large"
}

stage_fuzz() { fuzz_all "${FUZZ_SECONDS:-30}"; }

stage_tsan() {
  build tsan vga-thread-tests
  suite tsan build/tsan/bin/vga-thread-tests "$has_threads"
}

stage_lint() {
  git ls-files '*.cpp' '*.h' | xargs clang-format --dry-run --Werror
  build release vga_shaders  # which sources include
  scripts/lint build/release
}
