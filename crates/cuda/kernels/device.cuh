// What all kernels share: numbers, memory, and how a kernel gets its name.
//
// The sources compile with nvcc, and for tests with a C++ compiler (EMULATED), where every access to memory
// that goes through the functions here is checked.
#pragma once

#ifdef EMULATED
#include "emulator.hpp"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stddef.h>
#include <stdint.h>
#endif

#define DEVICE static __device__ __forceinline__

typedef __half f16;
typedef __nv_bfloat16 bf16;

// A kernel: `KERNEL(name, parameter type, threads of a block at most, statement)`. The statement sees the
// parameter as `p`.
#ifdef EMULATED
#define KERNEL(name, parameter, threads, ...)                                                      \
    extern "C" void name(const parameter p) { __VA_ARGS__; }                                       \
    static emulated::Kernel name##_kernel(#name, sizeof(parameter), [](const void *bytes) {        \
        parameter p;                                                                               \
        memcpy(&p, bytes, sizeof p);                                                               \
        name(p);                                                                                   \
    });
#else
#define KERNEL(name, parameter, threads, ...)                                                      \
    extern "C" __global__ void __launch_bounds__(threads) name(const parameter p) { __VA_ARGS__; }
#endif

// One kernel for each format: `KERNELS(name, parameter type, threads, template)` makes `name_f32` and so on.
#define KERNELS(name, parameter, threads, body)                                                    \
    KERNEL(name##_f32, parameter, threads, body<float>(p))                                         \
    KERNEL(name##_f16, parameter, threads, body<f16>(p))                                           \
    KERNEL(name##_bf16, parameter, threads, body<bf16>(p))

/// The dynamic shared memory of the block.
DEVICE unsigned char *shared_memory() {
#ifdef EMULATED
    return emulated::shared();
#else
    extern __shared__ __align__(128) unsigned char memory[];
    return memory;
#endif
}

/// A number of the card's memory.
template <class T> DEVICE T get(const T *from, size_t index) {
#ifdef EMULATED
    emulated::check_global(from + index, sizeof(T), alignof(T));
#endif
    return from[index];
}

template <class T> DEVICE void put(T *to, size_t index, T value) {
#ifdef EMULATED
    emulated::check_global(to + index, sizeof(T), alignof(T));
#endif
    to[index] = value;
}

/// Several numbers at once: `V` is a vector of them, to whose size the address is aligned.
template <class V, class T> DEVICE V get_vector(const T *from) {
#ifdef EMULATED
    emulated::check_global(from, sizeof(V), sizeof(V));
#endif
    return *reinterpret_cast<const V *>(from);
}

template <class V, class T> DEVICE void put_vector(T *to, V value) {
#ifdef EMULATED
    emulated::check_global(to, sizeof(V), sizeof(V));
#endif
    *reinterpret_cast<V *>(to) = value;
}

/// The same for shared memory.
template <class V, class T> DEVICE V get_shared(const T *from) {
#ifdef EMULATED
    emulated::check_shared(from, sizeof(V), sizeof(V));
#endif
    return *reinterpret_cast<const V *>(from);
}

template <class V, class T> DEVICE void put_shared(T *to, V value) {
#ifdef EMULATED
    emulated::check_shared(to, sizeof(V), sizeof(V));
#endif
    *reinterpret_cast<V *>(to) = value;
}

DEVICE float widen(float value) { return value; }
DEVICE float widen(f16 value) { return __half2float(value); }
DEVICE float widen(bf16 value) { return __bfloat162float(value); }

template <class T> struct Rounding;
template <> struct Rounding<float> {
    DEVICE float of(float value) { return value; }
};
template <> struct Rounding<f16> {
    DEVICE f16 of(float value) { return __float2half_rn(value); }
};
template <> struct Rounding<bf16> {
    DEVICE bf16 of(float value) { return __float2bfloat16_rn(value); }
};

/// The nearest number of a format.
template <class T> DEVICE T narrow(float value) { return Rounding<T>::of(value); }

/// Two numbers of 16 bits in one register, the first in the lower half.
template <class T> DEVICE uint32_t pack(float first, float second) {
    union {
        T numbers[2];
        uint32_t bits;
    } both;
    both.numbers[0] = narrow<T>(first);
    both.numbers[1] = narrow<T>(second);
    return both.bits;
}

template <class T> DEVICE void unpack(uint32_t bits, float *to) {
    union {
        uint32_t bits;
        T numbers[2];
    } both;
    both.bits = bits;
    to[0] = widen(both.numbers[0]);
    to[1] = widen(both.numbers[1]);
}

/// Eight numbers that begin at a multiple of 16 bytes.
template <class T> DEVICE void get8(const T *from, float (&to)[8]) {
    uint4 bits = get_vector<uint4>(from);
    unpack<T>(bits.x, to);
    unpack<T>(bits.y, to + 2);
    unpack<T>(bits.z, to + 4);
    unpack<T>(bits.w, to + 6);
}

DEVICE void get8(const float *from, float (&to)[8]) {
    for (int half = 0; half < 2; half++) {
        float4 four = get_vector<float4>(from + 4 * half);
        to[4 * half] = four.x;
        to[4 * half + 1] = four.y;
        to[4 * half + 2] = four.z;
        to[4 * half + 3] = four.w;
    }
}

template <class T> DEVICE void put8(T *to, const float (&from)[8]) {
    put_vector(to, make_uint4(pack<T>(from[0], from[1]), pack<T>(from[2], from[3]),
                              pack<T>(from[4], from[5]), pack<T>(from[6], from[7])));
}

DEVICE void put8(float *to, const float (&from)[8]) {
    put_vector(to, make_float4(from[0], from[1], from[2], from[3]));
    put_vector(to + 4, make_float4(from[4], from[5], from[6], from[7]));
}

/// The sum over a warp, for all its lanes, in a fixed order.
DEVICE float warp_sum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

/// How numbers are stored: the Rust side's `Format`.
enum Format : uint32_t { F32 = 0, F16 = 1, BF16 = 2 };

/// A number of a buffer whose format is known only when the kernel runs.
DEVICE float get_any(const void *from, uint32_t format, size_t index) {
    switch (format) {
    case F16:
        return widen(get(static_cast<const f16 *>(from), index));
    case BF16:
        return widen(get(static_cast<const bf16 *>(from), index));
    default:
        return get(static_cast<const float *>(from), index);
    }
}

/// What a function of each number is: the Rust side's codes.
enum Function : uint32_t {
    IDENTITY = 0,
    SILU = 1,
    GELU = 2,
    QUICK_GELU = 3,
    RELU = 4,
    GEGLU = 5,
    SOFT_CLAMP = 6
};

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

/// By the error function, not its approximation.
DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

DEVICE float apply(uint32_t function, float x) {
    switch (function) {
    case SILU:
        return silu(x);
    case GELU:
        return gelu(x);
    case QUICK_GELU:
        return x / (1.0f + expf(-1.702f * x));
    case RELU:
        return fmaxf(x, 0.0f);
    case SOFT_CLAMP:
        return 3.0f * tanhf(x / 3.0f);
    default:
        return x;
    }
}
