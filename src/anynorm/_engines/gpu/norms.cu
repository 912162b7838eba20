// The kernels of every norm, in CUDA C++ without headers: NVRTC compiles them for a GPU, and g++, with the emulator of
// the tests, for the CPU. See docs/guide/engines.md.
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

// ------------------------------------------------------------------------------------------------ what they are told

// Where an entry of weight, bias or a table of statistics stands: along an axis it changes every `divide` elements, and
// begins again after `modulo` of its own. Along D it has one entry for all, or one for each element, side by side.
struct Along {
  unsigned divide[4], modulo[4];
  long long stride[4];
  INLINE long long at(int axis, long long i) const {  // no axis has 2**31 elements
    return stride[axis] == 0 ? 0 : (unsigned)i / divide[axis] % modulo[axis] * stride[axis];
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
  float eps;
  int trust;  // whether variances that float32 does not hold become NaN
  int weigh;  // whether products are weighted one by one
  long long a, b, c, d;
  long long n;       // elements of a slice
  long long pieces;  // into which a slice is cut, or what is walked down
  long long side;    // rows that lie side by side where columns are walked down
  long long share;   // rows that have one entry in the tables
  Along of_weight, of_bias, of_table;
};

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

constexpr int SUMS = VEC < 4 ? VEC : 4;  // side by side

// Add up sums, in pairs.
template <int many> INLINE float together(float (&a)[many]) {
#pragma unroll
  for (int half = many / 2; half; half /= 2) {
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

// ------------------------------------------------------------------------------------------------ how x is walked over

constexpr int OWN = FORM == 0 ? 1 : VEC;  // slices, or entries of weight and bias, that a load may meet
constexpr int STEP = FORM == 0 ? TPR : TPR / 32;

// FORM 0: the threads of a block share out a piece of a slice, whose vectors are counted along B and D.
// FORM 1, 2: a warp walks VEC columns a lane down the rows of a piece. A row is `length` elements, of which the last
// may lack some; `side` rows along B lie side by side in it. Of FORM 2 no column is a slice's.
struct Walk {
  long long a, c0, piece, low, high, first, column, length, size;
  int across;
  INLINE Walk(const Call& call, long long block) {
    size = call.b * call.c * call.d;
    length = call.side * call.c * call.d;
    across = (int)(call.d / VEC);
    piece = block % call.pieces;
    block /= call.pieces;
    const long long tiles = FORM == 0 ? call.c : (length + 32 * VEC - 1) / (32 * VEC);
    const long long many = FORM == 0 ? call.b * across : (size + length - 1) / length;
    const long long each = (many + call.pieces - 1) / call.pieces;
    a = block / tiles;
    c0 = block % tiles;
    column = FORM == 0 ? 0 : (c0 * 32 + threadIdx.x % 32) * VEC;
    first = a * size + (FORM == 0 ? c0 * call.d : column);
    low = piece * each < many ? piece * each : many;
    high = low + each < many ? low + each : many;
  }
  INLINE long long begin() const { return low + (FORM == 0 ? threadIdx.x : threadIdx.x / 32); }
  INLINE bool there(long long v) const {
    return v < high && (FORM == 0 || (column < length && v * length + column < size));
  }
  INLINE long long at(const Call& call, long long v) const {
    return first + (FORM == 0 ? b(call, v, 0) * call.c * call.d + d(call, v, 0) : v * length);
  }
  INLINE long long b(const Call& call, long long v, int k) const {
    return FORM == 0 ? (int)v / across : v * call.side + (column + k) / (call.c * call.d);
  }
  INLINE long long c(const Call& call, int k) const { return FORM == 0 ? c0 : (column + k) / call.d % call.c; }
  INLINE long long d(const Call& call, long long v, int k) const {
    return FORM == 0 ? (int)v % across * VEC : (column + k) % call.d;
  }
  // Where the sums of a column stand: those of a slice's columns lie side by side.
  INLINE long long part(const Call& call, int k) const {
    const long long own = call.c * call.d, i = column + k;
    return (((a * own + i % own) * call.side + i / own) * call.pieces + piece) * STEP + threadIdx.x / 32;
  }
};

// The entries of weight or bias that loads meet; there may be none.
struct Entries {
  const P* table;
  const Along& along;
  long long base[OWN];
  float column[OWN];  // what a column has in all its rows
  INLINE Entries(const P* table, const Along& along, long long a) : table(table), along(along) { base[0] = along.at(0, a); }
  INLINE Entries(const P* table, const Along& along, const Call& call, const Walk& walk) : table(table), along(along) {
    if (table == nullptr) return;
    EACH(k, OWN) {
      base[k] = along.at(0, walk.a) + along.at(2, walk.c(call, k));
      if (FORM != 0) column[k] = widen(table[base[k] += along.at(3, walk.d(call, 0, k))]);
    }
  }
  INLINE void read(float (&to)[VEC], long long b, long long d) const {  // of FORM 0
    const P* from = table + base[0] + along.at(1, b);
    if (along.stride[3] != 0) load(to, from + d);
    else EACH(k, VEC) to[k] = widen(*from);
  }
  INLINE void read(float (&to)[VEC], const Call& call, const Walk& walk, long long v) const {
    if (FORM == 0) read(to, walk.b(call, v, 0), walk.d(call, v, 0));
    else if (along.stride[1] == 0) EACH(k, VEC) to[k] = column[k % OWN];
    else EACH(k, VEC) to[k] = widen(table[base[k % OWN] + along.at(1, walk.b(call, v, k))]);
  }
  template <class... Where> INLINE void times(float (&z)[VEC], const Where&... where) const {
    if (table == nullptr) return;
    float of[VEC];
    read(of, where...);
    EACH(k, VEC) z[k] *= of[k];
  }
  template <class... Where> INLINE void plus(float (&z)[VEC], const Where&... where) const {
    if (table == nullptr) return;
    float of[VEC];
    read(of, where...);
    EACH(k, VEC) z[k] += of[k];
  }
};

// ------------------------------------------------------------------------------------------------ whole rows

// One of the slices that lie together (C is 1), each in the registers of TPR threads.
struct Row {
  int lane, n, own;
  long long row;
  bool there;  // who is not there keeps its warp company
  INLINE explicit Row(const Call& call) : lane(threadIdx.x % TPR), n((int)call.n), own(lane * VEC) {
    row = (long long)blockIdx.x * ROWS + threadIdx.x / TPR;
    there = row < call.a;
    if (!there) row = 0;
  }
  INLINE int at(int i) const { return own + i * TPR * VEC; }
  INLINE bool holds(int i) const { return at(i) < n; }
  INLINE int b(const Call& call, int i) const { return call.b == 1 ? 0 : at(i) / (int)call.d; }
  INLINE int d(const Call& call, int i) const { return call.b == 1 ? at(i) : at(i) % (int)call.d; }
};

// Standardise slices: x is read once.
INLINE void rows(const Call& call) {
  const Row row(call);
  const bool centred = call.mean != nullptr;
  const T* x = call.x + row.row * row.n;
  float d[PER][VEC], sum[SUMS] = {}, squares[SUMS] = {}, infinite = 0.0f;
  const float element = centred ? widen(x[0]) : 0.0f;
  EACH(i, PER) if (row.holds(i)) {
    load(d[i], x + row.at(i));
    EACH(k, VEC) sum[k % SUMS] += d[i][k] - element;
  }
  const float near = centred ? element + total(together(sum), 0) / row.n : 0.0f;
  EACH(k, SUMS) sum[k] = 0.0f;
  EACH(i, PER) if (row.holds(i)) {
    EACH(k, VEC) {
      const float e = d[i][k] - near;
      sum[k % SUMS] += e;
      squares[k % SUMS] += squared(e);
      infinite += is_infinite(e) ? 1.0f : 0.0f;
    }
  }
  const float other = total(centred ? together(sum) : infinite, 1), left = centred ? other / row.n : 0.0f;
  float var = mean_square<float>(total(together(squares), 2), row.n) - left * left;
  var = trusted(var < 0.0f ? 0.0f : var, call, !centred && other > 0.0f);
  if (row.there && row.lane == 0) keep(call, row.row, near, left, var);
  if (!row.there || call.y == nullptr) return;

  Statistics s;
  s.mean = near + left;
  s.rest = left - (s.mean - near);
  s.rstd = rstd_of(var, call.eps);
  const Entries w(call.weight, call.of_weight, row.row), b(call.bias, call.of_bias, row.row);
  EACH(i, PER) if (row.holds(i)) {
    EACH(k, VEC) d[i][k] = s.of(d[i][k]);
    w.times(d[i], row.b(call, i), row.d(call, i));
    b.plus(d[i], row.b(call, i), row.d(call, i));
    store(call.y + row.row * row.n + row.at(i), d[i]);
  }
}

// Pull the gradient back: x and dy are read once.
INLINE void rows_pull(const Call& call) {
  const Row row(call);
  const long long first = row.row * row.n;
  const Statistics s(call, row.row, 0);
  const Entries w(call.weight, call.of_weight, row.row);
  float y[PER][VEC], g[PER][VEC], sum[SUMS] = {}, products[SUMS] = {};
  EACH(i, PER) if (row.holds(i)) {
    load(y[i], call.x + first + row.at(i));
    load(g[i], call.dy + first + row.at(i));
    w.times(g[i], row.b(call, i), row.d(call, i));
    EACH(k, VEC) {
      y[i][k] = s.of(y[i][k]);
      sum[k % SUMS] += g[i][k];
      products[k % SUMS] += g[i][k] * y[i][k];
    }
  }
  const float all = total(together(sum), 0), shift = call.mean == nullptr ? 0.0f : all / row.n;
  const float scale = total(together(products), 1) / row.n;
  if (!row.there) return;
  EACH(i, PER) if (row.holds(i)) {
    EACH(k, VEC) g[i][k] = ((g[i][k] - shift) - y[i][k] * scale) * s.rstd;
    store(call.y + first + row.at(i), g[i]);
  }
}

// ------------------------------------------------------------------------------------------------ pieces of slices

// Sum pieces of slices: each leaves its count, its mean in two parts, and the squares of what deviates from that.
INLINE void partial(const Call& call) {
  Part* parts = (Part*)call.parts;
  const bool centred = call.mean != nullptr;
  const Walk walk(call, blockIdx.x);
  Gathered all[OWN];
  float d[PER][VEC], near[OWN];
  EACH(k, OWN) near[k] = centred ? widen(call.x[walk.a * walk.size + walk.c(call, k) * call.d]) : 0.0f;
  for (long long v = walk.begin(); walk.there(v); v += STEP * PER) {
    int many = 0;
    EACH(i, PER) if (walk.there(v + i * STEP)) {
      load(d[i], call.x + walk.at(call, v + i * STEP));
      EACH(k, VEC) d[i][k] -= near[k % OWN];
      ++many;
    }
    if (FORM == 0) all[0].add<PER * VEC, 1>(&d[0][0], many * VEC, centred);
    else EACH(k, OWN) all[k].add<PER, VEC>(&d[0][k], many, centred);
  }
  if (FORM == 0) {
    const float count = (float)(walk.high - walk.low) * VEC, sum = total(all[0].all.value(), 0);
    const float left = centred && count > 0.0f ? sum / count : 0.0f, mean = near[0] + left;
    const float apart = centred && all[0].have > 0.0f ? all[0].all.value() / all[0].have - left : 0.0f;
    const float squares = total(all[0].squares + squared(apart) * all[0].have, 1), infinite = total(all[0].infinite, 2);
    if (threadIdx.x == 0) parts[blockIdx.x] = {count, mean, centred ? left - (mean - near[0]) : infinite, squares};
  } else if (walk.column < walk.length) {
    EACH(k, OWN) {
      const float left = centred && all[k].have > 0.0f ? all[k].all.value() / all[k].have : 0.0f, mean = near[k] + left;
      const float rest = centred ? left - (mean - near[k]) : all[k].infinite;
      parts[walk.part(call, k)] = {all[k].have, mean, rest, all[k].squares};
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
  const float mean = (float)(near + left), var = mean_square<double>(squares, call.n);
  keep(call, blockIdx.x, mean, (float)((near - mean) + left), trusted(var, call, infinite > 0.0));
}

// Standardise by statistics that are known, from the end of x, whose start has left the cache.
INLINE void apply(const Call& call) {
  const Walk walk(call, gridDim.x - 1 - blockIdx.x);
  if (!walk.there(walk.begin())) return;
  Statistics s[OWN];
  EACH(k, OWN) s[k] = Statistics(call, walk.a, walk.c(call, k));
  const Entries w(call.weight, call.of_weight, call, walk), b(call.bias, call.of_bias, call, walk);
  for (long long v = walk.begin(); walk.there(v); v += STEP) {
    float z[VEC];
    load(z, call.x + walk.at(call, v));
    EACH(k, VEC) z[k] = s[k % OWN].of(z[k]);
    w.times(z, call, walk, v);
    b.plus(z, call, walk, v);
    store(call.y + walk.at(call, v), z);
  }
}

// ------------------------------------------------------------------------------------------------ pullbacks of pieces

// Sum dy and dy * y over pieces of slices; of FORM 2 over pieces of columns, which have elements of every slice.
INLINE void products(const Call& call) {
  Products* parts = (Products*)call.parts;
  const Walk walk(call, blockIdx.x);
  Statistics s[OWN];
  if (FORM != 2) EACH(k, OWN) s[k] = Statistics(call, walk.a / call.share, walk.c(call, k));
  const Entries w(FORM != 2 && call.weigh ? call.weight : nullptr, call.of_weight, call, walk);
  Sum sum[OWN], product[OWN];
  for (long long v = walk.begin(); walk.there(v); v += STEP) {
    float x[VEC], g[VEC];
    load(x, call.x + walk.at(call, v));
    load(g, call.dy + walk.at(call, v));
    if (FORM != 2) w.times(g, call, walk, v);
    if (FORM == 2) EACH(k, OWN) s[k] = Statistics(call, walk.b(call, v, k) / call.share, 0);
    EACH(k, VEC) x[k] = g[k] * s[k % OWN].of(x[k]);
    EACH(k, OWN) {
      sum[k].add(FORM == 0 ? together(g) : g[k]);
      product[k].add(FORM == 0 ? together(x) : x[k]);
    }
  }
  if (FORM == 0) {
    const float dy = total(sum[0].value(), 0), dy_y = total(product[0].value(), 1);
    if (threadIdx.x == 0) parts[blockIdx.x] = {dy, dy_y};
  } else if (walk.column < walk.length) {
    EACH(k, OWN) parts[walk.part(call, k)] = {sum[k].value(), product[k].value()};
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

// Pull the gradient back, less what it loses; by given statistics it loses nothing.
INLINE void apply_pull(const Call& call) {
  const Walk walk(call, gridDim.x - 1 - blockIdx.x);
  if (!walk.there(walk.begin())) return;
  Statistics s[OWN];
  float shift[OWN] = {}, scale[OWN] = {};
  EACH(k, OWN) {
    const long long slice = walk.a * call.c + walk.c(call, k);
    s[k] = Statistics(call, walk.a, walk.c(call, k));
    if (call.scale == nullptr) continue;
    shift[k] = call.shift[slice];
    scale[k] = call.scale[slice];
  }
  const Entries w(call.weight, call.of_weight, call, walk);
  for (long long v = walk.begin(); walk.there(v); v += STEP) {
    float x[VEC], g[VEC];
    load(x, call.x + walk.at(call, v));
    load(g, call.dy + walk.at(call, v));
    w.times(g, call, walk, v);
    EACH(k, VEC) {
      const Statistics& of = s[k % OWN];
      g[k] = ((g[k] - shift[k % OWN]) - of.of(x[k]) * scale[k % OWN]) * of.rstd;
    }
    store(call.y + walk.at(call, v), g);
  }
}

extern "C" __global__ void __launch_bounds__(TPR * ROWS, 1) kernel(const Call call) { KERNEL(call); }
