// Normalization: over groups of channels of an image, and over the channels of a token.
//
// Sums are of distances from a number that is in the data, so that f32 loses nothing that matters where the
// mean is far from zero, and they are added up in a tree of which every branch is short.
#include "device.cuh"

struct GroupParams {
    const void *input; // (batch, pixels, channels)
    const float *gamma, *beta;
    void *output;
    float *partial; // (batch, groups, blocks, 2)
    uint32_t batch, pixels, channels, groups;
    uint32_t block_pixels, blocks; // of the kernel that sums up, per image
    uint32_t apply_pixels, silu;
    float eps;
    uint32_t unused;
};

struct LayerParams {
    const void *input; // (rows, channels)
    const float *gamma, *beta;
    void *output;
    uint32_t rows, channels;
    float eps;
    uint32_t unused;
};

/// The sum over a block of at most 1024 threads, for all of them, in a fixed order. `scratch` is 32 numbers of
/// shared memory.
DEVICE float block_sum(float value, float *scratch) {
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0.0f);
}

/// A group that a block can keep in shared memory: block x of image y makes group x.
template <class T> DEVICE void group_norm_small(const GroupParams &p) {
    float *scratch = reinterpret_cast<float *>(shared_memory()), *values = scratch + 32;
    const uint32_t per_group = p.channels / p.groups, count = p.pixels * per_group;
    const size_t first = size_t(blockIdx.y) * p.pixels * p.channels + blockIdx.x * per_group;
    const T *input = static_cast<const T *>(p.input) + first;
    T *output = static_cast<T *>(p.output) + first;
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
        values[i] = widen(get(input, size_t(i / per_group) * p.channels + i % per_group));
        sum += values[i];
    }
    // Each thread reads what it wrote.
    const float mean = block_sum(sum, scratch) / float(count);
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
        const float distance = values[i] - mean;
        squares = fmaf(distance, distance, squares);
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, scratch) / float(count) + p.eps);
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
        const uint32_t channel = blockIdx.x * per_group + i % per_group;
        float value = fmaf((values[i] - mean) * scale, get(p.gamma, channel), get(p.beta, channel));
        if (p.silu) value = silu(value);
        put(output, size_t(i / per_group) * p.channels + i % per_group, narrow<T>(value));
    }
}

KERNELS(group_norm_small, GroupParams, 512, group_norm_small)

/// Neighboring channels that a thread reads at once, if the channels are a multiple of it.
constexpr uint32_t SIDE = 8;

/// Reads `WIDTH` channels, 8 or 1.
template <int WIDTH, class T> DEVICE void read_channels(const T *from, float (&to)[WIDTH]) {
    if constexpr (WIDTH == 8)
        get8(from, to);
    else
        to[0] = widen(get(from, 0));
}

template <int WIDTH, class T> DEVICE void write_channels(T *to, const float (&from)[WIDTH]) {
    if constexpr (WIDTH == 8)
        put8(to, from);
    else
        put(to, 0, narrow<T>(from[0]));
}

/// A number near the others of a group: the mean of its channels at the image's first pixel.
template <class T> DEVICE float group_pivot(const T *image, uint32_t group, uint32_t per_group) {
    float sum = 0.0f;
    for (uint32_t i = 0; i < per_group; i++) sum += widen(get(image, group * per_group + i));
    return sum / float(per_group);
}

/// The sums of some pixels of an image, (x - pivot) and its square, for each group. Threads have channels of
/// their own, so that what they read lies side by side.
template <class T, int WIDTH> DEVICE void group_sums_wide(const GroupParams &p) {
    // First all channels' sums for each of the pixels that are read at once, then their total.
    float *shared = reinterpret_cast<float *>(shared_memory());
    const uint32_t per_group = p.channels / p.groups, sides = p.channels / WIDTH;
    const uint32_t at_once = blockDim.x / sides > 1 ? blockDim.x / sides : 1;
    const T *image = static_cast<const T *>(p.input) + size_t(blockIdx.y) * p.pixels * p.channels;
    const uint32_t begin = blockIdx.x * p.block_pixels;
    const uint32_t end = begin + p.block_pixels < p.pixels ? begin + p.block_pixels : p.pixels;
    const uint32_t lane = threadIdx.x / sides;
    float *group_pivots = shared + 2 * at_once * p.channels;
    for (uint32_t group = threadIdx.x; group < p.groups; group += blockDim.x)
        group_pivots[group] = group_pivot(image, group, per_group);
    __syncthreads();
    for (uint32_t side = threadIdx.x % sides; side < sides && lane < at_once; side += blockDim.x) {
        float pivots[WIDTH], sums[WIDTH] = {}, squares[WIDTH] = {};
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            pivots[i] = group_pivots[(side * WIDTH + i) / per_group];
        for (uint32_t pixel = begin + lane; pixel < end; pixel += at_once) {
            float values[WIDTH];
            read_channels<WIDTH>(image + size_t(pixel) * p.channels + side * WIDTH, values);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                const float distance = values[i] - pivots[i];
                sums[i] += distance;
                squares[i] = fmaf(distance, distance, squares[i]);
            }
        }
        float *to = shared + (lane * p.channels + side * WIDTH) * 2;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            to[2 * i] = sums[i];
            to[2 * i + 1] = squares[i];
        }
    }
    __syncthreads();
    // A warp adds up the channels and lanes of a group.
    for (uint32_t group = threadIdx.x / 32; group < p.groups; group += blockDim.x / 32) {
        float sum = 0.0f, square = 0.0f;
        for (uint32_t i = threadIdx.x % 32; i < per_group * at_once; i += 32) {
            const float *from =
                shared + (i / per_group * p.channels + group * per_group + i % per_group) * 2;
            sum += from[0];
            square += from[1];
        }
        sum = warp_sum(sum);
        square = warp_sum(square);
        if (threadIdx.x % 32 == 0) {
            const size_t to = ((size_t(blockIdx.y) * p.groups + group) * p.blocks + blockIdx.x) * 2;
            put(p.partial, to, sum);
            put(p.partial, to + 1, square);
        }
    }
}

template <class T> DEVICE void group_sums(const GroupParams &p) {
    if (p.channels % SIDE == 0)
        group_sums_wide<T, SIDE>(p);
    else
        group_sums_wide<T, 1>(p);
}

KERNELS(group_norm_sums, GroupParams, 512, group_sums)

/// Normalizes some pixels of an image by the sums of all its blocks.
template <class T, int WIDTH> DEVICE void group_apply_wide(const GroupParams &p) {
    // `x · factor + offset` for each channel.
    float *factors = reinterpret_cast<float *>(shared_memory()), *offsets = factors + p.channels;
    const uint32_t per_group = p.channels / p.groups, sides = p.channels / WIDTH;
    const size_t first = size_t(blockIdx.y) * p.pixels * p.channels;
    const T *image = static_cast<const T *>(p.input) + first;
    T *output = static_cast<T *>(p.output) + first;
    for (uint32_t group = threadIdx.x / 32; group < p.groups; group += blockDim.x / 32) {
        const float *from = p.partial + (size_t(blockIdx.y) * p.groups + group) * p.blocks * 2;
        float sum = 0.0f, square = 0.0f;
        for (uint32_t i = threadIdx.x % 32; i < p.blocks; i += 32) {
            const float2 both = get_vector<float2>(from + 2 * i);
            sum += both.x;
            square += both.y;
        }
        const float count = float(p.pixels) * float(per_group);
        const float distance = warp_sum(sum) / count;
        const float variance = fmaxf(warp_sum(square) / count - distance * distance, 0.0f);
        const float mean = group_pivot(image, group, per_group) + distance;
        const float scale = 1.0f / sqrtf(variance + p.eps);
        for (uint32_t i = threadIdx.x % 32; i < per_group; i += 32) {
            const uint32_t channel = group * per_group + i;
            factors[channel] = get(p.gamma, channel) * scale;
            offsets[channel] = get(p.beta, channel) - mean * factors[channel];
        }
    }
    __syncthreads();
    const uint32_t begin = blockIdx.x * p.apply_pixels;
    const uint32_t end = begin + p.apply_pixels < p.pixels ? begin + p.apply_pixels : p.pixels;
    for (uint32_t i = threadIdx.x; i < (end - begin) * sides; i += blockDim.x) {
        const uint32_t channel = i % sides * WIDTH;
        const size_t at = size_t(begin + i / sides) * p.channels + channel;
        float values[WIDTH];
        read_channels<WIDTH>(image + at, values);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            values[j] = fmaf(values[j], factors[channel + j], offsets[channel + j]);
            if (p.silu) values[j] = silu(values[j]);
        }
        write_channels<WIDTH>(output + at, values);
    }
}

template <class T> DEVICE void group_apply(const GroupParams &p) {
    if (p.channels % SIDE == 0)
        group_apply_wide<T, SIDE>(p);
    else
        group_apply_wide<T, 1>(p);
}

KERNELS(group_norm_apply, GroupParams, 512, group_apply)

/// One row per warp, which reads it three times; it stays in the first-level cache.
template <class T, int WIDTH> DEVICE void layer_norm_wide(const LayerParams &p) {
    const uint32_t row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= p.rows) return;
    const T *input = static_cast<const T *>(p.input) + size_t(row) * p.channels;
    T *output = static_cast<T *>(p.output) + size_t(row) * p.channels;
    float values[WIDTH], sum = 0.0f, squares = 0.0f;
    for (uint32_t c = lane * WIDTH; c < p.channels; c += 32 * WIDTH) {
        read_channels<WIDTH>(input + c, values);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) sum += values[i];
    }
    const float mean = warp_sum(sum) / float(p.channels);
    for (uint32_t c = lane * WIDTH; c < p.channels; c += 32 * WIDTH) {
        read_channels<WIDTH>(input + c, values);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) squares = fmaf(values[i] - mean, values[i] - mean, squares);
    }
    const float scale = 1.0f / sqrtf(warp_sum(squares) / float(p.channels) + p.eps);
    for (uint32_t c = lane * WIDTH; c < p.channels; c += 32 * WIDTH) {
        float gammas[WIDTH], betas[WIDTH];
        read_channels<WIDTH>(input + c, values);
        read_channels<WIDTH>(p.gamma + c, gammas);
        read_channels<WIDTH>(p.beta + c, betas);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) values[i] = fmaf((values[i] - mean) * scale, gammas[i], betas[i]);
        write_channels<WIDTH>(output + c, values);
    }
}

template <class T> DEVICE void layer_norm(const LayerParams &p) {
    if (p.channels % SIDE == 0)
        layer_norm_wide<T, SIDE>(p);
    else
        layer_norm_wide<T, 1>(p);
}

KERNELS(layer_norm, LayerParams, 128, layer_norm)
