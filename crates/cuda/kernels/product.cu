// Matrix products: linear layers and convolutions, without a copy of the input in another order.
//
// A result is a matrix with a row for each output pixel and a column for each output of the layer. It is the
// product of the weights, (outputs, depth), and of a matrix that is never made: for each output pixel the
// inputs that the kernel's taps see, tap by tap, `depth` numbers. Tiles of both are read into shared memory,
// where what lies beyond an image or the depth is zero.
#include "mma.cuh"

struct ProductParams {
    const void *input;      // (batch, height, width, channels)
    const void *weights;    // (outputs, kernel, kernel, channels)
    const float *bias;      // (outputs), or null
    const void *image_rows; // (batch, outputs), or null
    const void *residual;   // as the result, or null
    void *output;           // (batch, out_height, out_width, outputs)
    float *partial;         // (splits, pixels, outputs): unfinished sums go there, if it is not null
    uint32_t batch, height, width, channels;
    uint32_t out_height, out_width, outputs;
    uint32_t kernel, stride, before;
    uint32_t seen_height, seen_width; // of the image that the window moves over
    uint32_t doubled;                 // 1 if its pixels are the input's, each repeated
    uint32_t function;
    uint32_t split_depth; // how much of the depth a block sums up
    uint32_t unused;
};

struct FinishParams {
    const void *sums;       // (splits, pixels, outputs)
    const float *bias;      // (outputs), or null
    const void *image_rows; // (images, outputs), or null
    const void *residual;   // as the result, or null
    void *output;           // (pixels, outputs), or half as wide if gated
    uint32_t pixels, image_pixels, outputs;
    uint32_t splits, function, unused;
};

/// How many numbers wide the result is.
DEVICE uint32_t result_width(uint32_t function, uint32_t outputs) {
    return function == GEGLU ? outputs / 2 : outputs;
}

/// What happens to sums before they are rounded: `P` has bias, image_rows, residual, output and function.
template <class T, class P> struct End {
    const P &p;
    uint32_t image_pixels;

    /// Up to eight sums of a pixel, from output `first` on; gated, `gates` are those of the same places.
    __device__ __forceinline__ void store(uint32_t pixel, uint32_t first, float (&sums)[8],
                                          const float (&gates)[8]) const {
        const T *residual = static_cast<const T *>(p.residual);
        T *output = static_cast<T *>(p.output);
        const uint32_t width = result_width(p.function, p.outputs);
        const size_t at = size_t(pixel) * width + first;
        const bool gated = p.function == GEGLU, whole = width % 8 == 0;
        if (gated) {
            float offsets[8];
            row(offsets, p.bias, first, width, whole);
            add(sums, offsets);
            row(offsets, p.bias ? p.bias + width : p.bias, first, width, whole);
            add(offsets, gates);
#pragma unroll
            for (int i = 0; i < 8; i++) sums[i] *= gelu(offsets[i]);
        } else {
            float terms[8];
            row(terms, p.bias, first, width, whole);
            add(sums, terms);
            if (p.image_rows) {
                const T *rows = static_cast<const T *>(p.image_rows);
                row(terms, rows + size_t(pixel / image_pixels) * width, first, width, whole);
                add(sums, terms);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) sums[i] = apply(p.function, sums[i]);
        }
        if (residual) {
            float terms[8];
            row(terms, residual + size_t(pixel) * width, first, width, whole);
            add(sums, terms);
        }
        if (whole) {
            put8(output + at, sums);
        } else {
            for (int i = 0; i < 8; i++)
                if (first + i < width) put(output, at + i, narrow<T>(sums[i]));
        }
    }

  private:
    static __device__ __forceinline__ void add(float (&to)[8], const float (&terms)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) to[i] += terms[i];
    }

    /// Eight numbers of a row, zeros where there are none.
    template <class N>
    static __device__ __forceinline__ void row(float (&to)[8], const N *row, uint32_t first,
                                               uint32_t width, bool whole) {
        if (row && whole) return get8(row + first, to);
#pragma unroll
        for (int i = 0; i < 8; i++)
            to[i] = row && first + i < width ? widen(get(row, first + i)) : 0.0f;
    }
};

/// Where a row of the unmade matrix is in the input.
struct Pixel {
    size_t image; // the first number of its image
    int y, x;     // of the window's first tap
};

/// `y` so far outside that no tap of it is inside.
#define NOWHERE (-(1 << 20))

DEVICE Pixel pixel_of(const ProductParams &p, uint32_t row) {
    const uint32_t image_pixels = p.out_height * p.out_width;
    if (row >= p.batch * image_pixels) return {0, NOWHERE, 0};
    const uint32_t image = row / image_pixels, rest = row % image_pixels;
    return {size_t(image) * p.height * p.width * p.channels,
            int(rest / p.out_width * p.stride) - int(p.before),
            int(rest % p.out_width * p.stride) - int(p.before)};
}

/// A place in the depth: a tap and a channel.
struct Place {
    uint32_t tap_y, tap_x, channel;

    __device__ __forceinline__ void start(const ProductParams &p, uint32_t depth) {
        const uint32_t tap = depth / p.channels;
        channel = depth % p.channels;
        tap_y = tap / p.kernel;
        tap_x = tap % p.kernel;
    }

    __device__ __forceinline__ void advance(const ProductParams &p, uint32_t by) {
        channel += by;
        while (channel >= p.channels) {
            channel -= p.channels;
            if (++tap_x == p.kernel) {
                tap_x = 0;
                tap_y++;
            }
        }
    }

    /// Whether the tap sees a pixel of the image, and where it is from the image's first number.
    __device__ __forceinline__ bool find(const ProductParams &p, const Pixel &pixel,
                                         uint32_t &offset) const {
        const int y = pixel.y + int(tap_y), x = pixel.x + int(tap_x);
        const bool inside = tap_y < p.kernel && uint32_t(y) < p.seen_height && uint32_t(x) < p.seen_width;
        offset = inside ? ((uint32_t(y) >> p.doubled) * p.width + (uint32_t(x) >> p.doubled)) * p.channels +
                              channel
                        : 0;
        return inside;
    }
};

/// Which tile a block makes. Neighboring blocks make tiles of the same eight rows of tiles, so that what they
/// read is still in the cache.
DEVICE void tile_of(uint32_t rows, uint32_t columns, uint32_t &row, uint32_t &column) {
    const uint32_t GROUP = 8;
    const uint32_t group = blockIdx.x / (GROUP * columns), rest = blockIdx.x % (GROUP * columns);
    const uint32_t height = rows - group * GROUP < GROUP ? rows - group * GROUP : GROUP;
    row = group * GROUP + rest % height;
    column = rest / height;
}

/// Steps that are on their way at once.
constexpr int STAGES = 3;

/// A step of the depth: four times 16 bytes of each row of a tile.
template <class T> struct Step {
    static constexpr int PART = 16 / sizeof(T), LENGTH = 4 * PART;
    /// Numbers from one row of a tile to the next.
    static constexpr int PITCH = sizeof(T) == 2 ? LENGTH : LENGTH + 4;

    /// Where a tile in shared memory has a part of a row. Eight rows' same parts are in all different banks:
    /// those of 16 bits by a permutation, those of f32 by the pitch.
    static __device__ __forceinline__ T *place(T *tile, int row, int part) {
        return tile + row * PITCH + (sizeof(T) == 2 ? part ^ (row >> 1 & 3) : part) * PART;
    }
};

/// Copies tiles of both matrices to shared memory, ROWS pixels and COLUMNS outputs, step by step.
template <class T, int ROWS, int COLUMNS, int THREADS> struct Source {
    static constexpr int A_PARTS = ROWS * 4 / THREADS, B_PARTS = COLUMNS * 4 / THREADS;
    static constexpr int STAGE = (ROWS + COLUMNS) * Step<T>::PITCH;

    const ProductParams &p;
    const uint32_t depth;
    // What this thread copies: one part of some rows of either tile.
    const int row, part;
    Pixel rows[A_PARTS];
    const T *weights[B_PARTS];
    uint32_t at, end;
    int steps;
    Place place;

    __device__ __forceinline__ Source(const ProductParams &p, uint32_t first_row, uint32_t first_column, bool gated)
        : p(p), depth(p.kernel * p.kernel * p.channels), row(threadIdx.x / 4), part(threadIdx.x % 4) {
#pragma unroll
        for (int i = 0; i < A_PARTS; i++) rows[i] = pixel_of(p, first_row + row + i * (THREADS / 4));
#pragma unroll
        for (int i = 0; i < B_PARTS; i++) {
            const uint32_t column = first_column + row + i * (THREADS / 4);
            uint32_t output = column;
            if (gated) output = column / 16 * 8 + column % 8 + (column % 16 < 8 ? 0 : p.outputs / 2);
            weights[i] = column < p.outputs
                             ? static_cast<const T *>(p.weights) + size_t(output) * depth
                             : nullptr;
        }
        const uint32_t begin = blockIdx.z * p.split_depth;
        end = begin + p.split_depth < depth ? begin + p.split_depth : depth;
        steps = int((end - begin + Step<T>::LENGTH - 1) / Step<T>::LENGTH);
        at = begin + part * Step<T>::PART;
        place.start(p, at);
    }

    __device__ __forceinline__ void copy(T *a) {
        T *b = a + ROWS * Step<T>::PITCH;
        const bool within = at < end;
#pragma unroll
        for (int i = 0; i < A_PARTS; i++) {
            uint32_t offset;
            const bool inside = place.find(p, rows[i], offset) && within;
            const T *from = static_cast<const T *>(p.input) + (inside ? rows[i].image + offset : 0);
            copy_async(Step<T>::place(a, row + i * (THREADS / 4), part), from, inside);
        }
#pragma unroll
        for (int i = 0; i < B_PARTS; i++) {
            const bool inside = weights[i] && within;
            const T *from = inside ? weights[i] + at : static_cast<const T *>(p.weights);
            copy_async(Step<T>::place(b, row + i * (THREADS / 4), part), from, inside);
        }
        at += Step<T>::LENGTH;
        place.advance(p, Step<T>::LENGTH);
    }

    /// Goes through all steps: `multiply(a, b)` sees the tiles of one after the other.
    template <class F> __device__ __forceinline__ void run(T *shared, F multiply) {
#pragma unroll
        for (int stage = 0; stage < STAGES - 1; stage++) {
            if (stage < steps) copy(shared + stage * STAGE);
            copies_commit();
        }
        for (int step = 0; step < steps; step++) {
            copies_wait<STAGES - 2>();
            // Now everybody's copies are there, and nobody reads the stage that is written next.
            __syncthreads();
            if (step + STAGES - 1 < steps) copy(shared + (step + STAGES - 1) % STAGES * STAGE);
            copies_commit();
            T *a = shared + step % STAGES * STAGE;
            multiply(a, a + ROWS * Step<T>::PITCH);
        }
    }
};

/// Products of 16 bits on tensor cores: a tile of ROWS pixels by COLUMNS outputs per block, of which each warp
/// makes WARP_ROWS by WARP_COLUMNS. The channels are a multiple of 8.
template <class T, int ROWS, int COLUMNS, int WARP_ROWS, int WARP_COLUMNS>
DEVICE void product_tiled(const ProductParams &p) {
    constexpr int WARPS_DOWN = ROWS / WARP_ROWS, WARPS = WARPS_DOWN * (COLUMNS / WARP_COLUMNS);
    constexpr int M = WARP_ROWS / 16, N = WARP_COLUMNS / 8;
    T *shared = reinterpret_cast<T *>(shared_memory());

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t pixels = p.batch * p.out_height * p.out_width;
    // Values and gates are neighbors, eight by eight, so that one thread gets both. There are a multiple of
    // eight of each.
    const bool gated = p.function == GEGLU && !p.partial;
    uint32_t tile_row, tile_column;
    tile_of((pixels + ROWS - 1) / ROWS, (p.outputs + COLUMNS - 1) / COLUMNS, tile_row, tile_column);
    const uint32_t first_row = tile_row * ROWS, first_column = tile_column * COLUMNS;

    float sums[M][N][4] = {};
    const int warp_row = warp % WARPS_DOWN * WARP_ROWS, warp_column = warp / WARPS_DOWN * WARP_COLUMNS;
    Source<T, ROWS, COLUMNS, 32 * WARPS> source(p, first_row, first_column, gated);
    source.run(shared, [&](T *a, T *b) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            uint32_t left[M][4], right[N / 2][4];
#pragma unroll
            for (int m = 0; m < M; m++)
                load_matrices<false>(left[m],
                                     Step<T>::place(a, warp_row + m * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
            for (int n = 0; n < N / 2; n++)
                load_matrices<false>(right[n],
                                     Step<T>::place(b, warp_column + n * 16 + lane % 8 + lane / 16 * 8,
                                                    k * 2 + lane / 8 % 2));
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int n = 0; n < N; n++)
                    multiply<T>(sums[m][n], left[m], right[n / 2][n % 2 * 2], right[n / 2][n % 2 * 2 + 1]);
        }
    });
    __syncthreads();

    // Sixteen rows at a time go through shared memory, so that a thread has eight neighbors to store at once.
    constexpr int PITCH = WARP_COLUMNS + 8;
    float *mine = reinterpret_cast<float *>(shared_memory()) + warp * 16 * PITCH;
    End<T, ProductParams> finish{p, p.out_height * p.out_width};
#pragma unroll
    for (int m = 0; m < M; m++) {
        __syncwarp();
#pragma unroll
        for (int n = 0; n < N; n++) {
            float *to = mine + lane / 4 * PITCH + n * 8 + lane % 4 * 2;
            put_shared(to, make_float2(sums[m][n][0], sums[m][n][1]));
            put_shared(to + 8 * PITCH, make_float2(sums[m][n][2], sums[m][n][3]));
        }
        __syncwarp();
        const int parts = WARP_COLUMNS / (gated ? 16 : 8);
        for (int i = lane; i < 16 * parts; i += 32) {
            const int row = i / parts, column = i % parts;
            const uint32_t pixel = first_row + warp_row + m * 16 + row;
            const uint32_t first = (first_column + warp_column) / (gated ? 2 : 1) + column * 8;
            if (pixel >= pixels || first >= p.outputs / (gated ? 2 : 1)) continue;
            float values[8], gates[8];
            const float *from = mine + row * PITCH + column * (gated ? 16 : 8);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const float4 four = get_shared<float4>(from + 4 * j);
                values[4 * j] = four.x;
                values[4 * j + 1] = four.y;
                values[4 * j + 2] = four.z;
                values[4 * j + 3] = four.w;
                const float4 gate = get_shared<float4>(from + (gated ? 8 : 0) + 4 * j);
                gates[4 * j] = gate.x;
                gates[4 * j + 1] = gate.y;
                gates[4 * j + 2] = gate.z;
                gates[4 * j + 3] = gate.w;
            }
            if (!p.partial) {
                finish.store(pixel, first, values, gates);
                continue;
            }
            float *to = p.partial + (size_t(blockIdx.z) * pixels + pixel) * p.outputs + first;
            if (p.outputs % 8 == 0)
                put8(to, values);
            else
                for (int j = 0; j < 8; j++)
                    if (first + j < p.outputs) put(to, j, values[j]);
        }
    }
}

#define PRODUCT(name, threads, ...)                                                                \
    KERNEL(name##_f16, ProductParams, threads, product_tiled<f16, __VA_ARGS__>(p))                 \
    KERNEL(name##_bf16, ProductParams, threads, product_tiled<bf16, __VA_ARGS__>(p))

PRODUCT(product_128x128, 256, 128, 128, 64, 32)
PRODUCT(product_128x64, 128, 128, 64, 64, 32)
PRODUCT(product_64x64, 128, 64, 64, 32, 32)

/// Finishes or sets aside one sum.
template <class T> DEVICE void put_sum(const ProductParams &p, uint32_t pixel, uint32_t output, float sum) {
    const size_t at = size_t(pixel) * p.outputs + output;
    if (p.partial) {
        const size_t pixels = size_t(p.batch) * p.out_height * p.out_width;
        return put(p.partial, blockIdx.z * pixels * p.outputs + at, sum);
    }
    if (p.bias) sum += get(p.bias, output);
    if (p.image_rows) {
        const uint32_t image = pixel / (p.out_height * p.out_width);
        sum += widen(get(static_cast<const T *>(p.image_rows), size_t(image) * p.outputs + output));
    }
    sum = apply(p.function, sum);
    if (p.residual) sum += widen(get(static_cast<const T *>(p.residual), at));
    put(static_cast<T *>(p.output), at, narrow<T>(sum));
}

/// Products of f32: 128 pixels by 64 outputs, of which each of 256 threads makes 8 by 4, every sixteenth of
/// either. The channels are a multiple of 4.
DEVICE void product_exact(const ProductParams &p) {
    constexpr int ROWS = 128, COLUMNS = 64, M = ROWS / 16, N = COLUMNS / 16;
    const int column = threadIdx.x % 16, row = threadIdx.x / 16;
    const uint32_t pixels = p.batch * p.out_height * p.out_width;
    uint32_t tile_row, tile_column;
    tile_of((pixels + ROWS - 1) / ROWS, (p.outputs + COLUMNS - 1) / COLUMNS, tile_row, tile_column);
    const uint32_t first_row = tile_row * ROWS, first_column = tile_column * COLUMNS;
    float sums[M][N] = {};
    Source<float, ROWS, COLUMNS, 256> source(p, first_row, first_column, false);
    source.run(reinterpret_cast<float *>(shared_memory()), [&](float *a, float *b) {
#pragma unroll
        for (int part = 0; part < 4; part++) {
            float4 left[M];
#pragma unroll
            for (int m = 0; m < M; m++) left[m] = get_shared<float4>(Step<float>::place(a, row + m * 16, part));
#pragma unroll
            for (int n = 0; n < N; n++) {
                const float4 right = get_shared<float4>(Step<float>::place(b, column + n * 16, part));
#pragma unroll
                for (int m = 0; m < M; m++) {
                    float sum = fmaf(left[m].x, right.x, sums[m][n]);
                    sum = fmaf(left[m].y, right.y, sum);
                    sum = fmaf(left[m].z, right.z, sum);
                    sums[m][n] = fmaf(left[m].w, right.w, sum);
                }
            }
        }
    });
#pragma unroll
    for (int m = 0; m < M; m++) {
        const uint32_t pixel = first_row + row + m * 16;
#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint32_t output = first_column + column + n * 16;
            if (pixel < pixels && output < p.outputs) put_sum<float>(p, pixel, output, sums[m][n]);
        }
    }
}

KERNEL(product_128x64_f32, ProductParams, 256, product_exact(p))

/// Products for any number of channels, on no tensor cores: 64 pixels by 64 outputs, of which each of
/// 256 threads makes 4 by 4.
template <class T> DEVICE void product_plain(const ProductParams &p) {
    constexpr int TILE = 64, DEPTH = 16, PITCH = TILE + 4;
    float *a = reinterpret_cast<float *>(shared_memory()), *b = a + DEPTH * PITCH;
    const int thread = threadIdx.x, column = thread % 16, row = thread / 16;
    const uint32_t pixels = p.batch * p.out_height * p.out_width;
    const uint32_t depth = p.kernel * p.kernel * p.channels;
    uint32_t tile_row, tile_column;
    tile_of((pixels + TILE - 1) / TILE, (p.outputs + TILE - 1) / TILE, tile_row, tile_column);
    const uint32_t first_row = tile_row * TILE, first_column = tile_column * TILE;

    // This thread reads place `column` of each step, of four pixels and four outputs.
    Pixel rows[4];
#pragma unroll
    for (int i = 0; i < 4; i++) rows[i] = pixel_of(p, first_row + row + i * 16);
    const uint32_t begin = blockIdx.z * p.split_depth;
    const uint32_t end = begin + p.split_depth < depth ? begin + p.split_depth : depth;
    Place place;
    place.start(p, begin + column);
    float next_a[4], next_b[4];
    auto read = [&](uint32_t at) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t offset;
            const bool inside = place.find(p, rows[i], offset) && at < end;
            next_a[i] = inside ? widen(get(static_cast<const T *>(p.input), rows[i].image + offset)) : 0.0f;
            const uint32_t output = first_column + row + i * 16;
            const bool there = output < p.outputs && at < end;
            next_b[i] = there ? widen(get(static_cast<const T *>(p.weights), size_t(output) * depth + at)) : 0.0f;
        }
        place.advance(p, DEPTH);
    };

    float sums[4][4] = {};
    read(begin + column);
    for (uint32_t at = begin; at < end; at += DEPTH) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[column * PITCH + row + i * 16] = next_a[i];
            b[column * PITCH + row + i * 16] = next_b[i];
        }
        __syncthreads();
        read(at + DEPTH + column);
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            const float4 left = get_shared<float4>(a + k * PITCH + row * 4);
            const float4 right = get_shared<float4>(b + k * PITCH + column * 4);
            const float lefts[4] = {left.x, left.y, left.z, left.w};
            const float rights[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(lefts[i], rights[j], sums[i][j]);
        }
    }

#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t pixel = first_row + row * 4 + i;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint32_t output = first_column + column * 4 + j;
            if (pixel >= pixels || output >= p.outputs) continue;
            put_sum<T>(p, pixel, output, sums[i][j]);
        }
    }
}

KERNELS(product_plain, ProductParams, 256, product_plain)

/// Adds up what the blocks made of their parts of the depth, the first part first, and finishes it. A thread
/// makes eight numbers of a row.
template <class T, class S> DEVICE void finish(const FinishParams &p) {
    const uint32_t width = result_width(p.function, p.outputs), parts = (width + 7) / 8;
    const size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= size_t(p.pixels) * parts) return;
    const uint32_t pixel = uint32_t(index / parts), first = uint32_t(index % parts) * 8;
    auto add_up = [&](float (&sums)[8], uint32_t from) {
#pragma unroll
        for (int i = 0; i < 8; i++) sums[i] = 0.0f;
        const int count = width - first < 8 ? int(width - first) : 8;
        for (uint32_t split = 0; split < p.splits; split++) {
            const size_t at = (size_t(split) * p.pixels + pixel) * p.outputs + from;
            const S *part = static_cast<const S *>(p.sums) + at;
            if (width % 8 == 0) {
                float terms[8];
                get8(part, terms);
#pragma unroll
                for (int i = 0; i < 8; i++) sums[i] += terms[i];
            } else {
                for (int i = 0; i < count; i++) sums[i] += widen(get(part, i));
            }
        }
    };
    float sums[8], gates[8];
    add_up(sums, first);
    if (p.function == GEGLU) add_up(gates, width + first);
    End<T, FinishParams>{p, p.image_pixels}.store(pixel, first, sums, gates);
}

template <class T> DEVICE void finish_splits(const FinishParams &p) { finish<T, float>(p); }
template <class T> DEVICE void finish_stored(const FinishParams &p) { finish<T, T>(p); }

KERNELS(product_splits, FinishParams, 256, finish_splits)
KERNELS(product_finish, FinishParams, 256, finish_stored)
