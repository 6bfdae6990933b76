/* What exported networks compute, in C99. ranvier.export.c copies the definitions that a network
 * needs and puts its name before theirs; for real, fma and 0.5 it writes float, fmaf and 0.5f, or
 * double, fma and 0.5; bits is the unsigned integer of the same size. Constants that are missing
 * here are those of _coefficients.py. An empty line ends a definition.
 *
 * Operations and their order are those of the core: math.rs, activation.rs, layers/, lanes.rs. */

/* Adding it rounds to an integer and leaves that integer in the low bits. */
static const real ROUNDER = 1.5 / EPSILON;

/* Nearer to 0 expm1(x) rounds to x. */
static const real EXPM1_TINY = EPSILON / 4.0;

/* A number and its bits. */
typedef union {
    real value;
    bits pattern;
} word;

/* The number with these bits. */
static real from_bits(bits pattern)
{
    word w;
    w.pattern = pattern;
    return w.value;
}

/* The bits of a number. */
static bits to_bits(real value)
{
    word w;
    w.value = value;
    return w.pattern;
}

/* The polynomial with these coefficients, highest power first, by Horner's rule. */
static real polynomial(real x, const real *coefficients, size_t count)
{
    real sum = coefficients[0];
    for (size_t i = 1; i < count; i++)
        sum = fma(sum, x, coefficients[i]);
    return sum;
}

/* Splits x + tail = n ln 2 + r, |r| <= ln 2 / 2: gives ROUNDER + n, and e^r - 1 = large + small. */
static real reduced_expm1(real x, real tail, real *large, real *small)
{
    const real shifted = fma(x, LOG2_E, ROUNDER);
    const real minus_n = ROUNDER - shifted;
    const real high = fma(minus_n, LN2_HI, x);
    const real low = fma(minus_n, LN2_LO, tail);
    const real r = high + low;
    *large = high;
    const real p = polynomial(r, EXPM1, sizeof EXPM1 / sizeof *EXPM1);
    *small = fma(r * r, p, low);
    return shifted;
}

/* y 2^n for shifted = ROUNDER + n, by two factors so that it is rounded once. */
static real scale(real y, real shifted)
{
    const bits n = to_bits(shifted);
    const bits half = n >> 1;
    const real a = from_bits((half + (MAX_EXP - 1)) << (MANT_DIG - 1));
    const real b = from_bits((n - half + (MAX_EXP - 1)) << (MANT_DIG - 1));
    return y * a * b;
}

/* e^x for x <= EXP_MAX, no NaN. */
static real exp_below(real x)
{
    real large, small;
    const real bounded = x > EXP_MIN ? x : EXP_MIN;
    const real shifted = reduced_expm1(bounded, 0.0, &large, &small);
    return scale(1.0 + (large + small), shifted);
}

/* e^x */
static real exp(real x)
{
    const real y = exp_below(x < EXP_MAX ? x : EXP_MAX);
    return x == x ? y : NAN;
}

/* (e^x - 1) / 2 for EXPM1_MIN <= x <= EXP_MAX, EXPM1_TINY <= |x|. */
static real half_expm1(real x)
{
    real large, small;
    const real shifted = reduced_expm1(x, 0.0, &large, &small);
    const real power = from_bits((to_bits(shifted) + (MAX_EXP - 2)) << (MANT_DIG - 1));
    return fma(power, small, fma(power, large, power - 0.5));
}

/* e^x - 1, accurate near 0 too. */
static real expm1(real x)
{
    const real below = x < EXP_MAX ? x : EXP_MAX;
    const real y = 2.0 * half_expm1(below > EXPM1_MIN ? below : EXPM1_MIN);
    if (x != x)
        return NAN;
    return fabs(x) < EXPM1_TINY ? x : y;
}

/* ln(1 + x) for x >= 0. */
static real ln_1p(real x)
{
    const bits one = to_bits(1.0);
    const bits sqrt_half = to_bits(SQRT_HALF);
    const bits shifter = to_bits(1.0 / EPSILON);
    const real u = 1.0 + x;
    /* ln(1 + x) = ln u + ln(1 + c) to first order in c. */
    const real c = (x - (u - 1.0)) / u;
    /* u = 2^k m with sqrt(1/2) <= m < sqrt(2). The last place of the shifter is worth 1. */
    const bits shifted = to_bits(u) + (one - sqrt_half);
    const real biased = from_bits(shifter | (shifted >> (MANT_DIG - 1)));
    const real k = biased - from_bits(shifter | (one >> (MANT_DIG - 1)));
    const bits mantissa = shifted & (((bits)1 << (MANT_DIG - 1)) - 1);
    const real m = from_bits(mantissa + sqrt_half);
    /* ln(1 + f) = 2s + s R = f - (f^2/2 - s (f^2/2 + R)) with s = f / (2 + f). */
    const real f = m - 1.0;
    const real s = f / (2.0 + f);
    const real z = s * s;
    const real rest = z * polynomial(z, LN, sizeof LN / sizeof *LN);
    const real half_square = 0.5 * f * f;
    const real low = fma(s, half_square + rest, fma(k, LN2_LO, c));
    const real y = fma(k, LN2_HI, f - (half_square - low));
    if (!(x >= 0.0))
        return NAN;
    return x == INFINITY ? x : y;
}

/* 1 - erf(x) */
static real erfc(real x)
{
    const real magnitude = fabs(x);
    const real a = magnitude < ERFC_LIMIT ? magnitude : ERFC_LIMIT;
    const real t = 1.0 / (ERFC_SHIFT + a);
    const real y = fma(a * t, ERFC_SCALE, 1.0);
    const real p = t * polynomial(y, ERFC, sizeof ERFC / sizeof *ERFC);
    /* -a^2 = square + low exactly. */
    const real square = -(a * a);
    const real low = fma(-a, a, -square);
    real large, small;
    const real shifted = reduced_expm1(square, low, &large, &small);
    const real above = scale(fma(large + small, p, p), shifted);
    if (x != x)
        return NAN;
    return x < 0.0 ? 2.0 - above : above;
}

/* The larger one; NaN in the first argument stays NaN. */
static real maximum(real a, real b)
{
    return a < b ? b : a;
}

/* gate z with the limit 0 where the gate has closed, at z = -infinity too. */
static real limit(real gate, real z)
{
    return gate == 0.0 ? 0.0 : gate * z;
}

/* above where z > 0, below where z <= 0, NaN where z is NaN. */
static real piecewise(real z, real above, real below)
{
    if (z != z)
        return z;
    return z > 0.0 ? above : below;
}

/* 1 / (1 + e^-z) */
static real sigmoid(real z)
{
    const real e = exp_below(-fabs(z));
    const real g = z < 0.0 ? e : 1.0;
    const real y = fma(-g, e / (1.0 + e), g);
    return z == z ? y : NAN;
}

/* tanh z = h / (1 + h) with h = (e^2z - 1) / 2. */
static real tanh(real z)
{
    const real doubled = 2.0 * fabs(z);
    const real h = half_expm1(doubled < TANH_LIMIT ? doubled : TANH_LIMIT);
    const real g = h < 1.0 ? h : 1.0;
    const real y = fma(-g, g / (1.0 + h), g);
    return z == z ? copysign(doubled < EXPM1_TINY ? z : y, z) : NAN;
}

/* max(z, 0) */
static real relu(real z)
{
    return piecewise(z, z, 0.0);
}

/* z where z > 0, slope z elsewhere. */
static real leaky_relu(real z, real slope)
{
    return piecewise(z, z, slope * z);
}

/* z where z > 0, slope z elsewhere; the slope was learned. */
static real prelu(real z, real slope)
{
    return z > 0.0 ? z : slope * z;
}

/* z where z > 0, alpha (e^z - 1) elsewhere. */
static real elu(real z, real alpha)
{
    return piecewise(z, z, alpha * expm1(z));
}

/* lambda z where z > 0, lambda alpha (e^z - 1) elsewhere. */
static real selu(real z)
{
    return piecewise(z, SELU_LAMBDA * z, SELU_LAMBDA_ALPHA * expm1(z));
}

/* z Phi(z), Phi being the distribution function of the normal distribution. */
static real gelu(real z)
{
    return limit(0.5 * erfc(-(z * SQRT_HALF)), z);
}

/* z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2 */
static real gelu_tanh(real z)
{
    const real bend = GELU_CUBIC * (z * z);
    return limit(sigmoid(2.0 * GELU_SCALE * z * (1.0 + bend)), z);
}

/* z / (1 + e^-z) */
static real silu(real z)
{
    return limit(sigmoid(z), z);
}

/* ln(1 + e^z) */
static real softplus(real z)
{
    return maximum(z, 0.0) + ln_1p(exp(-fabs(z)));
}

/* clip(z + 3, 0, 6) / 6 */
static real hard_sigmoid(real z)
{
    const real shifted = maximum(z + 3.0, 0.0);
    return (shifted > 6.0 ? 6.0 : shifted) / 6.0;
}

/* z clip(z + 3, 0, 6) / 6 */
static real hard_swish(real z)
{
    return limit(hard_sigmoid(z), z);
}

/* z tanh(ln(1 + e^z)) */
static real mish(real z)
{
    const real e = exp(-fabs(z));
    const real twice = 2.0 * e;
    if (z > 0.0) {
        const real top = 1.0 + twice;
        const real square = twice * e;
        return limit(top / (top + square), z);
    }
    const real top = e * (e + 2.0);
    return limit(top / (top + 2.0), z);
}

/* Sums run in sixteen interleaved lanes, which are then added as a tree. */
enum { LANES = 16 };

/* The sum of the lanes. */
static real total(real *lanes)
{
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t i = 0; i < width; i++)
            lanes[i] += lanes[i + width];
    return lanes[0];
}

/* out = e^(x - max) / sum of e^(x - max). x and out may be one array. */
static void softmax(const real *x, real *out, size_t count)
{
    real lanes[LANES] = {0};
    real largest = x[0];
    for (size_t i = 0; i < count; i++)
        largest = maximum(largest, x[i]);
    for (size_t i = 0; i < count; i++) {
        out[i] = exp(x[i] - largest);
        lanes[i % LANES] += out[i];
    }
    const real sum = total(lanes);
    for (size_t i = 0; i < count; i++)
        out[i] /= sum;
}

/* out = (x - mean) / sqrt(variance + eps) weight + bias, with mean and variance of the row. x and
 * out may be one array. */
static void layer_norm(const real *x, real *out, size_t count, real eps,
        const real *weight, const real *bias)
{
    real first[LANES] = {0};
    real second[LANES] = {0};
    for (size_t i = 0; i < count; i++)
        first[i % LANES] += x[i];
    const real mean = total(first) / (real)count;
    for (size_t i = 0; i < count; i++) {
        const real square = (x[i] - mean) * (x[i] - mean);
        second[i % LANES] += square;
    }
    const real factor = 1.0 / sqrt(total(second) / (real)count + eps);
    for (size_t i = 0; i < count; i++) {
        const real scaled = (x[i] - mean) * factor * weight[i];
        out[i] = scaled + bias[i];
    }
}

/* out = (x - mean) factor weight + bias, factor = 1 / sqrt(variance + eps). x and out may be one
 * array. */
static void batch_norm(const real *x, real *out, size_t count,
        const real *mean, const real *factor, const real *weight, const real *bias)
{
    for (size_t i = 0; i < count; i++) {
        const real scaled = (x[i] - mean[i]) * factor[i] * weight[i];
        out[i] = scaled + bias[i];
    }
}

/* out = (x - mean) factor, factor = 1 / deviation. x and out may be one array. */
static void standardize(const real *x, real *out, size_t count,
        const real *mean, const real *factor)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (x[i] - mean[i]) * factor[i];
}

/* out = x deviation + mean. x and out may be one array. */
static void put_back(const real *x, real *out, size_t count,
        const real *mean, const real *deviation)
{
    for (size_t i = 0; i < count; i++)
        out[i] = fma(x[i], deviation[i], mean[i]);
}

/* Outputs of a dense layer whose sums are made at once. */
enum { BLOCK = 32 };

/* out = x weight + bias. weight is (inputs, outputs), row by row; bias may be 0. Each output is one
 * chain sum = fma(x[k], weight[k][j], sum), k ascending; the bias is added last. */
static void dense(const real *x, size_t inputs, const real *weight, const real *bias,
        real *out, size_t outputs)
{
    for (size_t first = 0; first < outputs; first += BLOCK) {
        const size_t rest = outputs - first;
        const size_t width = rest < (size_t)BLOCK ? rest : (size_t)BLOCK;
        real sums[BLOCK] = {0};
        for (size_t k = 0; k < inputs; k++) {
            const real *row = weight + k * outputs + first;
            if (width == BLOCK)
                for (size_t j = 0; j < BLOCK; j++)
                    sums[j] = fma(x[k], row[j], sums[j]);
            else
                for (size_t j = 0; j < width; j++)
                    sums[j] = fma(x[k], row[j], sums[j]);
        }
        for (size_t j = 0; j < width; j++)
            out[first + j] = bias ? sums[j] + bias[first + j] : sums[j];
    }
}

/* The integers q that stand for x: nearest to x inverse, ties to even, plus zero, from 0 to 255.
 * Whether there is a NaN among x, which no integer stands for. */
static int quantize(const real *x, size_t count, real inverse, int zero, unsigned char *q)
{
    const real least = (real)-zero;
    const real most = (real)(255 - zero);
    int nan = 0;
    for (size_t i = 0; i < count; i++) {
        const real multiple = x[i] * inverse;
        const real above = multiple > least ? multiple : least;
        const real inside = above < most ? above : most;
        nan |= x[i] != x[i];
        q[i] = (unsigned char)(to_bits(inside + ROUNDER) + (bits)zero);
    }
    return nan;
}

/* Inputs of a dense layer of integers that are widened at once. */
enum { CHUNK = 256 };

/* Outputs that share widened inputs. */
enum { GROUP = 16 };

/* The sum of a[k] b[k], exact. */
static int32_t dot(const int16_t *a, const int8_t *b, size_t count)
{
    int32_t sum = 0;
    if (count == CHUNK)
        for (size_t k = 0; k < CHUNK; k++)
            sum += (int32_t)a[k] * b[k];
    else
        for (size_t k = 0; k < count; k++)
            sum += (int32_t)a[k] * b[k];
    return sum;
}

/* out = x weight + bias by integers. weight is (outputs, inputs), row by row; bias may be 0. q is
 * room for the integers that stand for x; factor is what the unit of the sums is worth. x and out
 * may be one array. Integers of 16 bits are what compilers make vectors of everywhere. */
static void integer_dense(const real *x, size_t inputs, real inverse, int zero,
        const int8_t *weight, const real *factor, const real *bias,
        unsigned char *q, real *out, size_t outputs)
{
    const int nan = quantize(x, inputs, inverse, zero, q);
    for (size_t first = 0; first < outputs; first += GROUP) {
        const size_t rest = outputs - first;
        const size_t width = rest < (size_t)GROUP ? rest : (size_t)GROUP;
        int32_t sums[GROUP] = {0};
        for (size_t start = 0; start < inputs; start += CHUNK) {
            const size_t left = inputs - start;
            const size_t count = left < (size_t)CHUNK ? left : (size_t)CHUNK;
            int16_t values[CHUNK];
            for (size_t k = 0; k < count; k++)
                values[k] = (int16_t)(q[start + k] - zero);
            for (size_t j = 0; j < width; j++)
                sums[j] += dot(values, weight + (first + j) * inputs + start, count);
        }
        for (size_t j = 0; j < width; j++) {
            const size_t o = first + j;
            const real y = (real)sums[j];
            out[o] = bias ? fma(y, factor[o], bias[o]) : y * factor[o];
            if (nan)
                out[o] = NAN;
        }
    }
}
