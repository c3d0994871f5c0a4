#pragma once

namespace vga::test {

// GCC has macros for its sanitizers, clang answers a question.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define VGA_SANITIZED true
#elif defined(__has_feature)
#define VGA_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define VGA_SANITIZED false
#endif

/// Whether this is a build with a sanitizer that has a hand in memory or threads.
inline constexpr bool sanitized = VGA_SANITIZED;
#undef VGA_SANITIZED

}  // namespace vga::test
