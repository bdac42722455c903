// A persistent pool of threads that share one loop at a time.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace penjing {

class ThreadPool {
 public:
  // `threads` counts the caller, so that threads - 1 workers are started.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Call body(task, thread) for every task in [0, tasks), thread in [0, threads()), and wait for all of them.
  // Tasks are handed out one by one, in no promised order: a result must not depend on who ran what. The
  // first exception is rethrown here, and tasks not yet started are dropped. One caller at a time.
  template <class Body>
  void run(int64_t tasks, const Body& body) {
    if (workers_.empty() || tasks <= 1) {
      for (int64_t task = 0; task < tasks; ++task) body(task, 0);
      return;
    }
    run_shared(tasks, &body, [](const void* context, int64_t task, int thread) {
      (*static_cast<const Body*>(context))(task, thread);
    });
  }

 private:
  using Call = void (*)(const void* context, int64_t task, int thread);

  void run_shared(int64_t tasks, const void* context, Call call);
  void take_tasks(int thread);
  void close_and_wait();
  void work(int thread);
  bool wait_for_loop(uint64_t last_seen);
  bool join_loop(uint64_t& number);
  void leave_loop();
  void find_processors();
  void place_workers();
  void stop();

  std::vector<std::thread> workers_;
  int spins_;  // looks at an atomic before going to sleep
  std::vector<int> processors_;  // that the caller may use; first the one it was on when workers were placed
  int callers_processor_ = -1;

  // The loop being shared, in one cache line: what a worker reads when it comes. `loop_` is the loop's number,
  // whether workers may still join, and how many are inside; the rest is written while nobody is.
  alignas(64) std::atomic<uint64_t> loop_{0};
  int64_t tasks_ = 0;
  const void* context_ = nullptr;
  Call call_ = nullptr;

  alignas(64) std::atomic<int64_t> next_task_{0};

  // For those who have waited long enough to sleep. Each says so first and then looks again; who has something
  // to tell does it first and then looks who sleeps. So nobody locks while everybody is awake.
  alignas(64) std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<int> sleeping_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stopping_{false};
  std::exception_ptr failure_;
};

}  // namespace penjing
