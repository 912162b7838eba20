// What a CUDA kernel needs to run on a CPU: its threads are fibers of one thread, switched at __syncthreads and at
// shuffles. The order in which they run is free, so a test may change it: forwards, backwards, or shuffled. A barrier
// that some of a block never reach, or a shuffle that some of a warp never reach, hangs a GPU or worse: here it makes
// launch() return what is wrong. It includes little, since every case of every kernel is compiled with it.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

struct uint3 { unsigned x, y, z; };

namespace emulated {

enum State { READY, WARP, BLOCK, DONE };  // a fiber may run, or waits for its warp, or for its block

struct Fiber {
  uint3 thread;
  State state;
  bool started;
  jmp_buf here;
  ucontext_t first;
  char* stack;
  unsigned turn;  // which of two slots its next shuffle writes: a neighbour may be one shuffle ahead
  unsigned char slot[2][8];
};

constexpr size_t STACK = 1 << 16;
static Fiber fibers[1024];
static Fiber* current;
static jmp_buf scheduler;
static void (*body)(const void*);
static const void* argument;
static uint3 block, grid, threads;

static void enter() {
  body(argument);
  current->state = DONE;
  longjmp(scheduler, 1);
}

// Run a fiber until it waits or is done.
static void resume(Fiber& fiber) {
  current = &fiber;
  if (_setjmp(scheduler)) return;
  if (fiber.started) longjmp(fiber.here, 1);
  fiber.started = true;
  getcontext(&fiber.first);
  if (!fiber.stack) fiber.stack = (char*)malloc(STACK);
  fiber.first.uc_stack.ss_sp = fiber.stack;
  fiber.first.uc_stack.ss_size = STACK;
  fiber.first.uc_link = nullptr;
  makecontext(&fiber.first, enter, 0);
  setcontext(&fiber.first);
}

static void wait(State state) {
  current->state = state;
  if (!_setjmp(current->here)) longjmp(scheduler, 1);
}

// The order of `count` things: 0 forwards, 1 backwards, else one of many that `random` draws.
static void arrange(unsigned* all, unsigned count, unsigned order, unsigned& random) {
  for (unsigned i = 0; i < count; ++i) all[i] = order == 1 ? count - 1 - i : i;
  if (order < 2) return;
  for (unsigned i = count; i > 1; --i) {
    random = random * 1664525u + 1013904223u;
    const unsigned other = (unsigned)(((unsigned long long)random * i) >> 32), last = all[i - 1];
    all[i - 1] = all[other];
    all[other] = last;
  }
}

// Run a warp until all its lanes wait for the block or are done.
static const char* run_warp(unsigned from, unsigned lanes, unsigned order, unsigned& random) {
  unsigned all[32];
  for (;;) {
    arrange(all, lanes, order, random);
    for (unsigned i = 0; i < lanes; ++i)
      if (fibers[from + all[i]].state == READY) resume(fibers[from + all[i]]);
    unsigned waiting = 0;
    for (unsigned i = 0; i < lanes; ++i) waiting += fibers[from + i].state == WARP;
    if (waiting == 0) return nullptr;
    if (waiting != lanes) return "a shuffle that not every lane of its warp reaches";
    for (unsigned i = 0; i < lanes; ++i) fibers[from + i].state = READY;
  }
}

static const char* run_block(unsigned order) {
  const unsigned count = threads.x, warps = (count + 31) / 32;
  unsigned random = order, all[32];
  for (unsigned i = 0; i < count; ++i) {
    fibers[i].thread = {i, 0, 0};
    fibers[i].state = READY;
    fibers[i].started = false;
    fibers[i].turn = 0;
  }
  for (;;) {
    arrange(all, warps, order, random);
    for (unsigned w = 0; w < warps; ++w) {
      const unsigned from = all[w] * 32, left = count - from;
      const char* wrong = run_warp(from, left < 32 ? left : 32, order, random);
      if (wrong) return wrong;
    }
    unsigned done = 0;
    for (unsigned i = 0; i < count; ++i) done += fibers[i].state == DONE;
    if (done == count) return nullptr;
    if (done != 0) return "a barrier that not every thread of its block reaches";
    for (unsigned i = 0; i < count; ++i) fibers[i].state = READY;
  }
}

// Run all blocks; return what is wrong, or null.
static const char* launch(unsigned blocks, unsigned count, unsigned order, void (*function)(const void*),
                          const void* told) {
  body = function;
  argument = told;
  grid = {blocks, 1, 1};
  threads = {count, 1, 1};
  for (unsigned b = 0; b < blocks; ++b) {
    block = {order == 1 ? blocks - 1 - b : b, 0, 0};
    const char* wrong = run_block(order);
    if (wrong) return wrong;
  }
  return nullptr;
}

template <class V> V exchange(V value, int lane_xor) {
  const unsigned turn = current->turn++ % 2;
  memcpy(current->slot[turn], &value, sizeof(V));
  const unsigned other = current->thread.x ^ lane_xor;
  wait(WARP);
  memcpy(&value, fibers[other].slot[turn], sizeof(V));
  return value;
}

}  // namespace emulated

#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (emulated::current->thread)
#define blockIdx (emulated::block)
#define blockDim (emulated::threads)
#define gridDim (emulated::grid)

inline void __syncthreads() { emulated::wait(emulated::BLOCK); }
template <class V> V __shfl_xor_sync(unsigned, V value, int lane) { return emulated::exchange(value, lane); }
inline float __uint_as_float(unsigned bits) { float f; memcpy(&f, &bits, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned bits; memcpy(&bits, &f, 4); return bits; }
#define ASM_WIDEN(f, bits) { _Float16 h; memcpy(&h, &bits, 2); f = h; }
#define ASM_NARROW(bits, f) { _Float16 h = (_Float16)f; memcpy(&bits, &h, 2); }
