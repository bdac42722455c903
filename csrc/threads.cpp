#include "threads.h"

#include <stdexcept>
#include <string>

namespace penjing {
namespace {

// About 20 microseconds: longer than the gap between two loops of a step, shorter than a wake-up is worth.
constexpr int kSpins = 2000;

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
    stopping_.store(true, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

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

// A worker that is late finds the loop closed and is not waited for: with 7 threads on 2 processors, the loop
// ends when its tasks end, not when everybody has been scheduled once.
void ThreadPool::run_shared(int64_t tasks, const void* context, Call call) {
  bool wake;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    tasks_ = tasks;
    context_ = context;
    call_ = call;
    next_task_.store(0, std::memory_order_relaxed);
    open_ = true;
    wake = sleeping_ > 0;
    loops_.fetch_add(1, std::memory_order_release);
  }
  if (wake) wake_.notify_all();
  take_tasks(0);

  for (int spin = 0; spin < spins_ && inside_.load(std::memory_order_acquire) > 0; ++spin) pause_briefly();
  std::unique_lock<std::mutex> lock(mutex_);
  open_ = false;
  done_.wait(lock, [this] { return inside_.load(std::memory_order_acquire) == 0; });
  if (failure_) {
    std::exception_ptr failure = nullptr;
    std::swap(failure, failure_);
    std::rethrow_exception(failure);
  }
}

void ThreadPool::wait_for_loop(uint64_t last_seen) {
  for (int spin = 0; spin < spins_; ++spin) {
    if (loops_.load(std::memory_order_acquire) != last_seen || stopping_.load(std::memory_order_acquire))
      return;
    pause_briefly();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  ++sleeping_;
  wake_.wait(lock, [&] {
    return loops_.load(std::memory_order_acquire) != last_seen || stopping_.load(std::memory_order_acquire);
  });
  --sleeping_;
}

void ThreadPool::work(int thread) {
  uint64_t seen = 0;
  for (;;) {
    wait_for_loop(seen);
    bool joined;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (stopping_.load(std::memory_order_acquire)) return;
      seen = loops_.load(std::memory_order_acquire);
      joined = open_;
      if (joined) inside_.fetch_add(1, std::memory_order_acq_rel);
    }
    if (!joined) continue;
    take_tasks(thread);
    std::lock_guard<std::mutex> lock(mutex_);
    if (inside_.fetch_sub(1, std::memory_order_acq_rel) == 1 && !open_) done_.notify_one();
  }
}

}  // namespace penjing
