#include "threads.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace penjing {
namespace {

// About 20 microseconds: longer than the gap between two loops of a step, shorter than a wake-up is worth.
constexpr int kSpins = 2000;

constexpr uint64_t kOpen = uint64_t{1} << 31;  // of `loop_`: a worker that comes now may join
constexpr uint64_t kInside = kOpen - 1;        // workers in the loop; above both, the loop's number

uint64_t number_of(uint64_t loop) { return loop >> 32; }

void pause_briefly() {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads < 1) throw std::invalid_argument("threads must be at least 1, got " + std::to_string(threads));
  // With more threads than processors a spinning thread keeps a working one waiting.
  const int processors = static_cast<int>(std::thread::hardware_concurrency());
  spins_ = threads <= processors ? kSpins : 0;
  find_processors();
  workers_.reserve(threads - 1);
  try {
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_.store(true);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

#ifdef __linux__
void ThreadPool::find_processors() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;  // beyond 1024 processors
  for (int processor = 0; processor < CPU_SETSIZE; ++processor)
    if (CPU_ISSET(processor, &allowed)) processors_.push_back(processor);
}

// Keep the workers off the caller's processor, and where there is just one for each thread, off each other's.
// Left to itself, Linux wakes a thread on the processor of who woke it, as soon as the idle ones look taken:
// in a virtual machine those that sleep do (KVM reports them as preempted), and two threads then share one
// processor for tens of milliseconds, beside an idle one. Looked at in every loop, because the caller may be
// moved to where a worker is kept; asking for one's processor takes nanoseconds.
void ThreadPool::place_workers() {
  const int callers = sched_getcpu();
  if (callers == callers_processor_ || processors_.size() < workers_.size() + 1) return;
  const auto found = std::find(processors_.begin(), processors_.end(), callers);
  if (found == processors_.end()) return;
  callers_processor_ = callers;
  std::iter_swap(processors_.begin(), found);
  const bool one_each = processors_.size() == workers_.size() + 1;
  for (size_t worker = 0; worker < workers_.size(); ++worker) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    for (size_t other = 1; other < processors_.size(); ++other)
      if (!one_each || other == worker + 1) CPU_SET(processors_[other], &mask);
    pthread_setaffinity_np(workers_[worker].native_handle(), sizeof mask, &mask);
  }
}
#else
void ThreadPool::find_processors() {}
void ThreadPool::place_workers() {}
#endif

void ThreadPool::take_tasks(int thread) {
  try {
    for (;;) {
      const int64_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
      if (task >= tasks_) return;
      call_(context_, task, thread);
    }
  } catch (...) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
    next_task_.store(tasks_, std::memory_order_relaxed);
  }
}

void ThreadPool::run_shared(int64_t tasks, const void* context, Call call) {
  tasks_ = tasks;
  context_ = context;
  call_ = call;
  next_task_.store(0, std::memory_order_relaxed);
  place_workers();
  loop_.store((number_of(loop_.load(std::memory_order_relaxed)) + 1) << 32 | kOpen);
  if (sleeping_.load() > 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }  // who said it would sleep does by now
    wake_.notify_all();
  }
  take_tasks(0);
  close_and_wait();
  if (failure_) {
    std::exception_ptr failure = nullptr;
    std::swap(failure, failure_);
    std::rethrow_exception(failure);
  }
}

// A worker that is late finds the loop closed and is not waited for: with 7 threads on 2 processors, the loop
// ends when its tasks end, not when everybody has been scheduled once.
void ThreadPool::close_and_wait() {
  if ((loop_.fetch_and(~kOpen) & kInside) == 0) return;
  for (int spin = 0; spin < spins_; ++spin) {
    if ((loop_.load(std::memory_order_acquire) & kInside) == 0) return;
    pause_briefly();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  caller_sleeps_.store(true);
  done_.wait(lock, [this] { return (loop_.load() & kInside) == 0; });
  caller_sleeps_.store(false);
}

void ThreadPool::work(int thread) {
  uint64_t number = 0;
  while (wait_for_loop(number)) {
    if (!join_loop(number)) continue;
    take_tasks(thread);
    leave_loop();
  }
}

// False at the end of the pool.
bool ThreadPool::wait_for_loop(uint64_t last_seen) {
  const auto is_over = [&] { return number_of(loop_.load()) != last_seen || stopping_.load(); };
  for (int spin = 0; spin < spins_; ++spin) {
    if (is_over()) return !stopping_.load();
    pause_briefly();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleeping_.fetch_add(1);
  wake_.wait(lock, is_over);
  sleeping_.fetch_sub(1);
  return !stopping_.load();
}

bool ThreadPool::join_loop(uint64_t& number) {
  uint64_t loop = loop_.load();
  while (loop & kOpen && !loop_.compare_exchange_weak(loop, loop + 1)) pause_briefly();
  number = number_of(loop);
  return loop & kOpen;
}

void ThreadPool::leave_loop() {
  if ((loop_.fetch_sub(1) & kInside) != 1 || !caller_sleeps_.load()) return;
  { std::lock_guard<std::mutex> lock(mutex_); }
  done_.notify_one();
}

}  // namespace penjing
