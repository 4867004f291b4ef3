// Runs kernels on the processor; see emulator.hpp.
#include "emulator.hpp"

#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {
namespace {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t MOST_THREADS = 1024;
/// What a block may have on cards of compute capability 8.6 and 8.9, which have the least.
constexpr uint32_t MOST_SHARED = 99 << 10;
/// Bytes in front of and behind shared memory that nobody may write.
constexpr size_t FENCE = 4096;
constexpr unsigned char POISON = 0xff;

struct Copy {
    void *to;
    const void *from;
    unsigned present;
    unsigned group;
};

enum class State { Unborn, Ready, Waiting, Done };

struct Fiber {
    State state;
    uint3 thread;
    jmp_buf context;
    /// What it waits at.
    const char *at;
    std::vector<Copy> copies;
    unsigned group;
};

struct Warp {
    unsigned arrived;
    unsigned left;
    const char *operation;
    void *arguments[32];
};

/// All that one operating system's thread needs to run one block after the other.
struct Machine {
    std::vector<Fiber> fibers{MOST_THREADS};
    std::vector<Warp> warps{MOST_THREADS / 32};
    unsigned char *stacks = nullptr;
    std::vector<unsigned char> memory;
    unsigned char *shared = nullptr;
    uint32_t shared_bytes = 0;
    unsigned threads = 0;
    unsigned current = 0;
    unsigned arrived = 0;
    unsigned left = 0;
    const char *file = nullptr;
    int line = 0;
    jmp_buf scheduler;
    const Kernel *kernel = nullptr;
    const void *parameter = nullptr;
    std::string error;
    const uint64_t *spans = nullptr;
    size_t span_count = 0;
    size_t last_span = 0;

    Machine() {
        void *stacks = mmap(nullptr, MOST_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stacks == MAP_FAILED) abort();
        this->stacks = static_cast<unsigned char *>(stacks);
    }

    ~Machine() { munmap(stacks, MOST_THREADS * STACK_BYTES); }

    Fiber &fiber() { return fibers[current]; }

    bool run_block();
    void report(const char *reason);
};

thread_local Machine machine;
const Kernel *kernels = nullptr;

const Kernel *find(const char *name) {
    for (const Kernel *kernel = kernels; kernel; kernel = kernel->next)
        if (!strcmp(kernel->name, name)) return kernel;
    return nullptr;
}

void Machine::report(const char *reason) {
    char text[512];
    const uint3 &thread = fiber().thread;
    snprintf(text, sizeof text, "`%s`, block (%u, %u, %u), thread (%u, %u, %u): %s", kernel->name,
             blockIdx.x, blockIdx.y, blockIdx.z, thread.x, thread.y, thread.z, reason);
    error = text;
}

/// Back to the scheduler, until it lets this fiber go on.
void pause() {
    Machine &m = machine;
    if (!_setjmp(m.fiber().context)) _longjmp(m.scheduler, 1);
}

void wait(const char *at) {
    machine.fiber().state = State::Waiting;
    machine.fiber().at = at;
    pause();
}

/// Where a fiber begins.
void begin() {
    Machine &m = machine;
    m.kernel->run(m.parameter);
    Warp &warp = m.warps[m.current / 32];
    if (warp.arrived) fail("left while its warp does %s", warp.operation);
    if (m.arrived) fail("left while others wait at the barrier in %s:%d", m.file, m.line);
    warp.left++;
    m.left++;
    m.fiber().state = State::Done;
    _longjmp(m.scheduler, 1);
}

void start(unsigned index) {
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = machine.stacks + index * STACK_BYTES;
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = nullptr;
    makecontext(&context, begin, 0);
    setcontext(&context);
}

bool Machine::run_block() {
    memset(memory.data(), POISON, memory.size());
    for (unsigned i = 0; i < threads; i++) {
        Fiber &fiber = fibers[i];
        fiber.state = State::Unborn;
        fiber.thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        fiber.at = "its start";
        fiber.copies.clear();
        fiber.group = 0;
    }
    for (unsigned i = 0; i < threads / 32; i++) warps[i].arrived = warps[i].left = 0;
    arrived = left = 0;
    // A warp runs on until it waits for another one, so that warps are as far apart as barriers let them be,
    // and blocks differ in which of their threads run first: a barrier that is missing shows in one of them.
    volatile bool backward = (blockIdx.x + blockIdx.y + blockIdx.z) % 2;
    volatile unsigned turns = threads / 32;
    for (volatile bool progress = true; progress && left < threads;) {
        progress = false;
        for (volatile unsigned turn = 0; turn < turns; turn = turn + 1) {
            volatile unsigned first = (backward ? turns - 1 - turn : turn) * 32;
            for (volatile bool runs = true; runs;) {
                runs = false;
                for (volatile unsigned lane = 0; lane < 32; lane = lane + 1) {
                    current = first + (backward ? 31 - lane : lane);
                    State state = fiber().state;
                    if (state != State::Unborn && state != State::Ready) continue;
                    runs = progress = true;
                    threadIdx = fiber().thread;
                    if (!_setjmp(scheduler)) {
                        fiber().state = State::Ready;
                        if (state == State::Unborn) start(current);
                        _longjmp(fiber().context, 1);
                    }
                    if (!error.empty()) return false;
                }
            }
        }
    }
    for (current = 0; current < threads; current++) {
        if (fiber().state == State::Done) continue;
        std::string reason = std::string("waits for ever at ") + fiber().at;
        report(reason.c_str());
        return false;
    }
    current = 0;
    for (size_t i = 0; i < memory.size(); i++) {
        ptrdiff_t offset = memory.data() + i - shared;
        if (offset >= 0 && offset < ptrdiff_t(shared_bytes)) continue;
        if (memory[i] == POISON) continue;
        char reason[128];
        snprintf(reason, sizeof reason, "shared memory was written at byte %td of %u", offset,
                 shared_bytes);
        report(reason);
        return false;
    }
    return true;
}

const float *halves() {
    static float values[1 << 16];
    for (uint32_t bits = 0; bits < 1 << 16; bits++) {
        uint32_t sign = bits >> 15 << 31, exponent = bits >> 10 & 31, fraction = bits & 1023;
        if (exponent == 0) {
            float value = std::ldexp(float(fraction), -24);
            values[bits] = sign ? -value : value;
            continue;
        }
        uint32_t wide = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
        memcpy(&values[bits], &wide, 4);
    }
    return values;
}

} // namespace

const float *const HALVES = halves();

uint16_t to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint16_t sign = bits >> 16 & 0x8000;
    float size = std::fabs(value);
    if (std::isnan(value)) return sign | 0x7e00;
    if (size >= 65520) return sign | 0x7c00;
    // Below the smallest normal number, steps are all the same: the nearest whole number of them.
    if (size < std::ldexp(1.0f, -14)) return sign | uint16_t(std::nearbyint(std::ldexp(size, 24)));
    bits &= 0x7fffffff;
    return sign | uint16_t((bits + 0xfff + (bits >> 13 & 1) - (112u << 23)) >> 13);
}

void fail(const char *format, ...) {
    char reason[384];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    machine.report(reason);
    _longjmp(machine.scheduler, 1);
}

unsigned char *shared() { return machine.shared; }

void check_global(const void *address, size_t bytes, size_t alignment) {
    Machine &m = machine;
    uint64_t begin = reinterpret_cast<uint64_t>(address);
    if (begin % alignment) fail("%zu bytes at an address that is no multiple of %zu", bytes, alignment);
    auto inside = [&](size_t i) {
        return begin >= m.spans[2 * i] && begin + bytes <= m.spans[2 * i] + m.spans[2 * i + 1];
    };
    if (m.last_span < m.span_count && inside(m.last_span)) return;
    for (size_t i = 0; i < m.span_count; i++) {
        if (!inside(i)) continue;
        m.last_span = i;
        return;
    }
    for (size_t i = 0; i < m.span_count; i++) {
        int64_t offset = int64_t(begin - m.spans[2 * i]);
        if (offset < -4096 || offset > int64_t(m.spans[2 * i + 1]) + 4096) continue;
        fail("%zu bytes at byte %ld of a buffer of %lu", bytes, long(offset), long(m.spans[2 * i + 1]));
    }
    fail("%zu bytes at %p, where no buffer is", bytes, address);
}

void check_shared(const void *address, size_t bytes, size_t alignment) {
    Machine &m = machine;
    ptrdiff_t offset = static_cast<const unsigned char *>(address) - m.shared;
    if (offset < 0 || offset + ptrdiff_t(bytes) > ptrdiff_t(m.shared_bytes))
        fail("%zu bytes at byte %td of %u of shared memory", bytes, offset, m.shared_bytes);
    if (offset % ptrdiff_t(alignment))
        fail("%zu bytes at byte %td of shared memory, no multiple of %zu", bytes, offset, alignment);
}

void barrier(const char *file, int line) {
    Machine &m = machine;
    if (m.left) fail("waits at the barrier in %s:%d, but others have left", file, line);
    if (m.arrived && (m.line != line || strcmp(m.file, file)))
        fail("waits at the barrier in %s:%d, but others at that in %s:%d", file, line, m.file, m.line);
    m.file = file;
    m.line = line;
    if (++m.arrived < m.threads) return wait("a barrier");
    m.arrived = 0;
    for (unsigned i = 0; i < m.threads; i++) m.fibers[i].state = State::Ready;
}

void together(const char *operation, void *argument, void (*act)(void *const *arguments)) {
    Machine &m = machine;
    unsigned first = m.current / 32 * 32;
    Warp &warp = m.warps[m.current / 32];
    if (warp.left) fail("is at %s, but others of its warp have left", operation);
    if (warp.arrived && strcmp(warp.operation, operation))
        fail("is at %s, but others of its warp at %s", operation, warp.operation);
    warp.operation = operation;
    warp.arguments[m.current - first] = argument;
    if (++warp.arrived < 32) return wait(operation);
    warp.arrived = 0;
    act(warp.arguments);
    for (unsigned i = 0; i < 32; i++) m.fibers[first + i].state = State::Ready;
}

void copy_async(void *to, const void *from, unsigned present) {
    check_shared(to, 16, 16);
    if (present) check_global(from, present, 16);
    memset(to, POISON, 16);
    machine.fiber().copies.push_back({to, from, present, machine.fiber().group});
}

void copies_commit() { machine.fiber().group++; }

void copies_wait(unsigned pending) {
    Fiber &fiber = machine.fiber();
    size_t kept = 0;
    for (const Copy &copy : fiber.copies) {
        if (copy.group + pending >= fiber.group) {
            fiber.copies[kept++] = copy;
            continue;
        }
        memcpy(copy.to, copy.from, copy.present);
        memset(static_cast<char *>(copy.to) + copy.present, 0, 16 - copy.present);
    }
    fiber.copies.resize(kept);
}

Kernel::Kernel(const char *name, size_t parameter_bytes, void (*run)(const void *parameter))
    : name(name), parameter_bytes(parameter_bytes), run(run), next(kernels) {
    kernels = this;
}

} // namespace emulated

using namespace emulated;

/// Bytes of a kernel's parameter; 0 if there is no such kernel.
extern "C" size_t impasto_emulated_parameter(const char *name) {
    const Kernel *kernel = find(name);
    return kernel ? kernel->parameter_bytes : 0;
}

/// Runs a kernel. `spans` are the buffers of the card, `count` pairs of an address and a number of bytes.
/// Returns 0, or 1 with an explanation in `error`.
extern "C" int impasto_emulate(const char *name, const uint32_t grid[3], const uint32_t block[3],
                               uint32_t shared_bytes, const void *parameter, const uint64_t *spans,
                               size_t count, char *error, size_t error_bytes) {
    Machine &m = machine;
    auto refuse = [&](const char *reason) {
        snprintf(error, error_bytes, "`%s`: %s", name, reason);
        return 1;
    };
    m.kernel = find(name);
    if (!m.kernel) return refuse("there is no such kernel");
    uint64_t threads = uint64_t(block[0]) * block[1] * block[2];
    if (!threads || threads > MOST_THREADS || block[2] > 64) return refuse("a block of that size");
    if (threads % 32) return refuse("a block that is no whole number of warps");
    if (!grid[0] || !grid[1] || !grid[2]) return refuse("no blocks");
    if (grid[0] > 0x7fffffff || grid[1] > 65535 || grid[2] > 65535) return refuse("too many blocks");
    if (shared_bytes > MOST_SHARED) return refuse("more shared memory than there is");

    m.parameter = parameter;
    m.spans = spans;
    m.span_count = count;
    m.last_span = 0;
    m.threads = unsigned(threads);
    m.shared_bytes = shared_bytes;
    m.memory.assign(2 * FENCE + shared_bytes + 128, POISON);
    uint64_t begin = reinterpret_cast<uint64_t>(m.memory.data()) + FENCE;
    m.shared = reinterpret_cast<unsigned char *>((begin + 127) / 128 * 128);
    m.error.clear();
    blockDim = {block[0], block[1], block[2]};
    gridDim = {grid[0], grid[1], grid[2]};
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                if (m.run_block()) continue;
                snprintf(error, error_bytes, "%s", m.error.c_str());
                return 1;
            }
    return 0;
}
