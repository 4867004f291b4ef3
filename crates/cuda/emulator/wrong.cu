// Kernels with the mistakes that the emulator is there to find, and one without, for its own test.
#include "../kernels/mma.cuh"

struct WrongParams {
    float *values;
    uint32_t mistake;
    uint32_t length;
};

enum Mistake : uint32_t {
    NONE,
    SHARED_WRITE,
    DIVERGENT_BARRIER,
    EARLY_EXIT,
    NO_WAIT,
    NO_BARRIER,
    GLOBAL_READ,
    MISALIGNED,
    DIVERGENT_WARP,
    UNCHECKED_WRITE,
};

/// Turns the numbers of each block of 64 around, by way of shared memory.
static void turn_around(const WrongParams &p) {
    float *shared = reinterpret_cast<float *>(shared_memory());
    unsigned thread = threadIdx.x, first = blockIdx.x * blockDim.x;
    if (thread < 16) copy_async(shared + 4 * thread, p.values + first + 4 * thread, true);
    copies_commit();
    if (p.mistake != NO_WAIT) copies_wait<0>();
    if (p.mistake == SHARED_WRITE && thread == 5) shared[64] = 1.0f;
    if (p.mistake == EARLY_EXIT && thread == 40) return;
    if (p.mistake == DIVERGENT_BARRIER && thread >= 32)
        __syncthreads();
    else if (p.mistake != NO_BARRIER)
        __syncthreads();
    float value = shared[63 - thread];
    if (p.mistake == DIVERGENT_WARP && thread % 32 < 16) value = __shfl_xor_sync(0xffffu, value, 1);
    if (p.mistake == GLOBAL_READ) value = get(p.values, p.length + thread);
    if (p.mistake == MISALIGNED) value = get_vector<float4>(p.values + 1).x;
    if (p.mistake == UNCHECKED_WRITE) p.values[p.length] = 1.0f;
    put(p.values, first + thread, value);
}

KERNEL(turn_around_wrongly, WrongParams, 64, turn_around(p))
