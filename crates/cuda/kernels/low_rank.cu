// The weights that a layer works with: those of a file, changed by adapters, rounded, and in the order in which
// products read them.
//
// A stack of adapters changes a weight by a sum of products of thin matrices; with all left factors side by side
// and all right ones below each other it is one product. The file's weight and the result, which are what takes
// time, are each passed once.
#include "mma.cuh"

struct LowRankParams {
    const void *base;  // (outputs, inputs, taps), as `base_format` says
    const float *rest; // the same, or null: what is added besides
    const void *left;  // (outputs, ranks)
    const void *right; // (ranks, inputs, taps)
    void *output;      // (outputs, taps, inputs)
    uint32_t outputs, inputs, taps, ranks;
    uint32_t block_inputs; // of a block; times the taps at most COLUMNS
    uint32_t base_format;
};

/// The most numbers of a row of the weight that a block makes: 32 inputs of a 3 × 3 kernel.
constexpr int COLUMNS = 288;

/// What a block makes: some outputs, and some inputs with all their taps, which lie side by side in the file.
struct Piece {
    uint32_t first_output, first_input, columns, width;
    size_t first_column;
    __device__ __forceinline__ Piece(const LowRankParams &p, uint32_t outputs) {
        first_output = blockIdx.y * outputs;
        first_input = blockIdx.x * p.block_inputs;
        const uint32_t inputs = p.inputs - first_input < p.block_inputs ? p.inputs - first_input : p.block_inputs;
        columns = inputs * p.taps;
        width = p.inputs * p.taps;
        first_column = size_t(first_input) * p.taps;
    }

    /// Where a number is in a row of the result that is as long as this piece: tap by tap.
    __device__ __forceinline__ uint32_t place(const LowRankParams &p, uint32_t column) const {
        return column % p.taps * p.block_inputs + column / p.taps;
    }
};

/// A number of the file's weight, with what is added besides.
DEVICE float base_number(const LowRankParams &p, size_t at) {
    const float number = get_any(p.base, p.base_format, at);
    return p.rest ? number + get(p.rest, at) : number;
}

/// Two neighboring numbers; the first is at an even place, and the buffer's end is not between them.
DEVICE float2 base_pair(const LowRankParams &p, size_t at) {
    float pair[2];
    if (p.base_format == F16)
        unpack<f16>(get_vector<uint32_t>(static_cast<const f16 *>(p.base) + at), pair);
    else if (p.base_format == BF16)
        unpack<bf16>(get_vector<uint32_t>(static_cast<const bf16 *>(p.base) + at), pair);
    else {
        const float2 both = get_vector<float2>(static_cast<const float *>(p.base) + at);
        pair[0] = both.x;
        pair[1] = both.y;
    }
    if (p.rest) {
        const float2 rest = get_vector<float2>(p.rest + at);
        pair[0] += rest.x;
        pair[1] += rest.y;
    }
    return make_float2(pair[0], pair[1]);
}

/// Writes rows of a piece from shared memory, where they are `pitch` numbers apart, to the result.
template <class T>
DEVICE void write_piece(const LowRankParams &p, const Piece &piece, const T *rows, uint32_t pitch,
                        uint32_t outputs) {
    T *output = static_cast<T *>(p.output);
    const uint32_t inputs = piece.columns / p.taps;
    const uint32_t at_once = sizeof(T) == 2 && p.inputs % 8 == 0 && p.block_inputs % 8 == 0 ? 8 : 1;
    const uint32_t parts = inputs / at_once;
    for (uint32_t i = threadIdx.x; i < outputs * p.taps * parts; i += blockDim.x) {
        const uint32_t part = i % parts * at_once, tap = i / parts % p.taps, row = i / parts / p.taps;
        if (piece.first_output + row >= p.outputs) break;
        const T *from = rows + row * pitch + tap * p.block_inputs + part;
        const size_t to = (size_t(piece.first_output + row) * p.taps + tap) * p.inputs + piece.first_input + part;
        if (at_once == 8)
            put_vector(output + to, get_shared<uint4>(from));
        else
            put(output, to, *from);
    }
}

/// On tensor cores: 64 outputs per block, of eight warps, each of which makes 16 outputs by half of the columns.
template <class T> DEVICE void low_rank_tiled(const LowRankParams &p) {
    constexpr int THREADS = 256, OUTPUTS = 64, DEPTH = 32, N = COLUMNS / 2 / 8;
    constexpr int LEFT_PITCH = DEPTH + 8, PITCH = COLUMNS + 8;
    T *left = reinterpret_cast<T *>(shared_memory()), *right = left + OUTPUTS * LEFT_PITCH;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Piece piece(p, OUTPUTS);
    // Each half of the columns is whole matrices of 16.
    const int half = int((p.block_inputs * p.taps + 31) / 32 * 16);
    const int warp_row = warp / 2 * 16, warp_column = warp % 2 * half;
    const T zero = narrow<T>(0.0f);
    // Whole rows of the right factors are aligned.
    const bool whole = piece.width % 8 == 0 && piece.first_column % 8 == 0 && piece.columns % 8 == 0;

    float sums[N][4] = {};
    for (uint32_t first = 0; first < p.ranks; first += DEPTH) {
        __syncthreads();
        for (int i = threadIdx.x; i < OUTPUTS * DEPTH; i += THREADS) {
            const uint32_t output = piece.first_output + i / DEPTH, rank = first + i % DEPTH;
            const bool inside = output < p.outputs && rank < p.ranks;
            left[i / DEPTH * LEFT_PITCH + i % DEPTH] =
                inside ? get(static_cast<const T *>(p.left), size_t(output) * p.ranks + rank) : zero;
        }
        const T *from = static_cast<const T *>(p.right) + size_t(first) * piece.width + piece.first_column;
        if (whole) {
            const int parts = 2 * half / 8;
            for (int i = threadIdx.x; i < DEPTH * parts; i += THREADS) {
                const uint32_t rank = i / parts, column = i % parts * 8;
                const bool inside = first + rank < p.ranks && column < piece.columns;
                put_shared(right + rank * PITCH + column,
                           inside ? get_vector<uint4>(from + size_t(rank) * piece.width + column)
                                  : make_uint4(0, 0, 0, 0));
            }
        } else {
            for (int i = threadIdx.x; i < DEPTH * 2 * half; i += THREADS) {
                const uint32_t rank = i / (2 * half), column = i % (2 * half);
                const bool inside = first + rank < p.ranks && column < piece.columns;
                right[rank * PITCH + column] = inside ? get(from, size_t(rank) * piece.width + column) : zero;
            }
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
            uint32_t a[4];
            load_matrices<false>(a, left + (warp_row + lane % 16) * LEFT_PITCH + k * 16 + lane / 16 * 8);
#pragma unroll
            for (int n = 0; n < N / 2; n++) {
                if (n * 16 >= half) break;
                uint32_t b[4];
                load_matrices<true>(b, right + (k * 16 + lane % 16) * PITCH + warp_column + n * 16 + lane / 16 * 8);
                multiply<T>(sums[2 * n], a, b[0], b[1]);
                multiply<T>(sums[2 * n + 1], a, b[2], b[3]);
            }
        }
    }
    __syncthreads();

    T *rows = reinterpret_cast<T *>(shared_memory());
    const bool even = piece.width % 2 == 0 && piece.first_column % 2 == 0 && piece.columns % 2 == 0;
#pragma unroll
    for (int n = 0; n < N; n++) {
        const uint32_t column = warp_column + n * 8 + lane % 4 * 2;
        if (n * 8 >= half || column >= piece.columns) continue;
        const uint32_t places[2] = {piece.place(p, column), piece.place(p, column + 1)};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t row = warp_row + lane / 4 + i * 8;
            if (piece.first_output + row >= p.outputs) continue;
            const size_t at = size_t(piece.first_output + row) * piece.width + piece.first_column + column;
            T *to = rows + row * PITCH;
            if (even) {
                const float2 base = base_pair(p, at);
                to[places[0]] = narrow<T>(base.x + sums[n][2 * i]);
                to[places[1]] = narrow<T>(base.y + sums[n][2 * i + 1]);
                continue;
            }
            to[places[0]] = narrow<T>(base_number(p, at) + sums[n][2 * i]);
            if (column + 1 < piece.columns)
                to[places[1]] = narrow<T>(base_number(p, at + 1) + sums[n][2 * i + 1]);
        }
    }
    __syncthreads();
    write_piece(p, piece, rows, PITCH, OUTPUTS);
}

KERNEL(low_rank_f16, LowRankParams, 256, low_rank_tiled<f16>(p))
KERNEL(low_rank_bf16, LowRankParams, 256, low_rank_tiled<bf16>(p))

/// In f32: 16 outputs per block. A thread makes a column, or two.
DEVICE void low_rank_plain(const LowRankParams &p) {
    constexpr int THREADS = 256, OUTPUTS = 16, DEPTH = 32;
    float *left = reinterpret_cast<float *>(shared_memory()), *rows = left + OUTPUTS * DEPTH;
    const Piece piece(p, OUTPUTS);
    const float *right = static_cast<const float *>(p.right) + piece.first_column;
    constexpr int MOST = (COLUMNS + THREADS - 1) / THREADS;
    float sums[MOST][OUTPUTS] = {};
    for (uint32_t first = 0; first < p.ranks; first += DEPTH) {
        __syncthreads();
        for (int i = threadIdx.x; i < OUTPUTS * DEPTH; i += THREADS) {
            const uint32_t output = piece.first_output + i / DEPTH, rank = first + i % DEPTH;
            const bool inside = output < p.outputs && rank < p.ranks;
            left[i] = inside ? get(static_cast<const float *>(p.left), size_t(output) * p.ranks + rank) : 0.0f;
        }
        __syncthreads();
        const int count = p.ranks - first < DEPTH ? int(p.ranks - first) : DEPTH;
#pragma unroll
        for (int j = 0; j < MOST; j++) {
            const uint32_t column = threadIdx.x + j * THREADS;
            if (column >= piece.columns) continue;
            for (int rank = 0; rank < count; rank++) {
                const float factor = get(right, size_t(first + rank) * piece.width + column);
#pragma unroll
                for (int i = 0; i < OUTPUTS; i++) sums[j][i] = fmaf(left[i * DEPTH + rank], factor, sums[j][i]);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < MOST; j++) {
        const uint32_t column = threadIdx.x + j * THREADS;
        if (column >= piece.columns) continue;
        const uint32_t place = piece.place(p, column);
#pragma unroll
        for (int i = 0; i < OUTPUTS; i++) {
            if (piece.first_output + i >= p.outputs) continue;
            const size_t at = size_t(piece.first_output + i) * piece.width + piece.first_column + column;
            rows[i * COLUMNS + place] = base_number(p, at) + sums[j][i];
        }
    }
    __syncthreads();
    write_piece(p, piece, rows, COLUMNS, OUTPUTS);
}

KERNEL(low_rank_f32, LowRankParams, 256, low_rank_plain(p))
