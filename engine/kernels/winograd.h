/* A frame through a chain of 3x3 convolutions: what the scheduler (winograd.c) and the arithmetic
 * (tiles.c, compiled once per instruction set) know of each other. */
#ifndef SR_WINOGRAD_H
#define SR_WINOGRAD_H

#include <stddef.h>
#include <stdint.h>

enum { SR_TILE = 4, SR_PATCH = 6, SR_POINTS = SR_PATCH * SR_PATCH, SR_LANES = 8 };

/* Tiles that are worked on together, so that they stay in the cache nearest to the core. */
enum { SR_GROUP = 8 };

/* Floats of a group's position, and of all its positions, in one vector of channels. */
enum { SR_PLANE = SR_GROUP * SR_LANES, SR_BLOCK = SR_POINTS * SR_PLANE };

/* One convolution. Layer 0 only turns bytes into floats and has no weights. */
struct sr_layer {
    const float *weights; /* [36][inputs][outputs]: G g G', see engine/backends/winograd.py */
    const float *bias;    /* [outputs] */
    int32_t inputs;       /* channels that are read */
    int32_t outputs;      /* channels that are written: a multiple of 8 */
    int32_t before;       /* buffer added before the activation, or -1 */
    int32_t after;        /* buffer added after it, or -1 */
    float slope;          /* of the activation below zero: 0 is ReLU, 1 is none */
    int32_t reserved;
};

struct sr_shape {
    int32_t height, width; /* of the input, pixels */
    int32_t nv12;          /* 0: rgb24 */
    int32_t band;          /* tile rows that a layer advances at a time */
    float offset[3];       /* subtracted from the samples: Y, Cb, Cr of black */
};

/* The output of a layer: tile rows in a ring, NHWC, one column of zeros before and some behind. */
struct sr_buffer {
    float *floats;
    size_t row_floats;
    int32_t channels, depth; /* depth: tile rows that the ring holds */
};

/* Four bytes of each pixel's output: a quarter of a luma block, a third of a row of colours. */
struct sr_granule {
    uint8_t *start;
    size_t row_bytes, pixel_bytes;
};

struct sr_frame {
    const uint8_t *first, *second; /* rgb, or y and uv */
    struct sr_granule granules[12];
};

struct sr_plan {
    struct sr_shape shape;
    int32_t count; /* layers */
    int32_t tile_rows, tile_columns;
    struct sr_layer *layers;
    struct sr_buffer *buffers;
    float *zeros;   /* a row of the widest buffer */
    float *scratch; /* of all threads, scratch_floats each */
    size_t scratch_floats;
    struct sr_frame frame;
};

/* Tiles of a layer: of the columns `left` .. `left + columns`, from the tile row `top` on. */
struct sr_area {
    int top, left, columns;
};

/* Tiles `first` .. `first + count` of an area, row by row. */
typedef void sr_work(const struct sr_plan *plan, int layer, const struct sr_area *area, int first,
                     int count, float *scratch);

static inline int sr_clamp(int value, int low, int high) {
    return value < low ? low : value > high ? high : value;
}

/* The first of the four rows of a tile row. */
static inline float *sr_rows(const struct sr_buffer *buffer, int tile_row) {
    return buffer->floats + (size_t)(tile_row % buffer->depth) * SR_TILE * buffer->row_floats;
}

#endif
