// The instruction sets that the CPU's inner loops are compiled for, and how they are told apart.
//
// A loop is compiled once for each set, by `dispatch`, and the processor's is picked when the loop
// is called. `target_clones` does the same by an attribute, but not with every compiler: g++ 11
// refuses the names x86-64-v3 and x86-64-v4. clang 14 to 16 accept them and never pick them.

#pragma once

#if defined(__GNUC__)
#define FASTAD_INLINE inline __attribute__((always_inline))
#define FASTAD_LAMBDA __attribute__((always_inline))
#define FASTAD_RESTRICT __restrict__
#else
#define FASTAD_INLINE inline
#define FASTAD_LAMBDA
#define FASTAD_RESTRICT __restrict
#endif

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#define FASTAD_X86_64
#include <cpuid.h>
#define FASTAD_V3 __attribute__((target("arch=x86-64-v3")))
#define FASTAD_V4 __attribute__((target("arch=x86-64-v4")))
#endif

namespace fastad::cpu {

enum class InstructionSet { baseline, x86_64_v3, x86_64_v4 };

// All that the x86-64 psABI lists for a level beyond what every processor of the level before has.
// Compilers know the levels by name only from g++ 12 and clang 18 on, and not all of the features.
inline InstructionSet find_instruction_set() {
#ifdef FASTAD_X86_64
  __builtin_cpu_init();
  unsigned a = 0, b = 0, basic = 0, extended = 0, d = 0;  // 0 where a leaf is missing
  __get_cpuid(1, &a, &b, &basic, &d);
  __get_cpuid(0x80000001, &a, &b, &extended, &d);
  constexpr unsigned kMovbe = 1u << 22, kF16c = 1u << 29, kLzcnt = 1u << 5;
  // The first of these holds only where the operating system saves the registers.
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                  (basic & kMovbe) != 0 && (basic & kF16c) != 0 && (extended & kLzcnt) != 0;
  const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (v3) return v4 ? InstructionSet::x86_64_v4 : InstructionSet::x86_64_v3;
#endif
  return InstructionSet::baseline;
}

// The one that `dispatch` picks on this processor. Until it is found, as the library is loaded, it
// is the baseline, which is right too.
inline const InstructionSet kInstructionSet = find_instruction_set();

inline const char* name_of(InstructionSet set) {
  return set == InstructionSet::x86_64_v4   ? "x86-64-v4"
         : set == InstructionSet::x86_64_v3 ? "x86-64-v3"
                                            : "baseline";
}

#ifdef FASTAD_X86_64
// Not inline, so that the choice alone is made before the call.
template <auto kLoop, class... Arguments>
__attribute__((noinline)) auto run_baseline(Arguments... arguments) {
  return kLoop(arguments...);
}
template <auto kLoop, class... Arguments>
FASTAD_V3 auto run_v3(Arguments... arguments) {
  return kLoop(arguments...);
}
template <auto kLoop, class... Arguments>
FASTAD_V4 auto run_v4(Arguments... arguments) {
  return kLoop(arguments...);
}
#endif

// Calls `kLoop`, a function marked FASTAD_INLINE, as compiled for the processor's instruction set.
// That reaches what is inlined into it: what it calls is marked FASTAD_INLINE, too.
template <auto kLoop, class... Arguments>
auto dispatch(Arguments... arguments) {
#ifdef FASTAD_X86_64
  if (kInstructionSet == InstructionSet::x86_64_v4) return run_v4<kLoop>(arguments...);
  if (kInstructionSet == InstructionSet::x86_64_v3) return run_v3<kLoop>(arguments...);
  return run_baseline<kLoop>(arguments...);
#else
  return kLoop(arguments...);
#endif
}

}  // namespace fastad::cpu
