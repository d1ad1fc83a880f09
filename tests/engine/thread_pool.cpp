// Four threads, a pool each, make so many loops of all lengths as the argument says. Pools are made
// anew in between, bodies throw, and copies of the process use what they inherit.

#include "thread_pool.h"

#include <sys/wait.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>

using fastad::ThreadPool;

struct Loop {
  std::vector<int> done;  // how often, not atomic: a data race where two threads do one part
  bool fails;
};

void require(bool holds, const char* what) {
  if (holds) return;
  std::cerr << what << std::endl;
  std::abort();
}

void check(ThreadPool& pool, int32_t parts, bool fails) {
  Loop loop{std::vector<int>(parts), fails};
  std::string caught;
  try {
    pool.run(
        parts,
        [](const void* context, int32_t part) {
          auto* loop = static_cast<Loop*>(const_cast<void*>(context));
          ++loop->done[part];
          if (loop->fails) throw std::runtime_error("part " + std::to_string(part));
        },
        &loop);
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  require(loop.done == std::vector<int>(parts, 1), "a part was not done once");
  require(caught.starts_with("part ") == (fails && parts > 0), "an exception was lost");
}

void in_a_copy(ThreadPool& inherited, std::unique_ptr<ThreadPool>& pool) {
  const pid_t copy = fork();
  if (copy == 0) {
    alarm(20);  // not to wait for ever
    require(inherited.forked(), "the copy takes the threads for its own");
    pool.reset();
    ThreadPool own(3);
    check(own, 7, false);
    _exit(0);
  }
  int status = -1;
  waitpid(copy, &status, 0);
  require(status == 0, "the copy failed");
}

void caller(int loops, int copies, unsigned seed) {
  std::mt19937 random(seed);
  std::unique_ptr<ThreadPool> pool;
  for (int i = 0; i < loops; ++i) {
    if (pool == nullptr || random() % 100 == 0)
      pool = std::make_unique<ThreadPool>(1 + random() % 5);
    check(*pool, static_cast<int32_t>(random() % 20), random() % 50 == 0);
    if (random() % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (copies > 0 && i % (loops / copies) == 0) in_a_copy(*pool, pool);
  }
}

int main(int, char** arguments) {
  std::vector<std::thread> callers;
  for (unsigned seed = 0; seed < 4; ++seed)
    callers.emplace_back(caller, std::stoi(arguments[1]), std::stoi(arguments[2]), seed);
  for (std::thread& one : callers) one.join();
}
