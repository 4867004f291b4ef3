// Attention: softmax(q · kᵀ / √depth) · v, head by head, without a matrix of all scores.
//
// The softmax is made while the keys go by (Milakov & Gimelshein, 2018): a row of scores is kept relative to its
// largest one so far, and what was summed up is scaled down when a larger one comes. Scores of a few queries and
// keys at a time never leave the registers (Dao et al., 2022).
#include "mma.cuh"

struct AttentionParams {
    const void *q; // (batch, queries, width)
    const void *k, *v; // (batch, keys, width)
    void *output; // (batch, queries, width)
    uint32_t batch, heads, queries, keys, width, depth;
    uint32_t causal;
    float scale; // 1 / √depth
};

/// The scores' scale, so that 2^x is e^x: the hardware knows powers of two.
DEVICE float scale_to_base_2(const AttentionParams &p) { return p.scale * 1.44269504088896341f; }

/// The sum, and the largest, of the four lanes that have the same row.
DEVICE float row_sum(float value) {
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value + __shfl_xor_sync(0xffffffffu, value, 2);
}
DEVICE float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

/// Which queries of which head a block has. Blocks of causal attention that have most to do go first.
struct Part {
    uint32_t image, head, first_query;
    __device__ __forceinline__ Part(const AttentionParams &p, uint32_t queries) {
        image = blockIdx.y / p.heads;
        head = blockIdx.y % p.heads;
        first_query = (p.causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * queries;
    }

    /// Where its head begins, among as many rows for each image.
    __device__ __forceinline__ size_t place(const AttentionParams &p, uint32_t rows) const {
        return size_t(image) * rows * p.width + size_t(head) * p.depth;
    }

    /// Keys that some of them see.
    __device__ __forceinline__ uint32_t keys(const AttentionParams &p, uint32_t queries) const {
        const uint32_t seen = first_query + queries;
        return p.causal && seen < p.keys ? seen : p.keys;
    }
};

/// Copies rows of a head to shared memory, `PARTS` times 8 numbers of each from column `column` on, of which
/// those beyond the depth and the last row are zeros. Rows are an odd number of 16 bytes apart: the same parts of
/// eight rows are in all different banks.
template <int ROWS, int PARTS, int PITCH, int THREADS, class T>
DEVICE void copy_rows(T *to, const T *head, uint32_t first, uint32_t rows, uint32_t column,
                      const AttentionParams &p) {
    static_assert(PITCH / 8 % 2 == 1 && PITCH >= PARTS * 8, "no bank conflicts");
    for (int i = threadIdx.x; i < ROWS * PARTS; i += THREADS) {
        const uint32_t row = first + i / PARTS, at = column + i % PARTS * 8;
        const bool inside = row < rows && at < p.depth;
        copy_async(to + i / PARTS * PITCH + i % PARTS * 8, inside ? head + size_t(row) * p.width + at : head,
                   inside);
    }
}

constexpr float NOTHING = -INFINITY;

/// Attention of 16 bits on tensor cores for depths up to DEPTH, a multiple of 16. Each of four warps has 16
/// FRAGMENTS queries and all their sums in registers.
template <class T, int DEPTH, int FRAGMENTS, int KEYS> DEVICE void attention_tiled(const AttentionParams &p) {
    constexpr int THREADS = 128, QUERIES = 64 * FRAGMENTS, PITCH = DEPTH + (DEPTH % 16 == 8 ? 0 : 8);
    constexpr int PARTS = DEPTH / 8, N = KEYS / 8, D = DEPTH / 8;
    T *q = reinterpret_cast<T *>(shared_memory()), *k = q + QUERIES * PITCH, *v = k + KEYS * PITCH;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Part part(p, QUERIES);
    const T *q_head = static_cast<const T *>(p.q) + part.place(p, p.queries);
    const T *k_head = static_cast<const T *>(p.k) + part.place(p, p.keys);
    const T *v_head = static_cast<const T *>(p.v) + part.place(p, p.keys);
    T *output = static_cast<T *>(p.output) + part.place(p, p.queries);
    const uint32_t keys = part.keys(p, QUERIES);
    const float scale = scale_to_base_2(p);

    copy_rows<QUERIES, PARTS, PITCH, THREADS>(q, q_head, part.first_query, p.queries, 0, p);
    copy_rows<KEYS, PARTS, PITCH, THREADS>(k, k_head, 0, keys, 0, p);
    copies_commit();

    float sums[FRAGMENTS][D][4] = {};
    float largest[FRAGMENTS][2], totals[FRAGMENTS][2] = {};
#pragma unroll
    for (int m = 0; m < FRAGMENTS; m++) largest[m][0] = largest[m][1] = NOTHING;
    const int warp_row = warp * 16 * FRAGMENTS;

    for (uint32_t first = 0; first < keys; first += KEYS) {
        // The keys are on their way. Nobody reads the values of the last round any more.
        copies_wait<0>();
        __syncthreads();
        copy_rows<KEYS, PARTS, PITCH, THREADS>(v, v_head, first, keys, 0, p);
        copies_commit();

        float scores[FRAGMENTS][N][4] = {};
#pragma unroll
        for (int d = 0; d < DEPTH / 16; d++) {
            uint32_t left[FRAGMENTS][4];
#pragma unroll
            for (int m = 0; m < FRAGMENTS; m++)
                load_matrices<false>(left[m], q + (warp_row + m * 16 + lane % 16) * PITCH + d * 16 + lane / 16 * 8);
#pragma unroll
            for (int n = 0; n < N / 2; n++) {
                uint32_t right[4];
                load_matrices<false>(right, k + (n * 16 + lane % 8 + lane / 16 * 8) * PITCH + d * 16 +
                                                lane / 8 % 2 * 8);
#pragma unroll
                for (int m = 0; m < FRAGMENTS; m++) {
                    multiply<T>(scores[m][2 * n], left[m], right[0], right[1]);
                    multiply<T>(scores[m][2 * n + 1], left[m], right[2], right[3]);
                }
            }
        }

        // The values are on their way. Nobody reads the keys any more, so the next ones may come.
        copies_wait<0>();
        __syncthreads();
        if (first + KEYS < keys) copy_rows<KEYS, PARTS, PITCH, THREADS>(k, k_head, first + KEYS, keys, 0, p);
        copies_commit();

        const bool whole = first + KEYS <= keys && !(p.causal && first + KEYS > part.first_query);
#pragma unroll
        for (int m = 0; m < FRAGMENTS; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint32_t query = part.first_query + warp_row + m * 16 + lane / 4 + half * 8;
                if (!whole) {
#pragma unroll
                    for (int n = 0; n < N; n++)
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            const uint32_t key = first + n * 8 + lane % 4 * 2 + i;
                            if (key >= keys || (p.causal && key > query)) scores[m][n][half * 2 + i] = NOTHING;
                        }
                }
                float now = largest[m][half];
#pragma unroll
                for (int n = 0; n < N; n++)
                    now = fmaxf(now, fmaxf(scores[m][n][half * 2], scores[m][n][half * 2 + 1]));
                // Every row sees the first key, so this is a number from the first round on.
                now = row_max(now);
                const float shrink = power_of_2((largest[m][half] - now) * scale), offset = now * scale;
                largest[m][half] = now;
                totals[m][half] *= shrink;
#pragma unroll
                for (int d = 0; d < D; d++) {
                    sums[m][d][half * 2] *= shrink;
                    sums[m][d][half * 2 + 1] *= shrink;
                }
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        float &score = scores[m][n][half * 2 + i];
                        score = power_of_2(fmaf(score, scale, -offset));
                        totals[m][half] += score;
                    }
            }
        }

        // What a lane has of the scores' sums is what it needs of the left side of the next product.
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t left[FRAGMENTS][4];
#pragma unroll
            for (int m = 0; m < FRAGMENTS; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float *two = &scores[m][2 * n + i / 2][i % 2 * 2];
                    left[m][i] = pack<T>(two[0], two[1]);
                }
#pragma unroll
            for (int d = 0; d < D / 2; d++) {
                uint32_t right[4];
                load_matrices<true>(right, v + (n * 16 + lane % 16) * PITCH + d * 16 + lane / 16 * 8);
#pragma unroll
                for (int m = 0; m < FRAGMENTS; m++) {
                    multiply<T>(sums[m][2 * d], left[m], right[0], right[1]);
                    multiply<T>(sums[m][2 * d + 1], left[m], right[2], right[3]);
                }
            }
        }
    }

#pragma unroll
    for (int m = 0; m < FRAGMENTS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float factor = 1.0f / row_sum(totals[m][half]);
            const uint32_t query = part.first_query + warp_row + m * 16 + lane / 4 + half * 8;
            if (query >= p.queries) continue;
#pragma unroll
            for (int d = 0; d < D; d++) {
                const uint32_t at = d * 8 + lane % 4 * 2;
                if (at >= p.depth) continue;
                put_vector(output + size_t(query) * p.width + at,
                           pack<T>(sums[m][d][half * 2] * factor, sums[m][d][half * 2 + 1] * factor));
            }
        }
}

#define ATTENTION(depth, fragments, keys)                                                          \
    KERNEL(attention_##depth##_f16, AttentionParams, 128, attention_tiled<f16, depth, fragments, keys>(p)) \
    KERNEL(attention_##depth##_bf16, AttentionParams, 128, attention_tiled<bf16, depth, fragments, keys>(p))

ATTENTION(48, 2, 64)
ATTENTION(64, 2, 64)
ATTENTION(80, 1, 64)
ATTENTION(128, 1, 64)
ATTENTION(160, 1, 64)

/// The same for depths up to 512, too many for one warp's registers: 32 queries, 64 keys at a time, and both
/// keys and values in slices of 128 numbers of the depth. Of eight warps, each has 16 queries; four have the
/// same, and share out the keys among them while they make scores, the depth while they sum up values.
template <class T> DEVICE void attention_wide(const AttentionParams &p) {
    constexpr int THREADS = 256, QUERIES = 32, KEYS = 64, SLICE = 128, SLICES = 4, STAGES = 3;
    constexpr int Q_PITCH = SLICE * SLICES + 8, PITCH = SLICE + 8, P_PITCH = KEYS + 8;
    T *q = reinterpret_cast<T *>(shared_memory()), *ring = q + QUERIES * Q_PITCH;
    T *weights = ring + STAGES * KEYS * PITCH;
    // The largest score of each query among the keys of each warp; at the end, the totals.
    float *rows = reinterpret_cast<float *>(weights + QUERIES * P_PITCH);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_row = warp / 4 * 16, quarter = warp % 4;
    const Part part(p, QUERIES);
    const T *q_head = static_cast<const T *>(p.q) + part.place(p, p.queries);
    const T *k_head = static_cast<const T *>(p.k) + part.place(p, p.keys);
    const T *v_head = static_cast<const T *>(p.v) + part.place(p, p.keys);
    T *output = static_cast<T *>(p.output) + part.place(p, p.queries);
    const uint32_t keys = part.keys(p, QUERIES);
    const float scale = scale_to_base_2(p);
    // Slices in the order in which they are needed: for each round of keys those of the keys, then the values.
    const int slices = int((p.depth + SLICE - 1) / SLICE);
    const int count = int((keys + KEYS - 1) / KEYS) * 2 * slices;

    auto copy_slice = [&](int index) {
        if (index >= count) return;
        const int round = index / (2 * slices), slice = index % (2 * slices);
        copy_rows<KEYS, SLICE / 8, PITCH, THREADS>(ring + index % STAGES * KEYS * PITCH,
                                                   slice < slices ? k_head : v_head, round * KEYS, keys,
                                                   slice % slices * SLICE, p);
    };
    // Waits for a slice, and sends for the one whose place nobody reads any more.
    auto next_slice = [&](int index) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        copy_slice(index + STAGES - 1);
        copies_commit();
        return ring + index % STAGES * KEYS * PITCH;
    };

    copy_rows<QUERIES, SLICE * SLICES / 8, Q_PITCH, THREADS>(q, q_head, part.first_query, p.queries, 0, p);
    for (int index = 0; index < STAGES - 1; index++) {
        copy_slice(index);
        copies_commit();
    }
    float sums[SLICES][4][4] = {};
    float largest[2] = {NOTHING, NOTHING}, totals[2] = {};
    int index = 0;
    for (uint32_t first = 0; first < keys; first += KEYS) {
        float scores[2][4] = {};
        for (int slice = 0; slice < slices; slice++) {
            const T *k = next_slice(index++);
#pragma unroll
            for (int d = 0; d < SLICE / 16; d++) {
                uint32_t left[4], right[4];
                load_matrices<false>(left, q + (warp_row + lane % 16) * Q_PITCH + slice * SLICE + d * 16 +
                                               lane / 16 * 8);
                load_matrices<false>(right, k + (quarter * 16 + lane % 8 + lane / 16 * 8) * PITCH + d * 16 +
                                                lane / 8 % 2 * 8);
                multiply<T>(scores[0], left, right[0], right[1]);
                multiply<T>(scores[1], left, right[2], right[3]);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t query = part.first_query + warp_row + lane / 4 + half * 8;
            float most = NOTHING;
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const uint32_t key = first + quarter * 16 + n * 8 + lane % 4 * 2 + i;
                    float &score = scores[n][half * 2 + i];
                    if (key >= keys || (p.causal && key > query)) score = NOTHING;
                    most = fmaxf(most, score);
                }
            most = row_max(most);
            if (lane % 4 == 0) rows[quarter * QUERIES + warp_row + lane / 4 + half * 8] = most;
        }
        __syncthreads();
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = warp_row + lane / 4 + half * 8;
            float now = largest[half];
#pragma unroll
            for (int i = 0; i < 4; i++) now = fmaxf(now, rows[i * QUERIES + row]);
            const float shrink = power_of_2((largest[half] - now) * scale), offset = now * scale;
            largest[half] = now;
            totals[half] *= shrink;
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    sums[slice][n][half * 2] *= shrink;
                    sums[slice][n][half * 2 + 1] *= shrink;
                }
#pragma unroll
            for (int n = 0; n < 2; n++) {
                float two[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    two[i] = power_of_2(fmaf(scores[n][half * 2 + i], scale, -offset));
                    totals[half] += two[i];
                }
                put_shared(weights + row * P_PITCH + quarter * 16 + n * 8 + lane % 4 * 2, pack<T>(two[0], two[1]));
            }
        }
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            if (slice >= slices) break;
            // Its barrier is also the one behind which all weights are there.
            const T *v = next_slice(index++);
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) {
                uint32_t left[4];
                load_matrices<false>(left, weights + (warp_row + lane % 16) * P_PITCH + n * 16 + lane / 16 * 8);
#pragma unroll
                for (int d = 0; d < 2; d++) {
                    uint32_t right[4];
                    load_matrices<true>(right, v + (n * 16 + lane % 16) * PITCH + quarter * 32 + d * 16 +
                                                   lane / 16 * 8);
                    multiply<T>(sums[slice][2 * d], left, right[0], right[1]);
                    multiply<T>(sums[slice][2 * d + 1], left, right[2], right[3]);
                }
            }
        }
    }

    // Nobody has read the largest scores since the last round's values came.
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float total = row_sum(totals[half]);
        if (lane % 4 == 0) rows[quarter * QUERIES + warp_row + lane / 4 + half * 8] = total;
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = warp_row + lane / 4 + half * 8;
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < 4; i++) total += rows[i * QUERIES + row];
        const uint32_t query = part.first_query + row;
        if (query >= p.queries) continue;
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
            for (int n = 0; n < 4; n++) {
                const uint32_t at = slice * SLICE + quarter * 32 + n * 8 + lane % 4 * 2;
                if (at >= p.depth) continue;
                put_vector(output + size_t(query) * p.width + at,
                           pack<T>(sums[slice][n][half * 2] / total, sums[slice][n][half * 2 + 1] / total));
            }
    }
}

KERNEL(attention_512_f16, AttentionParams, 256, attention_wide<f16>(p))
KERNEL(attention_512_bf16, AttentionParams, 256, attention_wide<bf16>(p))

/// Attention without tensor cores, for f32 and depths of any kind: 16 queries and 32 keys at a time. Queries and
/// the sums of values are in shared memory, keys come in slices of 32 numbers of the depth.
template <class T> DEVICE void attention_plain(const AttentionParams &p) {
    constexpr uint32_t THREADS = 128, QUERIES = 16, KEYS = 32, SLICE = 32, PITCH = 36;
    // Rows in whole vectors of four, an odd number of them: zeros behind the depth.
    const uint32_t whole = (p.depth + 3) / 4 * 4, q_pitch = whole % 8 == 0 ? whole + 4 : whole;
    float *q = reinterpret_cast<float *>(shared_memory()), *sums = q + QUERIES * q_pitch;
    float *k = sums + QUERIES * q_pitch, *scores = k + KEYS * PITCH;
    float *largest = scores + QUERIES * PITCH, *totals = largest + QUERIES, *shrinks = totals + QUERIES;
    const uint32_t thread = threadIdx.x;
    const Part part(p, QUERIES);
    const size_t column = size_t(part.head) * p.depth;
    const size_t q_first = (size_t(part.image) * p.queries + part.first_query) * p.width + column;
    const T *q_head = static_cast<const T *>(p.q) + q_first;
    const T *k_head = static_cast<const T *>(p.k) + size_t(part.image) * p.keys * p.width + column;
    const T *v_head = static_cast<const T *>(p.v) + size_t(part.image) * p.keys * p.width + column;
    T *output = static_cast<T *>(p.output) + q_first;
    const uint32_t keys = part.keys(p, QUERIES);
    const uint32_t queries = p.queries - part.first_query < QUERIES ? p.queries - part.first_query : QUERIES;

    for (uint32_t i = thread; i < QUERIES * q_pitch; i += THREADS) {
        const uint32_t row = i / q_pitch, d = i % q_pitch;
        const bool inside = row < queries && d < p.depth;
        q[i] = inside ? widen(get(q_head, size_t(row) * p.width + d)) * p.scale : 0.0f;
        sums[i] = 0.0f;
    }
    if (thread < QUERIES) {
        largest[thread] = NOTHING;
        totals[thread] = 0.0f;
    }
    // This thread has four scores of one query.
    const uint32_t row = thread / 8, key = thread % 8;
    for (uint32_t first = 0; first < keys; first += KEYS) {
        float four[4] = {};
        for (uint32_t begin = 0; begin < p.depth; begin += SLICE) {
            __syncthreads();
            for (uint32_t i = thread; i < KEYS * SLICE; i += THREADS) {
                const uint32_t at = first + i / SLICE, d = begin + i % SLICE;
                k[i / SLICE * PITCH + i % SLICE] =
                    at < keys && d < p.depth ? widen(get(k_head, size_t(at) * p.width + d)) : 0.0f;
            }
            __syncthreads();
            const uint32_t length = whole - begin < SLICE ? whole - begin : SLICE;
            for (uint32_t d = 0; d < length; d += 4) {
                const float4 left = get_shared<float4>(q + row * q_pitch + begin + d);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float4 right = get_shared<float4>(k + (key + 8 * i) * PITCH + d);
                    float sum = fmaf(left.x, right.x, four[i]);
                    sum = fmaf(left.y, right.y, sum);
                    sum = fmaf(left.z, right.z, sum);
                    four[i] = fmaf(left.w, right.w, sum);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t at = first + key + 8 * i;
            const bool seen = at < keys && !(p.causal && at > part.first_query + row);
            scores[row * PITCH + key + 8 * i] = seen ? four[i] : NOTHING;
        }
        __syncthreads();
        // A lane has one key; a warp four queries, one after the other.
        for (uint32_t query = thread / 32; query < QUERIES; query += THREADS / 32) {
            float &score = scores[query * PITCH + thread % 32];
            float now = score;
#pragma unroll
            for (int distance = 16; distance > 0; distance /= 2)
                now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, distance));
            now = fmaxf(now, largest[query]);
            score = expf(score - now);
            // Behind the sum, all lanes know what was the largest before.
            const float total = warp_sum(score);
            if (thread % 32 == 0) {
                const float shrink = expf(largest[query] - now);
                shrinks[query] = shrink;
                totals[query] = totals[query] * shrink + total;
                largest[query] = now;
            }
        }
        __syncthreads();
        const uint32_t present = keys - first < KEYS ? keys - first : KEYS;
        for (uint32_t d = thread; d < p.depth; d += THREADS) {
            float mine[QUERIES];
#pragma unroll
            for (uint32_t i = 0; i < QUERIES; i++) mine[i] = sums[i * q_pitch + d] * shrinks[i];
            // The weights of keys that are not present are zeros.
            for (uint32_t at = 0; at < present; at += 4) {
                float values[4];
#pragma unroll
                for (uint32_t j = 0; j < 4; j++)
                    values[j] =
                        at + j < present ? widen(get(v_head, size_t(first + at + j) * p.width + d)) : 0.0f;
#pragma unroll
                for (uint32_t i = 0; i < QUERIES; i++) {
                    const float4 weights = get_shared<float4>(scores + i * PITCH + at);
                    float sum = fmaf(weights.x, values[0], mine[i]);
                    sum = fmaf(weights.y, values[1], sum);
                    sum = fmaf(weights.z, values[2], sum);
                    mine[i] = fmaf(weights.w, values[3], sum);
                }
            }
#pragma unroll
            for (uint32_t i = 0; i < QUERIES; i++) sums[i * q_pitch + d] = mine[i];
        }
        __syncthreads();
    }
    for (uint32_t i = thread; i < queries * p.depth; i += THREADS) {
        const uint32_t row = i / p.depth, d = i % p.depth;
        put(output, size_t(row) * p.width + d, narrow<T>(sums[row * q_pitch + d] / totals[row]));
    }
}

KERNELS(attention_plain, AttentionParams, 128, attention_plain)
