// What g++ compiles: a kernel of the engine's source, and who runs it block by block.
#include "emulate.h"
#include SOURCE

static void one(const void* told) { kernel(*static_cast<const Call*>(told)); }

extern "C" const char* launch(unsigned blocks, unsigned threads, unsigned order, const void* told) {
  return emulated::launch(blocks, threads, order, one, told);
}
extern "C" unsigned long long size_of_call() { return sizeof(Call); }
