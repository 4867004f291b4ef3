// A stand-in for CUDA's headers, so that the kernels compile for the processor.
//
// The threads of a block are fibers that run one after the other until they wait: at a barrier, or at an
// operation that a whole warp does together. What is wrong on a card and goes unnoticed there is an error
// here: a barrier that not all threads reach, an access beyond a buffer or without alignment, shared memory
// or an asynchronous copy that is read before it is there (it holds NaNs until then), and matrices that are
// loaded from the same banks.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __shared__ static thread_local
#define __restrict__

struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

extern __thread uint3 threadIdx, blockIdx, blockDim, gridDim;

struct __half {
    uint16_t bits;
};
struct __nv_bfloat16 {
    uint16_t bits;
};

namespace emulated {

/// What each f16 is in f32.
extern const float *const HALVES;

/// The nearest f16, ties to even.
uint16_t to_half(float value);

/// Ends the launch with an error, in the words of printf.
[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char *format, ...);

/// The dynamic shared memory of the block.
unsigned char *shared();

/// Fails unless `bytes` from `address` on are in one buffer of the card and aligned to `alignment`.
void check_global(const void *address, size_t bytes, size_t alignment);

/// Fails unless `bytes` from `address` on are in the block's dynamic shared memory and aligned.
void check_shared(const void *address, size_t bytes, size_t alignment);

/// Waits until all threads of the block are at the same barrier.
void barrier(const char *file, int line);

/// Waits until all lanes of the warp are here; then `act` sees what each of them gave.
void together(const char *operation, void *argument, void (*act)(void *const *arguments));

/// An asynchronous copy of 16 bytes to shared memory, of which all but `present` are zeros. They are there
/// after `copies_wait`; until then, there are NaNs.
void copy_async(void *to, const void *from, unsigned present);
void copies_commit();
void copies_wait(unsigned pending);

/// A kernel that can be launched by its name.
struct Kernel {
    const char *name;
    size_t parameter_bytes;
    void (*run)(const void *parameter);
    const Kernel *next;
    Kernel(const char *name, size_t parameter_bytes, void (*run)(const void *parameter));
};

template <class T> struct Exchange {
    T value;
    int other;
    T result;
};

template <class T> T exchange(T value, int lane_mask) {
    Exchange<T> mine{value, int(threadIdx.x % 32) ^ lane_mask, T()};
    together("a shuffle", &mine, [](void *const *arguments) {
        for (int lane = 0; lane < 32; lane++) {
            auto *one = static_cast<Exchange<T> *>(arguments[lane]);
            one->result = static_cast<Exchange<T> *>(arguments[one->other % 32])->value;
        }
    });
    return mine.result;
}

} // namespace emulated

inline float __half2float(__half value) { return emulated::HALVES[value.bits]; }
inline __half __float2half_rn(float value) { return {emulated::to_half(value)}; }

inline float __bfloat162float(__nv_bfloat16 value) {
    uint32_t bits = uint32_t(value.bits) << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (std::isnan(value)) return {uint16_t(bits >> 16 | 0x40)};
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}

#define __syncthreads() emulated::barrier(__FILE__, __LINE__)
#define __syncwarp() emulated::together("__syncwarp", nullptr, [](void *const *) {})

template <class T> T __shfl_xor_sync(unsigned, T value, int lane_mask) {
    return emulated::exchange(value, lane_mask);
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
