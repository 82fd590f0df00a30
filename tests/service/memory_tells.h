// Whether resident memory says anything in this build.
#pragma once

namespace octavo {

// AddressSanitizer keeps freed memory and adds shadow: only the other builds can tell whether
// resident memory grows.
#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kMemoryTells = false;
#else
inline constexpr bool kMemoryTells = true;
#endif

}  // namespace octavo
