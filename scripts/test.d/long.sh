# The stages of scripts/test --long.

long_tsan() {
  build tsan
  suite tsan build/tsan/bin/vga-tests
}

long_limits() {
  build release
  on_device alignment alignment=256,cost=20000
  on_device subgroup subgroup=1
  # What is taken for a GPU is asked for its clock; lavapipe then keeps a megabyte now and then.
  on_device discrete no-push-descriptors,discrete '-*NeitherMemory*'
  small_bindings '-'
}

long_streams() {
  build release
  VGA_LONG=1 suite long-cpu "$tests" '*NeitherMemory*'
  VGA_LONG=1 on_device long-device '' '*NeitherMemory*'
  build/release/bin/bench-pace
  build/release/bin/vga-convert models/vga-stories -o build/stories.gguf
  cat README.md docs/*.md >build/text
  build/release/bin/vga-stream -m build/stories.gguf -f build/text -w 256 --keep 0,4 \
    --tokens 1000000
}

long_fuzz() { fuzz_all "${FUZZ_SECONDS:-900}"; }
long_lint() {
  build debug vga_shaders
  scripts/lint build/debug --analyze
}
