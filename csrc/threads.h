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
  void work(int thread);
  void wait_for_loop(uint64_t last_seen);
  void stop();

  std::vector<std::thread> workers_;
  int spins_;  // looks at an atomic before going to sleep

  // The loop being shared. Written by the caller while no worker is inside.
  int64_t tasks_ = 0;
  const void* context_ = nullptr;
  Call call_ = nullptr;
  std::atomic<int64_t> next_task_{0};
  std::exception_ptr failure_;

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> loops_{0};  // loops begun
  std::atomic<int> inside_{0};      // workers in the loop
  int sleeping_ = 0;
  bool open_ = false;  // a worker that comes now may join
  std::atomic<bool> stopping_{false};
};

}  // namespace penjing
