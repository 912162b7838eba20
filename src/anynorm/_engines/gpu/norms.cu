// The kernels of every norm, in CUDA C++ without headers: NVRTC compiles them for a GPU, and the tests, with an emulator,
// for the CPU. See docs/guide/engines.md.
//
// x comes as four axes (A, B, C, D); a slice is (a, c), reduced over B and D. What the host decided once is a macro:
//   KERNEL                       the function of this file that is compiled
//   ELEMENT, GRADIENT, PARAMETER what x and the result, dy, weight and bias are: 0 float, 1 float16, 2 bfloat16
//   VEC, PER                     elements a load, and loads a thread has in its registers at once
//   TPR, ROWS                    threads that share a row, and rows of a block
//   FORM                         0 along rows; 1 down columns; 2 down columns, where statistics change from row to row
//
// All arithmetic is float32, but for a few operations a part in float64. The mean is near + left: `near` is an element,
// or close to the mean; `left` is the mean of what deviates from it. A constant slice deviates by exactly 0.

#ifdef __CUDACC__
#define ASM_WIDEN(f, bits) asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(bits))
#define ASM_NARROW(bits, f) asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(f))
#if __CUDA_ARCH__ >= 800
#define ASM_NARROW_BRAIN(bits, f) asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(f))
#endif
#endif

#define INLINE __device__ __forceinline__
#define EACH(k, many) _Pragma("unroll") for (int k = 0; k < (many); ++k)

// ------------------------------------------------------------------------------------------------ elements

struct Half { unsigned short bits; };
struct Brain { unsigned short bits; };

template <int kind> struct Element { using type = float; };
template <> struct Element<1> { using type = Half; };
template <> struct Element<2> { using type = Brain; };
using T = Element<ELEMENT>::type;
using G = Element<GRADIENT>::type;
using P = Element<PARAMETER>::type;

INLINE float widen(float x) { return x; }
INLINE float widen(Half x) { float f; ASM_WIDEN(f, x.bits); return f; }
INLINE float widen(Brain x) { return __uint_as_float((unsigned)x.bits << 16); }

INLINE void narrow(float f, float& out) { out = f; }
INLINE void narrow(float f, Half& out) { ASM_NARROW(out.bits, f); }
INLINE void narrow(float f, Brain& out) {
#ifdef ASM_NARROW_BRAIN
  ASM_NARROW_BRAIN(out.bits, f);
#else  // to the nearest, ties to even
  const unsigned bits = __float_as_uint(f);
  out.bits = f != f ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#endif
}

template <class E> struct alignas(sizeof(E) * VEC) Pack { E v[VEC]; };  // one load or store

template <class E> INLINE void load(float (&to)[VEC], const E* from) {
  const Pack<E> pack = *reinterpret_cast<const Pack<E>*>(from);
  EACH(k, VEC) to[k] = widen(pack.v[k]);
}

template <class E> INLINE void store(E* to, const float (&from)[VEC]) {
  Pack<E> pack;
  EACH(k, VEC) narrow(from[k], pack.v[k]);
  *reinterpret_cast<Pack<E>*>(to) = pack;
}

// ------------------------------------------------------------------------------------------------ what a kernel is told

// Where an entry of weight, bias or a table of statistics stands: along an axis it changes every `divide` elements, and
// begins again after `modulo` of its own. Along D it has one entry for all, or one for each element, side by side.
struct Along {
  long long divide[4], modulo[4], stride[4];
  INLINE long long at(int axis, long long i) const {
    return stride[axis] == 0 ? 0 : i / divide[axis] % modulo[axis] * stride[axis];
  }
};

struct Call {
  const T* x;
  const G* dy;
  T* y;  // the result, or the gradient of x; none where statistics alone are wanted
  const P *weight, *bias;
  float *mean, *rest, *var;  // tables of the slices; no mean where the norm subtracts none
  void* parts;               // of the slices' sums
  float *shift, *scale;      // what a gradient loses along 1 and along y, of the slices
  long long a, b, c, d;
  long long n;       // elements of a slice
  long long pieces;  // into which a slice is cut, or what is walked down
  long long side;    // rows that lie side by side where columns are walked down
  long long share;   // rows that have one entry in the tables
  Along of_weight, of_bias, of_table;
  float eps;
  int trust;  // whether variances that float32 does not hold become NaN
  int weigh;  // whether products are weighted one by one
};

INLINE void entries(float (&to)[VEC], const P* table, const Along& along, long long base, long long b, long long d) {
  const P* from = table + base + along.at(1, b);
  if (along.stride[3] != 0) load(to, from + d);
  else {
    const float one = widen(*from);
    EACH(k, VEC) to[k] = one;
  }
}

// ------------------------------------------------------------------------------------------------ sums

constexpr int WARPS = TPR > 32 ? TPR / 32 : 1;  // a row's
constexpr int LANES = TPR < 32 ? TPR : 32;

// Sum over a row's threads, the same to the last bit in each. Every sum of a kernel has memory of its own, `slot`.
template <class V> INLINE V total(V a, int slot) {
  __shared__ V shared[4][ROWS][WARPS];
#pragma unroll
  for (int lane = LANES / 2; lane; lane /= 2) a += __shfl_xor_sync(0xffffffffu, a, lane);
  if (WARPS == 1) return a;
  const int own = threadIdx.x % 32;
  if (own == 0) shared[slot][threadIdx.x / TPR][threadIdx.x % TPR / 32] = a;
  __syncthreads();
  a = own < WARPS ? shared[slot][threadIdx.x / TPR][own] : V(0);
#pragma unroll
  for (int lane = 16; lane; lane /= 2) a += __shfl_xor_sync(0xffffffffu, a, lane);
  return a;
}

// Add up VEC sums, in pairs.
INLINE float together(float (&a)[VEC]) {
#pragma unroll
  for (int half = VEC / 2; half; half /= 2) {
    EACH(k, half) a[k] += a[k + half];
  }
  return a[0];
}

INLINE float infinity() { return __uint_as_float(0x7f800000u); }
INLINE float not_a_number() { return __uint_as_float(0x7fc00000u); }
INLINE bool is_infinite(float a) { return a == infinity() || a == -infinity(); }

// The square of a number, above 0 where that is not 0: so a slice is told from a constant one.
INLINE float squared(float a) {
  const float square = a * a;
  return square == 0.0f && a != 0.0f ? __uint_as_float(1u) : square;
}

// A sum that keeps what its roundings lost.
struct Sum {
  float sum = 0.0f, lost = 0.0f;
  INLINE void add(float a) {
    const float next = sum + a, part = next - sum;
    lost += (sum - (next - part)) + (a - part);
    sum = next;
  }
  INLINE float value() const { return lost == lost ? sum + lost : sum; }  // of an infinity nothing is lost
};

struct Part { float count, mean, rest, squares; };  // without a mean, rest counts infinities
struct Products { float dy, dy_y; };

// What one thread has seen of a slice: batches of COUNT elements, each with squares of what deviates from its own mean.
struct Gathered {
  Sum all;
  float squares = 0.0f, have = 0.0f, infinite = 0.0f;
  template <int COUNT, int STRIDE> INLINE void add(const float* d, int many, bool centred) {
    if (many == 0) return;
    float part = 0.0f, own = 0.0f;
    EACH(i, COUNT) part += i < many ? d[i * STRIDE] : 0.0f;
    const float centre = centred ? part / many : 0.0f;
    EACH(i, COUNT) {
      const float e = i < many ? d[i * STRIDE] - centre : 0.0f;
      own += squared(e);
      if (!centred) infinite += is_infinite(e) ? 1.0f : 0.0f;
    }
    const float apart = centred && have > 0.0f ? centre - all.value() / have : 0.0f;
    squares += own + squared(apart) * (have * many / (have + many));
    have += many;
    all.add(part);
  }
};

// ------------------------------------------------------------------------------------------------ statistics

// A mean of squares, above 0 where their sum is.
template <class V> INLINE float mean_square(V sum, V n) {
  const float mean = (float)(sum / n);
  return mean == 0.0f && sum > V(0) ? __uint_as_float(1u << 24) : mean;  // 2**-125: nobody takes it for a variance
}

// A variance, NaN where squares have left the range of float32: neither 0 nor infinity is true.
INLINE float trusted(float var, const Call& call, bool infinite) {
  if (!call.trust) return var;
  if (is_infinite(var)) return infinite ? var : not_a_number();
  const bool small = call.eps < __uint_as_float(47u << 23) && var != 0.0f;  // 2**-80: a larger eps hides what is lost
  return small && var + call.eps < __uint_as_float(3u << 23) ? not_a_number() : var;  // 2**-124
}

INLINE float rstd_of(float var, float eps) {
  const float all = var + eps;
  if (var < 0.0f) return not_a_number();
  return all == 0.0f ? 0.0f : 1.0f / sqrtf(all);  // 0 for a constant slice
}

struct Statistics {
  float mean, rest, rstd;
  INLINE Statistics() {}
  INLINE Statistics(const Call& call, long long a, long long c) {
    const long long at = call.of_table.at(0, a) + call.of_table.at(2, c);
    mean = call.mean == nullptr ? 0.0f : call.mean[at];
    rest = call.rest == nullptr ? 0.0f : call.rest[at];
    rstd = rstd_of(call.var[at], call.eps);
  }
  INLINE float of(float x) const { return ((x - mean) - rest) * rstd; }
};

INLINE void keep(const Call& call, long long slice, float near, float left, float var) {
  if (call.mean != nullptr) {
    const float mean = near + left;
    call.mean[slice] = mean;
    call.rest[slice] = left - (mean - near);
  }
  call.var[slice] = var;
}

// ------------------------------------------------------------------------------------------------ whole rows

// The place of a vector in its slice, along B and along D.
struct Place {
  int b, d;
  INLINE Place(const Call& call, int at) : b(0), d(at) {
    if (call.b > 1) {
      b = at / (int)call.d;
      d = at % (int)call.d;
    }
  }
};

INLINE void finish(float (&z)[VEC], const Call& call, long long of_weight, long long of_bias, long long b, long long d) {
  float entry[VEC];
  if (call.weight != nullptr) {
    entries(entry, call.weight, call.of_weight, of_weight, b, d);
    EACH(k, VEC) z[k] *= entry[k];
  }
  if (call.bias != nullptr) {
    entries(entry, call.bias, call.of_bias, of_bias, b, d);
    EACH(k, VEC) z[k] += entry[k];
  }
}

// Standardise slices that lie together, each in the registers of TPR threads: x is read once. C is 1.
INLINE void rows(const Call& call) {
  const int lane = threadIdx.x % TPR, n = (int)call.n, own = lane * VEC, step = TPR * VEC;
  const long long row = (long long)blockIdx.x * ROWS + threadIdx.x / TPR;
  const bool there = row < call.a, centred = call.mean != nullptr;  // who is not there keeps its warp company
  const T* x = call.x + (there ? row * n : 0);

  float d[PER][VEC], sum[VEC] = {}, squares[VEC] = {}, infinite = 0.0f;
  const float element = centred ? widen(x[0]) : 0.0f;
  EACH(i, PER) {
    if (own + i * step < n) {
      load(d[i], x + own + i * step);
      EACH(k, VEC) sum[k] += d[i][k] - element;
    }
  }
  const float near = centred ? element + total(together(sum), 0) / n : 0.0f;
  EACH(k, VEC) sum[k] = 0.0f;
  EACH(i, PER) {
    if (own + i * step < n) {
      EACH(k, VEC) {
        const float e = d[i][k] - near;
        sum[k] += e;
        squares[k] += squared(e);
        infinite += is_infinite(e) ? 1.0f : 0.0f;
      }
    }
  }
  const float left = centred ? total(together(sum), 1) / n : 0.0f;
  if (!centred) infinite = total(infinite, 1);
  float var = mean_square<float>(total(together(squares), 2), n) - left * left;
  var = trusted(var < 0.0f ? 0.0f : var, call, infinite > 0.0f);
  if (there && lane == 0) keep(call, row, near, left, var);
  if (!there || call.y == nullptr) return;

  Statistics s;
  s.mean = near + left;
  s.rest = left - (s.mean - near);
  s.rstd = rstd_of(var, call.eps);
  const long long of_weight = call.of_weight.at(0, row), of_bias = call.of_bias.at(0, row);
  EACH(i, PER) {
    const int at = own + i * step;
    if (at < n) {
      const Place place(call, at);
      EACH(k, VEC) d[i][k] = s.of(d[i][k]);
      finish(d[i], call, of_weight, of_bias, place.b, place.d);
      store(call.y + row * n + at, d[i]);
    }
  }
}

// Pull the gradient of such slices back: x and dy are read once.
INLINE void rows_pull(const Call& call) {
  const int lane = threadIdx.x % TPR, n = (int)call.n, own = lane * VEC, step = TPR * VEC;
  const long long row = (long long)blockIdx.x * ROWS + threadIdx.x / TPR;
  const bool there = row < call.a;
  const long long first = there ? row * n : 0;
  const Statistics s(call, there ? row : 0, 0);
  const long long of_weight = call.of_weight.at(0, there ? row : 0);

  float y[PER][VEC], g[PER][VEC], sum[VEC] = {}, products[VEC] = {};
  EACH(i, PER) {
    const int at = own + i * step;
    if (at < n) {
      const Place place(call, at);
      load(y[i], call.x + first + at);
      load(g[i], call.dy + first + at);
      float w[VEC];
      if (call.weight != nullptr) entries(w, call.weight, call.of_weight, of_weight, place.b, place.d);
      EACH(k, VEC) {
        y[i][k] = s.of(y[i][k]);
        if (call.weight != nullptr) g[i][k] *= w[k];
        sum[k] += g[i][k];
        products[k] += g[i][k] * y[i][k];
      }
    }
  }
  const float shift = call.mean == nullptr ? 0.0f : total(together(sum), 0) / n;
  const float scale = total(together(products), 1) / n;
  if (!there) return;
  EACH(i, PER) {
    if (own + i * step < n) {
      EACH(k, VEC) g[i][k] = ((g[i][k] - shift) - y[i][k] * scale) * s.rstd;
      store(call.y + first + own + i * step, g[i]);
    }
  }
}

// ------------------------------------------------------------------------------------------------ pieces of slices

// FORM 0: a block has a piece of a slice, vectors low to high of it, counted along B and D.
struct Piece {
  long long a, c, first;
  int low, high, across;
  INLINE Piece(const Call& call, long long block) {
    const long long slice = block / call.pieces;
    a = slice / call.c;
    c = slice % call.c;
    first = (a * call.b * call.c + c) * call.d;
    across = (int)(call.d / VEC);
    const long long vectors = call.b * across, each = (vectors + call.pieces - 1) / call.pieces;
    const long long from = block % call.pieces * each, to = from + each;
    low = (int)(from < vectors ? from : vectors);
    high = (int)(to < vectors ? to : vectors);
  }
  INLINE int b(int v) const { return v / across; }
  INLINE int d(int v) const { return v % across * VEC; }
  INLINE long long at(const Call& call, int v) const { return first + b(v) * call.c * call.d + d(v); }
};

// FORM 1 and 2: a warp walks VEC columns a lane down the rows low to high of a piece; a row is `length` elements, of
// which the last row may lack some. Of FORM 2 no column is a slice's.
struct Columns {
  long long a, column, length, size, low, high, piece;
  int warp;
  INLINE Columns(const Call& call, long long block) {
    length = call.side * call.c * call.d;
    size = call.b * call.c * call.d;
    const long long tiles = (length + 32 * VEC - 1) / (32 * VEC), rows = (size + length - 1) / length;
    piece = block % call.pieces;
    a = block / call.pieces / tiles;
    column = (block / call.pieces % tiles * 32 + threadIdx.x % 32) * VEC;
    warp = threadIdx.x / 32;
    const long long each = (rows + call.pieces - 1) / call.pieces;
    low = piece * each;
    high = low + each < rows ? low + each : rows;
  }
  INLINE bool there(long long row) const { return row < high && column < length && row * length + column < size; }
  INLINE long long at(long long row) const { return a * size + row * length + column; }
  INLINE long long b(const Call& call, long long row, int k) const { return row * call.side + (column + k) / (call.c * call.d); }
  INLINE long long c(const Call& call, int k) const { return (column + k) / call.d % call.c; }
  INLINE long long d(const Call& call, int k) const { return (column + k) % call.d; }
  // Where the sums of a column stand: those of a slice's columns lie side by side.
  INLINE long long part(const Call& call, int k) const {
    const long long own = call.c * call.d, i = column + k;
    return (((a * own + i % own) * call.side + i / own) * call.pieces + piece) * (TPR / 32) + warp;
  }
};

INLINE void partial(const Call& call) {
  Part* parts = (Part*)call.parts;
  const bool centred = call.mean != nullptr;
  float d[PER][VEC];
  if (FORM == 0) {
    const Piece piece(call, blockIdx.x);
    const float near = centred ? widen(call.x[piece.first]) : 0.0f;
    Gathered all;
    for (int v = piece.low + (int)threadIdx.x; v < piece.high; v += TPR * PER) {
      int many = 0;
      EACH(i, PER) {
        if (v + i * TPR >= piece.high) continue;
        load(d[i], call.x + piece.at(call, v + i * TPR));
        EACH(k, VEC) d[i][k] -= near;
        many += VEC;
      }
      all.add<PER * VEC, 1>(&d[0][0], many, centred);
    }
    const float count = (float)(piece.high - piece.low) * VEC;
    const float sum = total(all.all.value(), 0), left = centred && count > 0.0f ? sum / count : 0.0f;
    const float apart = all.have > 0.0f && centred ? all.all.value() / all.have - left : 0.0f;
    const float squares = total(all.squares + squared(apart) * all.have, 1);
    const float infinite = total(all.infinite, 2), mean = near + left;
    if (threadIdx.x == 0) parts[blockIdx.x] = {count, mean, centred ? left - (mean - near) : infinite, squares};
  } else {
    const Columns columns(call, blockIdx.x);
    if (columns.column >= columns.length) return;
    Gathered all[VEC];
    float near[VEC];
    EACH(k, VEC)
      near[k] = centred ? widen(call.x[columns.a * columns.size + columns.c(call, k) * call.d]) : 0.0f;
    for (long long row = columns.low + columns.warp; row < columns.high; row += TPR / 32 * PER) {
      int many = 0;
      EACH(i, PER) {
        if (!columns.there(row + i * (TPR / 32))) continue;
        load(d[i], call.x + columns.at(row + i * (TPR / 32)));
        EACH(k, VEC) d[i][k] -= near[k];
        ++many;
      }
      EACH(k, VEC) all[k].add<PER, VEC>(&d[0][k], many, centred);
    }
    EACH(k, VEC) {
      const float left = all[k].have > 0.0f && centred ? all[k].all.value() / all[k].have : 0.0f, mean = near[k] + left;
      const float rest = centred ? left - (mean - near[k]) : all[k].infinite;
      parts[columns.part(call, k)] = {all[k].have, mean, rest, all[k].squares};
    }
  }
}

// Put the parts of a slice together, `share` of them, which lie side by side: a block a slice.
INLINE void combine(const Call& call) {
  const Part* parts = (const Part*)call.parts + blockIdx.x * call.share;
  const bool centred = call.mean != nullptr;
  const double near = parts[0].mean;
  double sum = 0.0, squares = 0.0, infinite = 0.0;
  for (long long i = threadIdx.x; i < call.share; i += TPR) {
    if (parts[i].count == 0.0f) continue;
    if (centred) sum += parts[i].count * ((parts[i].mean - near) + parts[i].rest);
    else infinite += parts[i].rest;
  }
  const double left = total(sum, 0) / call.n;
  for (long long i = threadIdx.x; i < call.share; i += TPR) {
    if (parts[i].count == 0.0f) continue;
    const double apart = centred ? (parts[i].mean - near) + parts[i].rest - left : 0.0;
    squares += parts[i].squares + parts[i].count * apart * apart;
  }
  squares = total(squares, 1);
  infinite = total(infinite, 2);
  if (threadIdx.x != 0) return;
  const float mean = (float)(near + left);
  keep(call, blockIdx.x, mean, (float)((near - mean) + left), trusted(mean_square<double>(squares, call.n), call, infinite > 0.0));
}

// Standardise by statistics that are known, from the end of x, whose start has left the cache.
INLINE void apply(const Call& call) {
  const long long block = gridDim.x - 1 - blockIdx.x;
  float z[VEC];
  if (FORM == 0) {
    const Piece piece(call, block);
    const Statistics s(call, piece.a, piece.c);
    const long long of_weight = call.of_weight.at(0, piece.a) + call.of_weight.at(2, piece.c);
    const long long of_bias = call.of_bias.at(0, piece.a) + call.of_bias.at(2, piece.c);
    for (int v = piece.low + (int)threadIdx.x; v < piece.high; v += TPR) {
      load(z, call.x + piece.at(call, v));
      EACH(k, VEC) z[k] = s.of(z[k]);
      finish(z, call, of_weight, of_bias, piece.b(v), piece.d(v));
      store(call.y + piece.at(call, v), z);
    }
  } else {
    const Columns columns(call, block);
    if (columns.column >= columns.length) return;
    Statistics s[VEC];
    long long of_weight[VEC], of_bias[VEC];
    float w[VEC], b[VEC];
    EACH(k, VEC) {
      const long long c = columns.c(call, k), d = columns.d(call, k);
      s[k] = Statistics(call, columns.a, c);
      of_weight[k] = call.of_weight.at(0, columns.a) + call.of_weight.at(2, c) + call.of_weight.at(3, d);
      of_bias[k] = call.of_bias.at(0, columns.a) + call.of_bias.at(2, c) + call.of_bias.at(3, d);
      w[k] = call.weight == nullptr ? 1.0f : widen(call.weight[of_weight[k]]);
      b[k] = call.bias == nullptr ? 0.0f : widen(call.bias[of_bias[k]]);
    }
    for (long long row = columns.low + columns.warp; columns.there(row); row += TPR / 32) {
      load(z, call.x + columns.at(row));
      EACH(k, VEC) {
        if (call.of_weight.stride[1] != 0) w[k] = widen(call.weight[of_weight[k] + call.of_weight.at(1, columns.b(call, row, k))]);
        if (call.of_bias.stride[1] != 0) b[k] = widen(call.bias[of_bias[k] + call.of_bias.at(1, columns.b(call, row, k))]);
        z[k] = s[k].of(z[k]);
        if (call.weight != nullptr) z[k] *= w[k];
        if (call.bias != nullptr) z[k] += b[k];
      }
      store(call.y + columns.at(row), z);
    }
  }
}

// ------------------------------------------------------------------------------------------------ pullbacks of pieces

// Sum dy and dy * y over parts of a slice; of FORM 2 over parts of a column, which has elements of every slice.
INLINE void products(const Call& call) {
  Products* parts = (Products*)call.parts;
  float x[VEC], g[VEC];
  if (FORM == 0) {
    const Piece piece(call, blockIdx.x);
    const Statistics s(call, piece.a / call.share, piece.c);
    const long long of_weight = call.of_weight.at(0, piece.a) + call.of_weight.at(2, piece.c);
    Sum sum, product;
    for (int v = piece.low + (int)threadIdx.x; v < piece.high; v += TPR) {
      float own[VEC], both[VEC], w[VEC];
      load(x, call.x + piece.at(call, v));
      load(g, call.dy + piece.at(call, v));
      if (call.weigh) entries(w, call.weight, call.of_weight, of_weight, piece.b(v), piece.d(v));
      EACH(k, VEC) {
        own[k] = call.weigh ? g[k] * w[k] : g[k];
        both[k] = own[k] * s.of(x[k]);
      }
      sum.add(together(own));
      product.add(together(both));
    }
    const float dy = total(sum.value(), 0), dy_y = total(product.value(), 1);
    if (threadIdx.x == 0) parts[blockIdx.x] = {dy, dy_y};
  } else {
    const Columns columns(call, blockIdx.x);
    if (columns.column >= columns.length) return;
    Statistics s[VEC];
    Sum sum[VEC], product[VEC];
    if (FORM == 1) {
      EACH(k, VEC) s[k] = Statistics(call, columns.a, columns.c(call, k));
    }
    for (long long row = columns.low + columns.warp; columns.there(row); row += TPR / 32) {
      load(x, call.x + columns.at(row));
      load(g, call.dy + columns.at(row));
      EACH(k, VEC) {
        if (FORM == 2) s[k] = k == 0 || call.side > 1 ? Statistics(call, columns.b(call, row, k) / call.share, 0) : s[0];
        sum[k].add(g[k]);
        product[k].add(g[k] * s[k].of(x[k]));
      }
    }
    EACH(k, VEC) parts[columns.part(call, k)] = {sum[k].value(), product[k].value()};
  }
}

// Say what the gradient of each slice loses along 1 and along y: a block a slice, which has `share` cells of `pieces`
// parts each; a cell has one weight.
INLINE void combine_products(const Call& call) {
  const long long a = blockIdx.x / call.c, c = blockIdx.x % call.c, many = call.share * call.pieces;
  const Products* parts = (const Products*)call.parts + blockIdx.x * many;
  const long long of_weight = call.of_weight.at(0, a) + call.of_weight.at(2, c);
  double sum = 0.0, product = 0.0;
  for (long long i = threadIdx.x; i < many; i += TPR) {
    const long long cell = call.of_weight.at(FORM == 0 ? 1 : 3, i / call.pieces);
    const double w = call.weight == nullptr || call.weigh ? 1.0 : widen(call.weight[of_weight + cell]);
    sum += w * parts[i].dy;
    product += w * parts[i].dy_y;
  }
  sum = total(sum, 0);
  product = total(product, 1);
  if (threadIdx.x != 0) return;
  call.shift[blockIdx.x] = call.mean == nullptr ? 0.0f : (float)(sum / call.n);
  call.scale[blockIdx.x] = (float)(product / call.n);
}

INLINE float pulled(float g, float x, const Statistics& s, float shift, float scale) {
  return ((g - shift) - s.of(x) * scale) * s.rstd;
}

INLINE void apply_pull(const Call& call) {
  const long long block = gridDim.x - 1 - blockIdx.x;
  const bool given = call.scale == nullptr;
  float x[VEC], g[VEC], w[VEC];
  if (FORM == 0) {
    const Piece piece(call, block);
    const Statistics s(call, piece.a, piece.c);
    const long long slice = piece.a * call.c + piece.c;
    const float shift = given ? 0.0f : call.shift[slice], scale = given ? 0.0f : call.scale[slice];
    const long long of_weight = call.of_weight.at(0, piece.a) + call.of_weight.at(2, piece.c);
    for (int v = piece.low + (int)threadIdx.x; v < piece.high; v += TPR) {
      load(x, call.x + piece.at(call, v));
      load(g, call.dy + piece.at(call, v));
      if (call.weight != nullptr) entries(w, call.weight, call.of_weight, of_weight, piece.b(v), piece.d(v));
      EACH(k, VEC) g[k] = pulled(call.weight != nullptr ? g[k] * w[k] : g[k], x[k], s, shift, scale);
      store(call.y + piece.at(call, v), g);
    }
  } else {
    const Columns columns(call, block);
    if (columns.column >= columns.length) return;
    Statistics s[VEC];
    long long of_weight[VEC];
    float shift[VEC], scale[VEC];
    EACH(k, VEC) {
      const long long c = columns.c(call, k), slice = columns.a * call.c + c;
      s[k] = Statistics(call, columns.a, c);
      shift[k] = given ? 0.0f : call.shift[slice];
      scale[k] = given ? 0.0f : call.scale[slice];
      of_weight[k] = call.of_weight.at(0, columns.a) + call.of_weight.at(2, c) + call.of_weight.at(3, columns.d(call, k));
      w[k] = call.weight == nullptr ? 1.0f : widen(call.weight[of_weight[k]]);
    }
    for (long long row = columns.low + columns.warp; columns.there(row); row += TPR / 32) {
      load(x, call.x + columns.at(row));
      load(g, call.dy + columns.at(row));
      EACH(k, VEC) {
        if (call.of_weight.stride[1] != 0) w[k] = widen(call.weight[of_weight[k] + call.of_weight.at(1, columns.b(call, row, k))]);
        g[k] = pulled(g[k] * w[k], x[k], s[k], shift[k], scale[k]);
      }
      store(call.y + columns.at(row), g);
    }
  }
}

extern "C" __global__ void __launch_bounds__(TPR * ROWS) kernel(const Call call) { KERNEL(call); }
