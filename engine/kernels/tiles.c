/* The arithmetic: Winograd's F(4x4, 3x3) with the points 0, 1, -1, 2, -2 and infinity, FP32.
 *
 * Compiled once per instruction set; SR_WORK is the name of its only symbol. Vectors run along
 * channels. A group of tiles is transformed, multiplied position by position and transformed back
 * while it lies in the cache nearest to the core. (Lavin and Gray, arXiv:1509.09308.) */
#include <string.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "winograd.h"

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef uint8_t b32 __attribute__((vector_size(32)));

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Vectors of sums that the registers hold beside weights and inputs. */
#if defined(__AVX512VL__)
enum { SUMS = 24 };
#elif defined(__AVX__) || defined(__aarch64__)
enum { SUMS = 12 };
#else
enum { SUMS = 6 };
#endif

INLINE v8 load(const float *at) { return *(const v8 *)at; }
INLINE void store(float *at, v8 value) { *(v8 *)at = value; }

INLINE v8 larger(v8 a, v8 b) {
#if defined(__AVX__)
    return _mm256_max_ps(a, b);
#else
    i8 mask = a > b;
    return (v8)(((i8)a & mask) | ((i8)b & ~mask));
#endif
}

INLINE v8 smaller(v8 a, v8 b) { return -larger(-a, -b); }

/* B' of six vectors; the results go a plane apart. */
INLINE void transform_row(const v8 *d, float *out) {
    v8 a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
    store(out, 4 * d[0] + (d[4] - 5 * d[2]));
    store(out + SR_PLANE, a + b);
    store(out + 2 * SR_PLANE, a - b);
    store(out + 3 * SR_PLANE, c + e);
    store(out + 4 * SR_PLANE, c - e);
    store(out + 5 * SR_PLANE, 4 * d[1] + (d[5] - 5 * d[3]));
}

/* B' d B for 8 channels of a tile whose pixels are `step` floats apart. */
INLINE void transform_tile(const float *const *rows, size_t step, float *out) {
    v8 t[6], u[6];
#define D(row) load(rows[row] + (size_t)j * step)
    UNROLL for (int j = 0; j < 6; j++) t[j] = 4 * D(0) + (D(4) - 5 * D(2));
    transform_row(t, out);
    UNROLL for (int j = 0; j < 6; j++) {
        v8 a = D(4) - 4 * D(2), b = D(3) - 4 * D(1);
        t[j] = a + b;
        u[j] = a - b;
    }
    transform_row(t, out + 6 * SR_PLANE);
    transform_row(u, out + 12 * SR_PLANE);
    UNROLL for (int j = 0; j < 6; j++) {
        v8 c = D(4) - D(2), e = 2 * (D(3) - D(1));
        t[j] = c + e;
        u[j] = c - e;
    }
    transform_row(t, out + 18 * SR_PLANE);
    transform_row(u, out + 24 * SR_PLANE);
    UNROLL for (int j = 0; j < 6; j++) t[j] = 4 * D(1) + (D(5) - 5 * D(3));
    transform_row(t, out + 30 * SR_PLANE);
#undef D
}

/* A' of six vectors. */
INLINE void inverse_row(const v8 *m, v8 *y) {
    v8 sum = m[1] + m[2], difference = m[1] - m[2];
    v8 sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    y[0] = m[0] + sum + sum2;
    y[1] = difference + 2 * difference2;
    y[2] = sum + 4 * sum2;
    y[3] = difference + 8 * difference2 + m[5];
}

/* A' M A for 8 channels of a tile: y[4][4]. */
INLINE void inverse_tile(const float *at, v8 y[4][4]) {
    v8 t[6], u[6];
#define M(row) load(at + (6 * (row) + j) * SR_PLANE)
    UNROLL for (int j = 0; j < 6; j++) {
        v8 sum = M(1) + M(2), sum2 = M(3) + M(4);
        t[j] = M(0) + sum + sum2;
        u[j] = sum + 4 * sum2;
    }
    inverse_row(t, y[0]);
    inverse_row(u, y[2]);
    UNROLL for (int j = 0; j < 6; j++) {
        v8 difference = M(1) - M(2), difference2 = M(3) - M(4);
        t[j] = difference + 2 * difference2;
        u[j] = difference + 8 * difference2 + M(5);
    }
    inverse_row(t, y[1]);
    inverse_row(u, y[3]);
#undef M
}

/* Some tiles' inputs times the weights of 8 * vectors outputs; the sums stay in registers. */
INLINE void multiply_block(const struct sr_layer *layer, const float *in, const float *weights,
                           const float *bias, float *out, int tiles, int vectors) {
    v8 sums[SR_GROUP][4];
    int outputs = layer->outputs;
    UNROLL for (int t = 0; t < tiles; t++)
        UNROLL for (int n = 0; n < vectors; n++)
            sums[t][n] = bias ? load(bias + SR_LANES * n) : (v8){0};
    for (int left = layer->inputs; left > 0; left -= SR_LANES, in += SR_BLOCK)
        for (int k = 0; k < SR_LANES && k < left; k++, weights += outputs) {
            v8 w[4];
            UNROLL for (int n = 0; n < vectors; n++) w[n] = load(weights + SR_LANES * n);
            UNROLL for (int t = 0; t < tiles; t++)
                UNROLL for (int n = 0; n < vectors; n++) sums[t][n] += in[SR_LANES * t + k] * w[n];
        }
    UNROLL for (int t = 0; t < tiles; t++)
        UNROLL for (int n = 0; n < vectors; n++)
            store(out + n * SR_BLOCK + SR_LANES * t, sums[t][n]);
}

INLINE void multiply(const struct sr_layer *layer, const float *in, float *out, int vectors) {
    const int most = SUMS / vectors, tiles = most >= 8 ? 8 : most >= 4 ? 4 : most >= 2 ? 2 : 1;
    for (int position = 0; position < SR_POINTS; position++) {
        const float *weights = layer->weights + (size_t)position * layer->inputs * layer->outputs;
        for (int t = 0; t < SR_GROUP; t += tiles)
            for (int n = 0; n < layer->outputs / SR_LANES; n += vectors) {
                /* What is added to the position of (1, 1) reaches all 16 pixels alike. */
                const float *bias = position == SR_PATCH + 1 ? layer->bias + SR_LANES * n : NULL;
                size_t at = position * SR_PLANE + t * SR_LANES;
                multiply_block(layer, in + at, weights + SR_LANES * n, bias, out + n * SR_BLOCK + at, tiles, vectors);
            }
    }
}

/* Returns where the products are. */
static const float *multiply_all(const struct sr_layer *layer, float *in, float *spare) {
    int vectors = layer->outputs / SR_LANES;
    /* In place where all outputs of a tile are made at once. */
    float *out = vectors <= 4 ? in : spare;
    switch (vectors % 3 == 0 ? 3 : vectors % 4 == 0 ? 4 : vectors % 2 == 0 ? 2 : 1) {
    case 4: multiply(layer, in, out, 4); break;
    case 3: multiply(layer, in, out, 3); break;
    case 2: multiply(layer, in, out, 2); break;
    default: multiply(layer, in, out, 1);
    }
    return out;
}

struct place {
    int tile_row, column;  /* column in pixels */
};

INLINE struct place place_of(const struct sr_area *area, int tile) {
    return (struct place){area->top + tile / area->columns,
                          (area->left + tile % area->columns) * SR_TILE};
}

/* The first pixel of a tile. */
INLINE float *pixels_of(const struct sr_buffer *buffer, struct place at) {
    return sr_rows(buffer, at.tile_row) + (size_t)(at.column + 1) * (size_t)buffer->channels;
}

/* Columns behind the picture must stay zero: they are the padding of the next layer. */
static void clear_padding(const struct sr_plan *plan, const struct sr_buffer *buffer, struct place at) {
    int inside = plan->shape.width - at.column;
    size_t channels = (size_t)buffer->channels;
    for (int y = 0; y < SR_TILE && inside < SR_TILE; y++)
        memset(pixels_of(buffer, at) + (size_t)y * buffer->row_floats + (size_t)inside * channels, 0,
               (size_t)(SR_TILE - inside) * channels * sizeof(float));
}

enum activation { NONE, RELU, LEAKY };

/* Always four whole rows: those below the picture are never read. */
INLINE void to_buffer(const struct sr_plan *plan, int number, struct place at, const float *m,
                      enum activation activation, int sums) {
    const struct sr_layer *layer = plan->layers + number;
    const struct sr_buffer *buffers = plan->buffers, *buffer = buffers + number;
    size_t step = (size_t)buffer->channels;
    float *out = pixels_of(buffer, at);
    const float *before = sums && layer->before >= 0 ? pixels_of(buffers + layer->before, at) : NULL;
    const float *after = sums && layer->after >= 0 ? pixels_of(buffers + layer->after, at) : NULL;
    for (size_t c = 0; c < step; c += SR_LANES, m += SR_BLOCK) {
        v8 pixels[4][4];
        inverse_tile(m, pixels);
        UNROLL for (int y = 0; y < SR_TILE; y++) {
            size_t line = (size_t)y * buffer->row_floats + c;
            UNROLL for (int x = 0; x < SR_TILE; x++, line += step) {
                v8 value = pixels[y][x];
                if (before) value += load(before + line);
                if (activation == RELU) value = larger(value, (v8){0});
                if (activation == LEAKY) value = larger(value, layer->slope * value);
                if (after) value += load(after + line);
                store(out + line, value);
            }
        }
    }
    if (plan->shape.width - at.column < SR_TILE) clear_padding(plan, buffer, at);
}

/* Clipped and rounded half to even; four bytes each into two granules. */
static void to_bytes(const struct sr_plan *plan, int number, struct place at, const float *m) {
    const struct sr_granule *granule = plan->frame.granules;
    int rows = plan->shape.height - at.tile_row * SR_TILE, columns = plan->shape.width - at.column;
    for (int c = 0; c < plan->layers[number].outputs; c += SR_LANES, granule += 2, m += SR_BLOCK) {
        v8 pixels[4][4];
        inverse_tile(m, pixels);
        for (int y = 0; y < SR_TILE && y < rows; y++) {
            i8 packed = {0};
            UNROLL for (int x = 0; x < SR_TILE; x++) {
                v8 clipped = smaller(larger(pixels[y][x], (v8){0}), (v8){0} + 255);
                /* 1.5 * 2^23: the last bits of the sum are the nearest whole number. */
                packed |= ((i8)(clipped + 12582912.0f) & 255) << (8 * x);
            }
            /* From the pixels of a channel to the channels of a pixel. */
            b32 bytes = __builtin_shufflevector((b32)packed, (b32)packed, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
                16, 20, 24, 28, 17, 21, 25, 29, 18, 22, 26, 30, 19, 23, 27, 31);
            for (int half = 0; half < 2; half++) {
                uint8_t *out = granule[half].start + (size_t)(at.tile_row * SR_TILE + y) * granule[half].row_bytes + (size_t)at.column * granule[half].pixel_bytes;
                const char *in = (const char *)&bytes + 16 * half;
                if (columns >= SR_TILE) {
                    UNROLL for (size_t x = 0; x < SR_TILE; x++) memcpy(out + x * granule[half].pixel_bytes, in + 4 * x, 4);
                } else {
                    for (int x = 0; x < columns; x++) memcpy(out + (size_t)x * granule[half].pixel_bytes, in + 4 * x, 4);
                }
            }
        }
    }
}

/* Chroma of column x between the centres of the 2x2 pixels that a sample covers, `width` samples a
 * row; at the border the nearest one. `rows`: the nearer one and the other. */
INLINE float chroma(const uint8_t *const rows[2], int x, int width) {
    int left = 2 * sr_clamp((x - 1) / 2, 0, width - 1), right = 2 * sr_clamp((x + 1) / 2, 0, width - 1);
    float share = x % 2 ? 0.75f : 0.25f; /* of the left sample */
    return 0.75f * (share * rows[0][left] + (1 - share) * rows[0][right]) +
           0.25f * (share * rows[1][left] + (1 - share) * rows[1][right]);
}

/* A row of nv12 bytes -> Y, Cb and Cr minus those of black. */
static void from_nv12(const struct sr_plan *plan, int y, int begin, int end, float *out) {
    const float *offset = plan->shape.offset;
    int width = (plan->shape.width + 1) / 2, height = (plan->shape.height + 1) / 2;
    int other = sr_clamp(y % 2 ? y / 2 + 1 : y / 2 - 1, 0, height - 1);
    const uint8_t *luma = plan->frame.first + (size_t)y * (size_t)plan->shape.width;
    const uint8_t *cb[2] = {plan->frame.second + (size_t)(y / 2) * 2 * (size_t)width,
                            plan->frame.second + (size_t)other * 2 * (size_t)width};
    const uint8_t *cr[2] = {cb[0] + 1, cb[1] + 1};
    for (int x = begin; x < end; x++, out += SR_LANES)
        store(out, (v8){luma[x] - offset[0], chroma(cb, x, width) - offset[1],
                        chroma(cr, x, width) - offset[2]});
}

/* A tile of bytes -> floats in the first three of eight channels. */
static void from_bytes(const struct sr_plan *plan, struct place at) {
    const struct sr_shape *shape = &plan->shape;
    int top = at.tile_row * SR_TILE, end = sr_clamp(at.column + SR_TILE, 0, shape->width);
    float *out = pixels_of(plan->buffers, at);
    for (int y = top; y < top + SR_TILE && y < shape->height; y++, out += plan->buffers->row_floats) {
        if (shape->nv12) {
            from_nv12(plan, y, at.column, end, out);
            continue;
        }
        const uint8_t *in = plan->frame.first + 3 * (size_t)y * (size_t)shape->width;
        for (int x = at.column; x < end; x++)
            store(out + SR_LANES * (x - at.column), (v8){in[3 * x], in[3 * x + 1], in[3 * x + 2]});
    }
}

INLINE void transform(const struct sr_plan *plan, const struct sr_buffer *input, const struct sr_area *area, int first, int count, size_t channels, float *out) {
    for (int t = 0; t < count; t++, out += SR_LANES) {
        struct place at = place_of(area, first + t);
        const float *rows[SR_PATCH];
        size_t column = (size_t)at.column * channels;
        for (int y = 0; y < SR_PATCH; y++) {
            int row = at.tile_row * SR_TILE + y - 1;
            int tile_row = at.tile_row + (y == 0 ? -1 : y == 5);
            int inside = row >= 0 && row < plan->shape.height;
            rows[y] = column + (inside ? sr_rows(input, tile_row) + (size_t)((y + 3) % SR_TILE) * input->row_floats : plan->zeros);
        }
        for (size_t c = 0; c < channels; c += SR_LANES) {
            transform_tile(rows, channels, out + c / SR_LANES * SR_BLOCK);
            for (int y = 0; y < SR_PATCH; y++) rows[y] += SR_LANES;
        }
    }
}

void SR_WORK(const struct sr_plan *plan, int number, const struct sr_area *area, int first, int count, float *scratch) {
    const struct sr_layer *layer = plan->layers + number;
    if (number == 0) {
        for (int t = 0; t < count; t++) from_bytes(plan, place_of(area, first + t));
        return;
    }
    const struct sr_buffer *input = plan->buffers + number - 1;
    size_t channels = (size_t)input->channels;
    /* Known numbers make for short addresses. */
    switch (channels) {
    case 8: transform(plan, input, area, first, count, 8, scratch); break;
    case 16: transform(plan, input, area, first, count, 16, scratch); break;
    case 24: transform(plan, input, area, first, count, 24, scratch); break;
    case 32: transform(plan, input, area, first, count, 32, scratch); break;
    default: transform(plan, input, area, first, count, channels, scratch);
    }
    const float *m = multiply_all(layer, scratch, scratch + channels / SR_LANES * SR_BLOCK);
    int sums = layer->before >= 0 || layer->after >= 0;
    for (int t = 0; t < count; t++, m += SR_LANES) {
        struct place at = place_of(area, first + t);
        if (number == plan->count - 1) to_bytes(plan, number, at, m);
        else if (layer->slope == 0 && !sums) to_buffer(plan, number, at, m, RELU, 0);
        else if (layer->slope == 1 && !sums) to_buffer(plan, number, at, m, NONE, 0);
        else to_buffer(plan, number, at, m, LEAKY, 1);
    }
}
