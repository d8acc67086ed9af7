// The engine for Python: the only file here that knows Python, and the only one that owns memory and threads.
//
// A Plan copies what it is given; a call takes an arena from those that lie idle, or makes one, so that any
// number of Python threads may call one Plan at once.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#ifndef _WIN32
#include <dlfcn.h>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "job.h"
#include "latent.h"
#include "peak.h"
#include "threads.hpp"

// They are in export_plan.c.
extern "C" {
decltype(bnn_plan_init) bnn_export_plan_init;
decltype(bnn_arena_bytes) bnn_export_arena_bytes;
}

// Waking a thread costs some microseconds, of which a core makes better use itself when there is little to
// do.
#ifndef BNN_CYCLES_WORTH_A_THREAD
#define BNN_CYCLES_WORTH_A_THREAD 100e3
#endif

// A run that takes that many is watched for Ctrl-C: tens of milliseconds, against which a thread is nothing.
#ifndef BNN_CYCLES_WORTH_A_WATCH
#define BNN_CYCLES_WORTH_A_WATCH 100e6
#endif

namespace nb = nanobind;

namespace
{

struct AlignedDelete {
    void operator()(void *p) const { ::operator delete[](p, std::align_val_t{BNN_ALIGNMENT}); }
};

using Bytes = std::unique_ptr<void, AlignedDelete>;

Bytes allocate(std::size_t n) { return Bytes(::operator new[](n ? n : 1, std::align_val_t{BNN_ALIGNMENT})); }

constexpr std::chrono::milliseconds between_looks{50};

// Takes the GIL again. Where Python has begun to end, a daemon's thread never gets it: some versions end such
// a thread by unwinding its stack, which no caller here is made for, and the process would abort. It stays
// here.
void take_gil(PyThreadState *state)
{
    struct Stay {
        bool unwinding = true;

        ~Stay()
        {
            while (unwinding) std::this_thread::sleep_for(std::chrono::hours(1));
        }
    } stay;

    PyEval_RestoreThread(state);
    stay.unwinding = false;
}

// Works without the GIL; `work` is given the state to take it again with, and may do so in between.
template <class Work> void without_gil(const Work &work)
{
    std::exception_ptr error;
    PyThreadState *state = PyEval_SaveThread();
    try {
        work(state);
    } catch (...) {
        error = std::current_exception();
    }
    take_gil(state);
    if (PyErr_Occurred()) throw nb::python_error();
    if (error) std::rethrow_exception(error);
}

// What a run asks of the flag that stops it; see bnn_batch.
int is_set(const void *flag)
{
    return static_cast<const std::atomic<bool> *>(flag)->load(std::memory_order_relaxed);
}

// Whether this thread is Python's main thread, which alone handles signals.
bool handles_signals()
{
    const nb::module_ threading = nb::module_::import_("threading");
    return threading.attr("get_ident")().equal(threading.attr("main_thread")().attr("ident"));
}

// Batches are cut so that an arena stays below this, if a single sample does, and rows can be counted in an
// int.
constexpr std::size_t arena_target = 8 << 20, most_rows = 1 << 28;

struct Arena {
    Bytes bytes;
    std::size_t size = 0;
};

class Plan
{
public:
    Plan(const std::vector<std::vector<int>> &values, nb::list ops, const std::string &isa)
    {
        const bnn_kernels *kernels = isa.empty() ? bnn_kernels_best() : bnn_kernels_named(isa.c_str());
        if (!kernels) throw std::invalid_argument("this processor has no kernels named '" + isa + "'");
        for (const auto &v : values) {
            if (v.size() != 4) throw std::invalid_argument("a value is (dtype, height, width, channels)");
            bnn_value value{};
            value.dtype = static_cast<bnn_dtype>(v[0]);
            value.height = v[1];
            value.width = v[2];
            value.channels = v[3];
            values_.push_back(value);
        }
        for (nb::handle op : ops) add(nb::cast<nb::dict>(op), kernels);
        const bnn_status status =
            bnn_plan_init(&plan_, values_.data(), static_cast<std::int32_t>(values_.size()), nodes_.data(),
                          static_cast<std::int32_t>(nodes_.size()), kernels);
        if (status != BNN_OK) throw std::invalid_argument(bnn_status_text(status));
        for (std::int32_t i = 0; i < plan_.n_nodes; i++) work_ += bnn_node_work(&plan_, i);
        at_once_ = plan_.row_bytes ? arena_target / plan_.row_bytes : most_rows;
        for (const bnn_value &v : values_)
            at_once_ = std::min(at_once_, most_rows / static_cast<std::size_t>(v.height * v.width));
        at_once_ = std::max<std::size_t>(at_once_, 1);
    }

    ~Plan()
    {
        for (auto &slot : idle_) delete slot.load();
    }

    Plan(const Plan &) = delete;
    Plan &operator=(const Plan &) = delete;

    // Prepared weights, constants, and an arena for `rows` samples.
    std::size_t bytes(int rows, int parts) const { return owned_ + arena_bytes(rows, parts); }

    // Cycles of a sample, as what sharing it could be worth is estimated by.
    double work() const { return work_; }

    std::string isa() const { return bnn_kernels_name(plan_.kernels); }

    // What a C export is told: bytes and offsets of values; bytes of all values and of the arena; and of each
    // operation the dtype of its sums, -1 if it is no product, and whether it gathers windows.
    nb::tuple exported() const
    {
        std::vector<bnn_value> values = values_;
        bnn_plan plan{};
        std::size_t arena = 0;
        std::vector<std::size_t> sizes, offsets;
        std::vector<int> sums, gathers;
        bnn_status status = bnn_export_plan_init(&plan, values.data(), plan_.n_values, plan_.nodes,
                                                 plan_.n_nodes, &bnn_portable);
        if (status == BNN_OK) status = bnn_export_arena_bytes(&plan, 1, 1, &arena);
        if (status == BNN_ERROR_SIZE) throw std::bad_alloc();
        if (status != BNN_OK) throw std::logic_error(bnn_status_text(status)); // this plan was made before
        for (const bnn_value &v : values) sizes.push_back(v.bytes), offsets.push_back(v.offset);
        for (const bnn_node &node : nodes_) {
            const bool product = bnn_is_product(node.op);
            const bnn_dtype in = values[static_cast<std::size_t>(node.inputs[0])].dtype;
            sums.push_back(product ? bnn_sum_dtype(&node, in) : -1);
            gathers.push_back(product && node.op != BNN_DEPTHWISE && !bnn_is_pointwise(&node));
        }
        return nb::make_tuple(sizes, offsets, plan.row_bytes, arena, sums, gathers);
    }

    void run(nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu> x,
             nb::ndarray<float, nb::c_contig, nb::device::cpu> out, int threads)
    {
        const std::size_t in_size = values_[0].bytes,
                          out_size = values_[plan_.nodes[plan_.n_nodes - 1].output].bytes;
        const std::size_t rows = x.ndim() ? x.shape(0) : 0;
        if (x.nbytes() != rows * in_size || out.nbytes() != rows * out_size)
            throw std::invalid_argument("input or output is not of the plan's size");
        const char *from = static_cast<const char *>(x.data());
        char *to = reinterpret_cast<char *>(out.data());
        std::atomic<bool> stop{false};
        const auto all = [&](const std::atomic<bool> *flag) {
            for (std::size_t first = 0; first < rows && !stop; first += at_once_) {
                const int here = static_cast<int>(std::min(at_once_, rows - first));
                run_rows(from + first * in_size, to + first * out_size, here, threads, flag);
            }
        };
        const bool watch = work_ * static_cast<double>(rows) >= BNN_CYCLES_WORTH_A_WATCH && handles_signals();
        without_gil([&](PyThreadState *&state) {
            if (watch)
                watched(all, stop, state);
            else
                all(nullptr);
        });
    }

private:
    std::size_t arena_bytes(int rows, int parts) const
    {
        std::size_t bytes = 0;
        if (bnn_arena_bytes(&plan_, rows, parts, &bytes) != BNN_OK) throw std::bad_alloc();
        return bytes;
    }

    // Does long work in a thread of its own, while this one looks now and then whether a signal has come, for
    // kernels cannot be left half way. What the signal's handler raised is left as Python's current error.
    template <class Work>
    static void watched(const Work &work, std::atomic<bool> &stop, PyThreadState *&state)
    {
        std::mutex mutex;
        std::condition_variable changed;
        std::exception_ptr error;
        bool done = false;
        std::thread worker;
        try {
            worker = std::thread([&] {
                try {
                    work(&stop);
                } catch (...) {
                    error = std::current_exception();
                }
                const std::lock_guard<std::mutex> lock(mutex);
                done = true;
                changed.notify_one();
            });
        } catch (const std::system_error &) { // no more threads to be had
            work(nullptr);
            return;
        }
        std::unique_lock<std::mutex> lock(mutex);
        while (!changed.wait_for(lock, between_looks, [&] { return done; })) {
            if (stop) continue;
            lock.unlock();
            take_gil(state);
            stop = PyErr_CheckSignals() != 0;
            state = PyEval_SaveThread();
            lock.lock();
        }
        lock.unlock();
        worker.join();
        if (error) std::rethrow_exception(error);
    }

    void run_rows(const char *from, char *to, int rows, int threads, const std::atomic<bool> *stop)
    {
        const int worth = static_cast<int>(std::min(work_ * rows / BNN_CYCLES_WORTH_A_THREAD, 1e6));
        Team team(std::min(threads, worth)); // may be smaller: another call may have the threads
        const int parts = team.size();
        std::unique_ptr<Arena> arena = take(arena_bytes(rows, parts));
        bnn_batch batch = bnn_batch_of(&plan_, from, to, rows, parts, arena->bytes.get());
        if (stop) batch.stopped = is_set, batch.flag = stop;
        team.run(plan_.n_nodes, [&](int step, int part) { bnn_run_part(&plan_, &batch, step, part); });
        give(std::move(arena));
    }

    // Without a lock: a process may fork while another thread is here, and its child could never take that.
    std::unique_ptr<Arena> take(std::size_t size)
    {
        std::unique_ptr<Arena> arena;
        for (auto &slot : idle_)
            if (!arena) arena.reset(slot.exchange(nullptr));
        if (!arena) arena = std::make_unique<Arena>();
        if (arena->size < size) {
            arena->bytes = allocate(size);
            arena->size = size;
        }
        return arena;
    }

    void give(std::unique_ptr<Arena> arena)
    {
        for (auto &slot : idle_) {
            Arena *none = nullptr;
            if (slot.compare_exchange_strong(none, arena.get())) {
                arena.release();
                return;
            }
        } // where all slots are taken, it is freed
    }

    // --- from Python

    void *own(std::size_t n)
    {
        kept_.push_back(allocate(n));
        owned_ += n;
        return kept_.back().get();
    }

    using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

    template <class T> const T *copy(nb::handle array)
    {
        if (array.is_none()) return nullptr;
        const auto a = nb::cast<Array>(array);
        if (a.itemsize() != sizeof(T)) throw std::invalid_argument("an array has entries of the wrong size");
        void *to = own(a.nbytes());
        std::memcpy(to, a.data(), a.nbytes());
        return static_cast<const T *>(to);
    }

    // Of a dtype that is known when it runs: BNN_I32, BNN_F32 or BNN_F64.
    const void *copy(bnn_dtype dtype, nb::handle array)
    {
        if (dtype == BNN_I32) return copy<std::int32_t>(array);
        return dtype == BNN_F64 ? static_cast<const void *>(copy<double>(array)) : copy<float>(array);
    }

    template <class T> const void *numbers(std::initializer_list<double> values)
    {
        T *to = static_cast<T *>(own(values.size() * sizeof(T)));
        std::transform(values.begin(), values.end(), to, [](double v) { return static_cast<T>(v); });
        return to;
    }

    const void *numbers(bnn_dtype dtype, std::initializer_list<double> values)
    {
        return dtype == BNN_F64 ? numbers<double>(values) : numbers<float>(values);
    }

    template <class T> static void fill(T *to, std::size_t n, nb::handle from)
    {
        const auto values = nb::cast<std::vector<T>>(from);
        if (values.size() != n) throw std::invalid_argument("a field has the wrong length");
        std::copy(values.begin(), values.end(), to);
    }

    const void *prepare(const bnn_kernels *kernels, bnn_op op, nb::handle rows, int groups, int n)
    {
        const auto a = nb::cast<Array>(rows);
        if (a.ndim() != 2 || a.itemsize() != 8 || groups < 1 ||
            a.shape(0) % static_cast<std::size_t>(groups) ||
            a.shape(1) != (static_cast<std::size_t>(n) + 63) / 64)
            throw std::invalid_argument("packed rows do not fit");
        const int outputs = static_cast<int>(a.shape(0)) / groups;
        const std::size_t size = bnn_prepared_bytes(kernels, op, outputs, n);
        char *to = static_cast<char *>(own(size * static_cast<std::size_t>(groups)));
        const auto *from = static_cast<const std::uint64_t *>(a.data());
        for (int g = 0; g < groups; g++)
            bnn_prepare(kernels, op,
                        from + static_cast<std::size_t>(g) * static_cast<std::size_t>(outputs) * a.shape(1),
                        outputs, n, to + static_cast<std::size_t>(g) * size);
        return to;
    }

    bnn_finish finish_of(nb::dict f)
    {
        bnn_finish finish{};
        finish.computed = static_cast<bnn_dtype>(nb::cast<int>(f["computed"]));
        finish.narrow = nb::cast<bool>(f["narrow"]);
        finish.scale = copy(finish.computed, f["scale"]);
        finish.shift = copy(finish.computed, f["shift"]);
        finish.activation = static_cast<bnn_activation>(nb::cast<int>(f["activation"]));
        finish.limits = numbers(finish.computed, {nb::cast<double>(f["low"]), nb::cast<double>(f["high"])});
        finish.slope = copy<float>(f["slope"]);
        finish.threshold = copy<std::int32_t>(f["threshold"]);
        finish.flip = copy<std::uint64_t>(f["flip"]);
        return finish;
    }

    void add(nb::dict op, const bnn_kernels *kernels)
    {
        bnn_node node{};
        node.op = static_cast<bnn_op>(nb::cast<int>(op["op"]));
        const auto inputs = nb::cast<std::vector<std::int32_t>>(op["inputs"]);
        auto *copied = static_cast<std::int32_t *>(own(inputs.size() * sizeof(std::int32_t)));
        std::copy(inputs.begin(), inputs.end(), copied);
        node.inputs = copied;
        node.n_inputs = static_cast<std::int32_t>(inputs.size());
        node.output = nb::cast<std::int32_t>(op["output"]);
        node.second = nb::cast<std::int32_t>(op["second"]);
        fill(node.kernel, 2, op["kernel"]);
        fill(node.stride, 2, op["stride"]);
        fill(node.dilation, 2, op["dilation"]);
        fill(node.padding, 4, op["padding"]);
        node.groups = nb::cast<std::int32_t>(op["groups"]);
        const bnn_dtype in = values_.at(static_cast<std::size_t>(node.inputs[0])).dtype;
        const double pad = nb::cast<double>(op["pad_value"]);
        if (in == BNN_BITS)
            node.pad_sign = static_cast<std::int32_t>(pad);
        else if (in == BNN_F32 || in == BNN_F64)
            node.pad = numbers(in, {pad});
        node.count_padding = nb::cast<bool>(op["count_padding"]);
        if (!op["rows"].is_none())
            node.weight = prepare(kernels, node.op, op["rows"], node.groups, nb::cast<int>(op["n"]));
        else if (node.op == BNN_DEPTHWISE)
            node.weight = copy<std::int8_t>(op["weight"]);
        else
            node.weight = copy<float>(op["weight"]);
        const bnn_finish &finish = node.finish = finish_of(nb::cast<nb::dict>(op["finish"]));
        const auto segments = nb::cast<nb::list>(op["segments"]);
        if (nb::len(segments)) {
            auto *to = static_cast<bnn_segment *>(own(nb::len(segments) * sizeof(bnn_segment)));
            node.segments = to;
            node.n_segments = static_cast<std::int32_t>(nb::len(segments));
            for (nb::handle item : segments) {
                const auto s = nb::cast<nb::dict>(item);
                bnn_segment segment{};
                segment.take = copy<std::int32_t>(s["take"]);
                segment.channels = static_cast<int>(nb::cast<Array>(s["take"]).shape(0));
                segment.output = nb::cast<int>(s["output"]);
                segment.outputs = static_cast<int>(nb::cast<Array>(s["rows"]).shape(0));
                segment.divisor = numbers(finish.computed, {nb::cast<double>(s["divisor"])});
                segment.weight = prepare(kernels, node.op, s["rows"], 1,
                                         node.kernel[0] * node.kernel[1] * segment.channels);
                *to++ = segment;
            }
        }
        if (!op["border"].is_none()) {
            const auto b = nb::cast<nb::dict>(op["border"]);
            node.border.row = copy<std::uint16_t>(b["row"]);
            node.border.column = copy<std::uint16_t>(b["column"]);
            node.border.columns = nb::cast<std::int32_t>(b["columns"]);
            const bool integers = node.op == BNN_PRODUCT_BITS || finish.threshold;
            node.border.values = copy(integers ? BNN_I32 : finish.computed, b["values"]);
        }
        const bnn_dtype out = values_.at(static_cast<std::size_t>(node.output)).dtype;
        node.mean = copy(out, op["mean"]);
        node.deviation = copy(out, op["deviation"]);
        node.flip = copy<std::uint64_t>(op["flip"]);
        nodes_.push_back(node);
    }

    bnn_plan plan_{};
    std::vector<bnn_value> values_;
    std::vector<bnn_node> nodes_;
    std::vector<Bytes> kept_;
    std::size_t owned_ = 0;
    double work_ = 0;
    std::size_t at_once_ = 1;                     // samples
    std::array<std::atomic<Arena *>, 16> idle_{}; // for the calls that come next
};

std::vector<std::string> instruction_sets()
{
    std::vector<std::string> names;
    for (int i = 0; const bnn_kernels *kernels = bnn_kernels_at(i); i++)
        names.emplace_back(bnn_kernels_name(kernels));
    return names;
}

// Calls task(part) for every part. In the OpenMP threads that PyTorch has, where it has them: they spin
// between its operations, and threads of our own would have to wait for their cores.
void share(int parts, int threads, const std::function<void(int)> &task)
{
    struct Shared {
        const std::function<void(int)> &task;
        int parts;
        std::atomic<int> next;
    } shared{task, parts, {0}};

    const auto work = [](void *p) {
        auto &s = *static_cast<Shared *>(p);
        for (int part; (part = s.next++) < s.parts;) s.task(part);
    };
#ifndef _WIN32
    using Parallel = void (*)(void (*)(void *), void *, unsigned, unsigned);
    static const auto openmp = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    if (openmp && parts > 1 && threads > 1) {
        openmp(work, &shared, static_cast<unsigned>(std::min(parts, threads)), 0);
        return;
    }
#else
    static_cast<void>(threads);
#endif
    work(&shared);
}

using Latent = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Signs = nb::ndarray<nb::c_contig, nb::device::cpu>; // float32, or uint16: bfloat16's bits

const bnn_latent &best_passes()
{
    static const bnn_latent *best = [] {
        const bnn_latent *found = bnn_latent_at(0);
        for (int i = 1; const bnn_latent *better = bnn_latent_at(i); i++) found = better;
        return found;
    }();
    return *best;
}

// Calls pass(x, n, first word, out) on pieces of x, out being typed.
template <typename Pass> void over_latent(const Latent &x, const Signs &out, int threads, const Pass &pass)
{
    constexpr std::size_t piece = 1 << 16;
    const bool bf16 = out.dtype() == nb::dtype<std::uint16_t>();
    if ((!bf16 && out.dtype() != nb::dtype<float>()) || out.size() != x.size())
        throw std::invalid_argument("the result must be float32 or uint16, and of the size of x");
    const float *from = x.data();
    const std::size_t n = x.size();
    void *to = out.data();
    without_gil([&](PyThreadState *) {
        share(static_cast<int>((n + piece - 1) / piece), threads, [&](int part) {
            const std::size_t at = piece * static_cast<std::size_t>(part), here = std::min(piece, n - at);
            if (bf16)
                pass(from + at, here, at / BNN_DRAWN_AT_ONCE, static_cast<std::uint16_t *>(to) + at);
            else
                pass(from + at, here, at / BNN_DRAWN_AT_ONCE, static_cast<float *>(to) + at);
        });
    });
}

void latent_signs(const Latent &x, const Signs &out, int threads)
{
    over_latent(x, out, threads, [](const float *from, std::size_t n, std::uint64_t, auto *to) {
        if constexpr (sizeof *to == sizeof(float))
            best_passes().signs_f32(from, n, to);
        else
            best_passes().signs_bf16(from, n, to);
    });
}

void latent_draws(const Latent &x, const Signs &out, std::uint64_t seed, int threads)
{
    over_latent(x, out, threads, [seed](const float *from, std::size_t n, std::uint64_t first, auto *to) {
        if constexpr (sizeof *to == sizeof(float))
            best_passes().draws_f32(from, n, seed, first, to);
        else
            best_passes().draws_bf16(from, n, seed, first, to);
    });
}

} // namespace

NB_MODULE(_native, m)
{
    m.doc() = "The compiled one-bit engine; bnn.runtime.native is its face.";
    nb::set_leak_warnings(false); // what a daemon's thread still holds when the process ends is no leak
    nb::class_<Plan>(m, "Plan")
        .def(nb::init<const std::vector<std::vector<int>> &, nb::list, const std::string &>(),
             nb::arg("values"), nb::arg("ops"), nb::arg("isa"))
        .def("run", &Plan::run, nb::arg("x"), nb::arg("out"), nb::arg("threads"))
        .def("bytes", &Plan::bytes, nb::arg("rows"), nb::arg("parts"))
        .def("exported", &Plan::exported)
        .def_prop_ro("isa", &Plan::isa)
        .def_prop_ro("work", &Plan::work);
    m.def("instruction_sets", &instruction_sets,
          "Names of the kernels that this processor can run, slowest first.");
    m.def("latent_signs", &latent_signs, nb::arg("x"), nb::arg("out"), nb::arg("threads"),
          "Signs of float32, into float32 or the bits of bfloat16; see native/latent.h.");
    m.def("latent_draws", &latent_draws, nb::arg("x"), nb::arg("out"), nb::arg("seed"), nb::arg("threads"),
          "Random signs with the hard sigmoid's probabilities; see native/latent.h.");
    m.def(
        "peak",
        [](const std::string &what, double seconds) {
            double rate = 0;
            without_gil([&](PyThreadState *) { rate = bnn_peak(what.c_str(), seconds); });
            return rate;
        },
        nb::arg("what"), nb::arg("seconds"),
        "Operations a second of a loop in registers; see native/peak.h.");
}
