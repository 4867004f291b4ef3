// The instructions of tensor cores and of copies past the registers, from compute capability 8.0 on. The
// layouts are those of NVIDIA's PTX ISA, chapter "Warp-level matrix instructions".
#pragma once

#include "device.cuh"

/// Copies 16 bytes to shared memory without waiting, or writes zeros there if not `present`.
DEVICE void copy_async(void *to, const void *from, bool present) {
#ifdef EMULATED
    emulated::copy_async(to, from, present ? 16 : 0);
#else
    uint32_t address = uint32_t(__cvta_generic_to_shared(to));
    int bytes = present ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
                 : "memory");
#endif
}

/// Makes one group of the copies since the last one.
DEVICE void copies_commit() {
#ifdef EMULATED
    emulated::copies_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits for this thread's copies, all but those of the last `PENDING` groups. Other threads' copies are
/// there after a barrier behind it.
template <int PENDING> DEVICE void copies_wait() {
#ifdef EMULATED
    emulated::copies_wait(PENDING);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

/// 2ˣ as the hardware has it, to a relative error of about 2e-7; 0 for -∞ and for what would be denormal.
DEVICE float power_of_2(float x) {
#ifdef EMULATED
    return x < -126.0f ? 0.0f : exp2f(x);
#else
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#endif
}

#ifdef EMULATED
namespace emulated {

struct Matrices {
    const unsigned char *row;
    uint32_t *to;
    bool transposed;
};

inline void load_matrices(void *const *arguments) {
    for (int matrix = 0; matrix < 4; matrix++) {
        unsigned banks = 0;
        for (int row = 0; row < 8; row++) {
            auto *from = static_cast<Matrices *>(arguments[matrix * 8 + row]);
            banks |= 1u << reinterpret_cast<uintptr_t>(from->row) / 16 % 8;
        }
        // Right, but slower than it need be.
        if (banks != 0xff) fail("ldmatrix has rows in the same banks");
    }
    for (int lane = 0; lane < 32; lane++) {
        auto *mine = static_cast<Matrices *>(arguments[lane]);
        for (int matrix = 0; matrix < 4; matrix++) {
            uint16_t both[2];
            for (int i = 0; i < 2; i++) {
                int row = mine->transposed ? lane % 4 * 2 + i : lane / 4;
                int column = mine->transposed ? lane / 4 : lane % 4 * 2 + i;
                auto *from = static_cast<Matrices *>(arguments[matrix * 8 + row]);
                memcpy(&both[i], from->row + 2 * column, 2);
            }
            memcpy(&mine->to[matrix], both, 4);
        }
    }
}

struct Product {
    const uint32_t *a, *b;
    float *c;
};

template <class T> void multiply(void *const *arguments) {
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < 32; lane++) {
        auto *mine = static_cast<Product *>(arguments[lane]);
        int group = lane / 4, pair = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            float two[2];
            unpack<T>(mine->a[i], two);
            for (int j = 0; j < 2; j++) a[group + i % 2 * 8][pair + i / 2 * 8 + j] = two[j];
            c[group + i / 2 * 8][pair + i % 2] = mine->c[i];
        }
        for (int i = 0; i < 2; i++) {
            float two[2];
            unpack<T>(mine->b[i], two);
            for (int j = 0; j < 2; j++) b[pair + i * 8 + j][group] = two[j];
        }
    }
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) c[m][n] += a[m][k] * b[k][n];
    for (int lane = 0; lane < 32; lane++) {
        auto *mine = static_cast<Product *>(arguments[lane]);
        for (int i = 0; i < 4; i++) mine->c[i] = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}

} // namespace emulated
#endif

/// Loads four matrices of 8 × 8 numbers of 16 bits from shared memory: lane 8 i + r gives the address of row r
/// of matrix i, and gets of each matrix the numbers 2 (lane % 4) and the next of row lane / 4; transposed,
/// those of column lane / 4.
template <bool TRANSPOSED> DEVICE void load_matrices(uint32_t (&to)[4], const void *row) {
#ifdef EMULATED
    emulated::check_shared(row, 16, 16);
    emulated::Matrices mine{static_cast<const unsigned char *>(row), to, TRANSPOSED};
    emulated::together("ldmatrix", &mine, emulated::load_matrices);
#else
    uint32_t address = uint32_t(__cvta_generic_to_shared(row));
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(address)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(address)
                     : "memory");
#endif
}

/// Which of the two formats of 16 bits.
template <class T> struct IsF16 {
    static constexpr bool value = false;
};
template <> struct IsF16<f16> {
    static constexpr bool value = true;
};

/// `c += a · b` with `a` 16 × 16, `b` 16 × 8, both of `T`, and `c` 16 × 8 of f32. With g = lane / 4 and
/// t = 2 (lane % 4): `a` has rows g and g + 8 at columns t, then both at t + 8; `b` rows t and t + 8 of
/// column g; `c` columns t and t + 1 of row g, then of row g + 8.
template <class T>
DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef EMULATED
    uint32_t b[2] = {b0, b1};
    emulated::Product mine{a, b, c};
    emulated::together("mma", &mine, emulated::multiply<T>);
#else
    if (IsF16<T>::value)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                     "{%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                     "{%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
