// The bodies of row_math.h. Included by simd_*.cc with EMBERAY_LEVEL, a namespace, defined; the
// headers it needs come before the compiler is told of the level, so that no other code is compiled
// for it.

namespace emberay::cpu::EMBERAY_LEVEL {
namespace {

#define EMBERAY_INLINE inline __attribute__((always_inline))

// As wide as the widest registers; the compiler splits it where they are narrower.
typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));
constexpr int64_t kLanes = 16;
constexpr int64_t kTile = 4;       // vectors summed at once, in registers
constexpr int64_t kAhead = 8;      // rows fetched to be written before they are needed
constexpr int64_t kFarAhead = 32;  // rows fetched into the second cache before they are needed
constexpr int64_t kLine = 16;      // floats of a cache line

EMBERAY_INLINE const Vector& at(const float* values) {
  return *reinterpret_cast<const Vector*>(values);
}
EMBERAY_INLINE Vector& at(float* values) { return *reinterpret_cast<Vector*>(values); }

// Into the second cache: more of these can be under way than of those into the first, which then
// costs little.
EMBERAY_INLINE void fetch(const float* row, int64_t width) {
  for (int64_t c = 0; c < width; c += kLine) __builtin_prefetch(row + c, 0, 2);
}
EMBERAY_INLINE void fetch_to_write(const float* row, int64_t width) {
  for (int64_t c = 0; c < width; c += kLine) __builtin_prefetch(row + c, 1);
}

template <int64_t vectors>
EMBERAY_INLINE void sum_tile(const Use* uses, int64_t count, const float* source, float* out,
                             int64_t width) {
  Vector sums[vectors];
  const float* row = source + uses[0].index * width;
  for (int64_t v = 0; v < vectors; ++v) sums[v] = uses[0].gain * at(row + v * kLanes);
  for (int64_t i = 1; i < count; ++i) {
    row = source + uses[i].index * width;
    for (int64_t v = 0; v < vectors; ++v) sums[v] += uses[i].gain * at(row + v * kLanes);
  }
  for (int64_t v = 0; v < vectors; ++v) at(out + v * kLanes) = sums[v];
}

EMBERAY_INLINE void sum_group(const Use* uses, int64_t count, const float* source, float* out,
                              int64_t width) {
  int64_t c = 0;
  for (; c + kTile * kLanes <= width; c += kTile * kLanes) {
    sum_tile<kTile>(uses, count, source + c, out + c, width);
  }
  for (; c + kLanes <= width; c += kLanes) sum_tile<1>(uses, count, source + c, out + c, width);
  if (c == width) return;
  for (int64_t i = 0; i < count; ++i) {
    const float* row = source + uses[i].index * width;
    const float gain = uses[i].gain;
    if (i == 0) {
      for (int64_t k = c; k < width; ++k) out[k] = gain * row[k];
    } else {
      for (int64_t k = c; k < width; ++k) out[k] += gain * row[k];
    }
  }
}

// As sum_tile, and fetches the rows to come one by one, so that fetches and sums overlap: the whole
// width at once.
template <int64_t vectors>
EMBERAY_INLINE void sum_tile_ahead(const Use* uses, int64_t count, const Use* last,
                                   const float* source, float* out, int64_t width) {
  Vector sums[vectors];
  for (int64_t i = 0; i < count; ++i) {
    const Use* use = uses + i;
    const Use* ahead = last - use > kFarAhead ? use + kFarAhead : last;
    fetch(source + ahead->index * width, vectors * kLanes);
    const float* row = source + use->index * width;
    if (i == 0) {
      for (int64_t v = 0; v < vectors; ++v) sums[v] = use->gain * at(row + v * kLanes);
    } else {
      for (int64_t v = 0; v < vectors; ++v) sums[v] += use->gain * at(row + v * kLanes);
    }
  }
  for (int64_t v = 0; v < vectors; ++v) at(out + v * kLanes) = sums[v];
}

template <int64_t vectors>
void sum_of_width(const Groups& groups, int64_t begin, int64_t end, const float* source,
                  float* out) {
  constexpr int64_t width = vectors * kLanes;
  const Use* last = groups.uses + groups.begins[end] - 1;
  for (int64_t g = begin; g < end; ++g) {
    const int64_t first = groups.begins[g], next = groups.begins[g + 1];
    if (first < next) {
      sum_tile_ahead<vectors>(groups.uses + first, next - first, last, source, out + g * width,
                              width);
    } else {
      __builtin_memset(out + g * width, 0, width * sizeof(float));
    }
  }
}

void sum(const Groups& groups, int64_t begin, int64_t end, const float* source, float* out,
         int64_t width) {
  // The widths that most tables have: a row's sums stay in registers.
  if (width == 16) return sum_of_width<1>(groups, begin, end, source, out);
  if (width == 32) return sum_of_width<2>(groups, begin, end, source, out);
  if (width == 64) return sum_of_width<4>(groups, begin, end, source, out);
  if (width == 128) return sum_of_width<8>(groups, begin, end, source, out);
  const int64_t last = groups.begins[end] - 1;
  for (int64_t g = begin; g < end; ++g) {
    const int64_t first = groups.begins[g], next = groups.begins[g + 1];
    for (int64_t u = first; u < next; ++u) {
      const int64_t ahead = u + kFarAhead < last ? u + kFarAhead : last;
      fetch(source + groups.uses[ahead].index * width, width);
    }
    float* to = out + g * width;
    if (first < next) {
      sum_group(groups.uses + first, next - first, source, to, width);
    } else {
      __builtin_memset(to, 0, width * sizeof(float));
    }
  }
}

template <int64_t vectors>
void scale_of_width(const Entries& entries, const float* source, float* out) {
  constexpr int64_t width = vectors * kLanes;
  for (int64_t i = 0; i < entries.count; ++i) {
    const int64_t ahead = entries.count - i > kFarAhead ? i + kFarAhead : entries.count - 1;
    fetch(source + entries.ids[ahead] * width, width);
    const float* row = source + entries.ids[i] * width;
    float* to = out + entries.samples[i] * width;
    Vector values[vectors];
    for (int64_t v = 0; v < vectors; ++v) values[v] = entries.gains[i] * at(row + v * kLanes);
    for (int64_t v = 0; v < vectors; ++v) at(to + v * kLanes) = values[v];
  }
}

void scale(const Entries& entries, const float* source, float* out, int64_t width) {
  if (width == 16) return scale_of_width<1>(entries, source, out);
  if (width == 32) return scale_of_width<2>(entries, source, out);
  if (width == 64) return scale_of_width<4>(entries, source, out);
  if (width == 128) return scale_of_width<8>(entries, source, out);
  for (int64_t i = 0; i < entries.count; ++i) {
    const int64_t ahead = entries.count - i > kFarAhead ? i + kFarAhead : entries.count - 1;
    fetch(source + entries.ids[ahead] * width, width);
    const Use use{entries.ids[i], entries.gains[i]};
    sum_group(&use, 1, source, out + entries.samples[i] * width, width);
  }
}

// value / divisor, and 0 where the value is 0, whatever the divisor.
EMBERAY_INLINE float divide_or_zero(float value, float divisor) {
  const float quotient = value / divisor;
  return value == 0.0f ? 0.0f : quotient;
}

// The formulas: one row, its gradient g, its weights w, its slots a and b, hyperparameters h. Those
// of kernels/optimizers, whose files explain them.
struct Row {
  const float* __restrict g;
  float* __restrict w;
  float* __restrict a;
  float* __restrict b;
  float* __restrict scratch;  // as wide as the row
  int64_t width;
  int64_t embedding_dim;
};

EMBERAY_INLINE void sgd(const Row& row, const float* h) {
  const float rate = h[0];
  for (int64_t c = 0; c < row.width; ++c) row.w[c] -= rate * row.g[c];
}

EMBERAY_INLINE void adagrad(const Row& row, const float* h) {
  const float rate = h[0];
  for (int64_t c = 0; c < row.width; ++c) {
    const float sum = row.a[c] + row.g[c] * row.g[c];
    row.a[c] = sum;
    row.w[c] -= divide_or_zero(rate * row.g[c], __builtin_sqrtf(sum));
  }
}

EMBERAY_INLINE void row_wise_adagrad(const Row& row, const float* h) {
  // Sums of every 16th square, then their sum: the same order on every machine.
  float partial[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= row.width; c += kLanes) {
    for (int64_t k = 0; k < kLanes; ++k) partial[k] += row.g[c + k] * row.g[c + k];
  }
  for (int64_t k = 0; c < row.width; ++c, ++k) partial[k] += row.g[c] * row.g[c];
  float squares = 0.0f;
  for (int64_t k = 0; k < kLanes; ++k) squares += partial[k];
  row.a[0] += squares / static_cast<float>(row.embedding_dim);
  const float scale = h[0] / (__builtin_sqrtf(row.a[0]) + h[1]);
  for (c = 0; c < row.width; ++c) row.w[c] -= scale * row.g[c];
}

EMBERAY_INLINE void adagrad_momentum(const Row& row, const float* h) {
  const float rate = h[0], decay = h[1], beta2 = h[2], epsilon = h[3], exponent = h[4];
  const bool nesterov = h[5] != 0.0f;
  const float keep = beta2 == 1.0f ? 1.0f : beta2, take = beta2 == 1.0f ? 1.0f : 1.0f - beta2;
  for (int64_t c = 0; c < row.width; ++c) row.a[c] = keep * row.a[c] + take * (row.g[c] * row.g[c]);
  if (exponent == 2.0f) {
    for (int64_t c = 0; c < row.width; ++c) {
      row.scratch[c] = 1.0f / __builtin_sqrtf(row.a[c] + epsilon);
    }
  } else {
    const float power = -1.0f / exponent;
    for (int64_t c = 0; c < row.width; ++c) {
      row.scratch[c] = __builtin_powf(row.a[c] + epsilon, power);
    }
  }
  for (int64_t c = 0; c < row.width; ++c) {
    const float product = row.scratch[c] * row.g[c];
    const float scaled = row.g[c] == 0.0f ? 0.0f : product;
    const float momentum = decay * row.b[c] + scaled;
    row.b[c] = momentum;
    row.w[c] -= rate * (nesterov ? decay * momentum + scaled : momentum);
  }
}

EMBERAY_INLINE void adam(const Row& row, const float* h) {
  const float rate = h[0], beta1 = h[1], beta2 = h[2], epsilon = h[3];
  for (int64_t c = 0; c < row.width; ++c) {
    const float g = row.g[c];
    const float momentum = row.a[c] + (1.0f - beta1) * (g - row.a[c]);
    const float velocity = row.b[c] + (1.0f - beta2) * (g * g - row.b[c]);
    row.a[c] = momentum;
    row.b[c] = velocity;
    row.w[c] -= divide_or_zero(rate * momentum, __builtin_sqrtf(velocity) + epsilon);
  }
}

EMBERAY_INLINE void ftrl(const Row& row, const float* h) {
  const float rate = h[0], power = h[1], l1 = h[2], l2 = h[3], beta = h[4];
  const bool multiply = h[5] != 0.0f;
  float* sigma = row.scratch;
  float* root = row.scratch + row.width;
  for (int64_t c = 0; c < row.width; ++c) root[c] = row.a[c] + row.g[c] * row.g[c];
  if (power == -0.5f) {
    for (int64_t c = 0; c < row.width; ++c) {
      const float sum = root[c];
      root[c] = __builtin_sqrtf(sum);
      sigma[c] = root[c] - __builtin_sqrtf(row.a[c]);
      row.a[c] = sum;
    }
  } else {
    for (int64_t c = 0; c < row.width; ++c) {
      const float sum = root[c];
      root[c] = __builtin_powf(sum, -power);
      sigma[c] = root[c] - __builtin_powf(row.a[c], -power);
      row.a[c] = sum;
    }
  }
  const float bound = multiply ? l1 * rate : l1;
  for (int64_t c = 0; c < row.width; ++c) {
    const float direct = row.b[c] + rate * row.g[c] - sigma[c] * row.w[c];
    const float divided = row.b[c] + row.g[c] - sigma[c] / rate * row.w[c];
    const float linear = multiply ? direct : divided;
    const float divisor =
        multiply ? root[c] + 2.0f * (rate * l2) + beta : (root[c] + beta) / rate + 2.0f * l2;
    float clipped = linear < -bound ? -bound : linear;
    clipped = clipped > bound ? bound : clipped;
    row.b[c] = linear;
    row.w[c] = divide_or_zero(clipped - linear, divisor);
  }
}

EMBERAY_INLINE void laprop(const Row& row, const float* h) {
  const float rate = h[0], b1 = h[1], decay = h[2], epsilon = h[3];
  const float weight = __builtin_sqrtf(1.0f - b1 * b1);
  for (int64_t c = 0; c < row.width; ++c) {
    const float g = row.g[c];
    const float nu = row.b[c] * decay + (1.0f - decay) * (g * g + epsilon);
    const float mu = b1 * row.a[c] + weight * divide_or_zero(g, __builtin_sqrtf(nu));
    row.b[c] = nu;
    row.a[c] = mu;
    row.w[c] -= rate * mu;
  }
}

EMBERAY_INLINE void f2a(const Row& row, const float* h) {
  const float rate = h[0], rho = h[1], l1 = h[2], l2 = h[3], largest = h[4];
  const float step = h[5] > 1.0f ? h[5] : 1.0f;
  // The row's number of updates is the same in all its columns, so one power is enough, mostly.
  float known = __builtin_nanf(""), factor = 0.0f;
  for (int64_t c = 0; c < row.width; ++c) {
    const float local = row.b[c] + 1.0f;
    if (local != known) {
      known = local;
      factor = __builtin_powf(step / local, rho);
      factor = factor > largest ? largest : factor;
    }
    row.b[c] = local;
    row.scratch[c] = factor;
  }
  for (int64_t c = 0; c < row.width; ++c) {
    const float g = row.g[c], w = row.w[c];
    const float sum = row.a[c] + g * g;
    row.a[c] = sum;
    const float sign = w > 0.0f ? 1.0f : w < 0.0f ? -1.0f : w;
    const float scaled = divide_or_zero(g * row.scratch[c], __builtin_sqrtf(sum));
    const float change = scaled + (l1 * sign + l2 * w);
    row.w[c] = w - rate * change;
  }
}

template <void (*formula)(const Row&, const float*), int slots>
void update(const Groups& groups, int64_t begin, int64_t end, const float* gradients,
            const Variables& variables, float* scratch) {
  const int64_t width = variables.width;
  const bool bounded = !(__builtin_isinf(variables.low) && __builtin_isinf(variables.high));
  const auto slot = [&](int number, int64_t row) {
    return number < slots ? variables.slots[number] + row * variables.slot_widths[number] : nullptr;
  };
  for (int64_t g = begin; g < end; ++g) {
    const int64_t next = groups.rows[g + kAhead < end ? g + kAhead : end - 1];
    fetch_to_write(variables.table + next * width, width);
    for (int s = 0; s < slots; ++s) fetch_to_write(slot(s, next), variables.slot_widths[s]);

    const int64_t first = groups.begins[g], row = groups.rows[g];
    sum_group(&groups.uses[first], groups.begins[g + 1] - first, gradients, scratch, width);
    float* weights = variables.table + row * width;
    formula({scratch, weights, slot(0, row), slot(1, row), scratch + width, width,
             variables.embedding_dim},
            variables.hyperparameters);
    if (!bounded) continue;
    for (int64_t c = 0; c < width; ++c) {
      const float raised = weights[c] < variables.low ? variables.low : weights[c];
      weights[c] = raised > variables.high ? variables.high : raised;
    }
  }
}

}  // namespace

extern const RowMath kRowMath;
const RowMath kRowMath = {
    sum,
    scale,
    {update<sgd, 0>, update<adagrad, 1>, update<row_wise_adagrad, 1>, update<adagrad_momentum, 2>,
     update<adam, 2>, update<ftrl, 2>, update<laprop, 2>, update<f2a, 2>}};

}  // namespace emberay::cpu::EMBERAY_LEVEL
