// Functions of single numbers, and copies: activations, sums, concatenation, other orders and formats.
#include "device.cuh"

struct EachParams {
    const void *input, *other; // `other` is only for sums
    void *output;
    uint64_t count;
    float factor, offset; // of what the function is given
    uint32_t function, unused;
};

struct ConcatParams {
    const void *left, *right; // (rows, left_channels), (rows, right_channels)
    void *output;
    uint32_t rows, left_channels, right_channels, unused;
};

struct PlanesParams {
    const void *input;
    void *output;
    uint32_t batch, pixels, channels, unused;
};

struct ConvertParams {
    const void *input;
    void *output;
    uint64_t count;
    uint32_t from, unused;
};

struct ScaleParams {
    const float *input;  // (rows, columns)
    const float *scales; // (columns)
    void *output;
    uint64_t count;
    uint32_t columns, unused;
};

/// The first of the numbers of a thread, or the rest of a buffer's. Every buffer begins at a multiple of 16
/// bytes, so every eighth number does too.
DEVICE size_t first_of_eight() { return (size_t(blockIdx.x) * blockDim.x + threadIdx.x) * 8; }

/// Eight numbers or those that there are.
template <class T> DEVICE void get_up_to_8(const T *from, size_t at, size_t count, float (&to)[8]) {
    if (at + 8 <= count) return get8(from + at, to);
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = at + i < count ? widen(get(from, at + i)) : 0.0f;
}

template <class T> DEVICE void put_up_to_8(T *to, size_t at, size_t count, const float (&from)[8]) {
    if (at + 8 <= count) return put8(to + at, from);
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (at + i < count) put(to, at + i, narrow<T>(from[i]));
}

template <class T> DEVICE void each(const EachParams &p) {
    const size_t at = first_of_eight();
    if (at >= p.count) return;
    float values[8];
    get_up_to_8(static_cast<const T *>(p.input), at, p.count, values);
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] = apply(p.function, fmaf(values[i], p.factor, p.offset));
    if (p.other) {
        float others[8];
        get_up_to_8(static_cast<const T *>(p.other), at, p.count, others);
#pragma unroll
        for (int i = 0; i < 8; i++) values[i] += others[i];
    }
    put_up_to_8(static_cast<T *>(p.output), at, p.count, values);
}

KERNELS(each, EachParams, 256, each)

/// Copies rows side by side, in pieces of a type that divides both.
template <class V> DEVICE void concat_pieces(const ConcatParams &p, uint32_t left, uint32_t right) {
    const size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= size_t(p.rows) * (left + right)) return;
    const size_t row = index / (left + right), column = index % (left + right);
    const V value = column < left ? get(static_cast<const V *>(p.left), row * left + column)
                                  : get(static_cast<const V *>(p.right), row * right + column - left);
    put(static_cast<V *>(p.output), index, value);
}

/// By bytes, whatever the numbers are: `concat_16` copies 16 at once.
DEVICE void concat(const ConcatParams &p, uint32_t bytes) {
    if (bytes == 16)
        concat_pieces<uint4>(p, p.left_channels, p.right_channels);
    else if (bytes == 4)
        concat_pieces<uint32_t>(p, p.left_channels, p.right_channels);
    else
        concat_pieces<uint16_t>(p, p.left_channels, p.right_channels);
}

KERNEL(concat_16, ConcatParams, 256, concat(p, 16))
KERNEL(concat_4, ConcatParams, 256, concat(p, 4))
KERNEL(concat_2, ConcatParams, 256, concat(p, 2))

/// A tile of 32 pixels by 32 channels, turned around in shared memory, so that both sides are read and written
/// side by side.
constexpr uint32_t TURN = 32;

template <class From, class To, bool TO_PLANES> DEVICE void turn(const PlanesParams &p) {
    float *tile = reinterpret_cast<float *>(shared_memory());
    const size_t image = size_t(blockIdx.z) * p.pixels * p.channels;
    const From *input = static_cast<const From *>(p.input) + image;
    To *output = static_cast<To *>(p.output) + image;
    // Both are matrices: (rows, columns) to (columns, rows).
    const uint32_t rows = TO_PLANES ? p.pixels : p.channels, columns = TO_PLANES ? p.channels : p.pixels;
    const uint32_t pixel_tile = blockIdx.x * TURN, channel_tile = blockIdx.y * TURN;
    const uint32_t first_row = TO_PLANES ? pixel_tile : channel_tile;
    const uint32_t first_column = TO_PLANES ? channel_tile : pixel_tile;
    const uint32_t x = threadIdx.x % TURN;
    for (uint32_t y = threadIdx.x / TURN; y < TURN; y += blockDim.x / TURN) {
        if (first_row + y >= rows || first_column + x >= columns) continue;
        tile[y * (TURN + 1) + x] =
            widen(get(input, size_t(first_row + y) * columns + first_column + x));
    }
    __syncthreads();
    for (uint32_t y = threadIdx.x / TURN; y < TURN; y += blockDim.x / TURN) {
        if (first_column + y >= columns || first_row + x >= rows) continue;
        put(output, size_t(first_column + y) * rows + first_row + x, narrow<To>(tile[x * (TURN + 1) + y]));
    }
}

template <class T> DEVICE void from_planes(const PlanesParams &p) { turn<float, T, false>(p); }
template <class T> DEVICE void to_planes(const PlanesParams &p) { turn<T, float, true>(p); }

KERNELS(from_planes, PlanesParams, 256, from_planes)
KERNELS(to_planes, PlanesParams, 256, to_planes)

template <class T> DEVICE void convert(const ConvertParams &p) {
    const size_t at = first_of_eight();
    if (at >= p.count) return;
    float values[8];
    if (p.from == F16)
        get_up_to_8(static_cast<const f16 *>(p.input), at, p.count, values);
    else if (p.from == BF16)
        get_up_to_8(static_cast<const bf16 *>(p.input), at, p.count, values);
    else
        get_up_to_8(static_cast<const float *>(p.input), at, p.count, values);
    put_up_to_8(static_cast<T *>(p.output), at, p.count, values);
}

KERNELS(convert, ConvertParams, 256, convert)

template <class T> DEVICE void scale_columns(const ScaleParams &p) {
    const size_t at = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= p.count) return;
    const float scaled = get(p.input, at) * get(p.scales, at % p.columns);
    put(static_cast<T *>(p.output), at, narrow<T>(scaled));
}

KERNELS(scale_columns, ScaleParams, 256, scale_columns)
