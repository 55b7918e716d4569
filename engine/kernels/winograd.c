/* Runs a frame through a plan on a few threads; loaded with ctypes by engine/backends/winograd.py.
 *
 * A frame goes through in bands of tile rows. In a step each layer advances by one band, one tile
 * row behind the layer before, so that what it reads was written just now: a layer keeps a few
 * rows in a ring instead of a whole frame, and nothing is computed twice. A layer's tiles in a step
 * (a phase) are shared out by columns, one part per thread; who is done early helps the others, and a
 * phase ends with its last tile: nobody waits for a thread that the system does not let run. */
#include "winograd.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 256, SPINS = 1000, LINE = 64 };

#if defined(__x86_64__)
sr_work sr_work_v2, sr_work_v3, sr_work_v4;
#else
sr_work sr_work_base;
#endif

/* A thread's part of a phase; alone on its cache line. `groups`: the first that nobody has taken, in
 * the upper half, and how many there are. Who takes one may read the rest until it is done. */
struct share {
    _Alignas(LINE) _Atomic uint64_t groups;
    struct sr_area area;
    int tiles;
};

struct sr_pool {
    struct share shares[MAX_THREADS];
    int threads, started;
    pthread_t handles[MAX_THREADS];
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Atomic unsigned phase;  /* grows by one with each, and once when a frame is done */
    _Atomic int groups_left; /* of the phase: taken or not, but not done */
    _Atomic int sleepers, frame_done, stop;
    const struct sr_plan *plan;
    sr_work *work;
    int step, layer;
};

/* Which sources this was compiled from. */
const char *sr_sources(void) { return SR_SOURCES; }

/* 2, 3 or 4: the x86-64 level of this processor; 1: another architecture; 0: too old. */
int sr_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd"))
        return 4;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))
        return 3;
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt") ? 2 : 0;
#else
    return 1;
#endif
}

static sr_work *work_of(int level) {
#if defined(__x86_64__)
    return level == 4 ? sr_work_v4 : level == 3 ? sr_work_v3 : sr_work_v2;
#else
    (void)level;
    return sr_work_base;
#endif
}

/* Shares out the tiles of the next phase; 0 when the frame is done. Only while no group is left. */
static int plan_phase(struct sr_pool *pool) {
    const struct sr_plan *plan = pool->plan;
    int begin, end, groups = 0;
    do {
        if (++pool->layer == plan->count) {
            pool->layer = 0;
            pool->step++;
        }
        begin = pool->step * plan->shape.band - pool->layer;
        end = sr_clamp(begin + plan->shape.band, 0, plan->tile_rows);
        if (begin >= plan->tile_rows && pool->layer == plan->count - 1) return 0;
        begin = sr_clamp(begin, 0, plan->tile_rows);
    } while (begin >= end);
    /* By columns: a thread then reads what it wrote itself, in its own cache. */
    int64_t columns = plan->tile_columns;
    for (int t = 0; t < pool->threads; t++) {
        struct share *share = &pool->shares[t];
        int left = (int)(columns * t / pool->threads);
        int right = (int)(columns * (t + 1) / pool->threads);
        share->area = (struct sr_area){begin, left, right - left};
        share->tiles = (end - begin) * (right - left);
        groups += (share->tiles + SR_GROUP - 1) / SR_GROUP;
    }
    atomic_store(&pool->groups_left, groups);
    for (int t = 0; t < pool->threads; t++) {
        struct share *share = &pool->shares[t];
        atomic_store(&share->groups, (uint64_t)((share->tiles + SR_GROUP - 1) / SR_GROUP));
    }
    return 1;
}

static void pause_a_little(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Returns once the phase is no longer `old`: spins, because phases are short, then sleeps. */
static void await(struct sr_pool *pool, unsigned old) {
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&pool->phase, memory_order_acquire) != old) return;
        pause_a_little();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->phase) == old) pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void advance(struct sr_pool *pool) {
    atomic_fetch_add(&pool->phase, 1);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
}

/* The number of a group that is now the caller's, or -1. */
static int take(struct share *share) {
    uint64_t groups = atomic_load(&share->groups);
    while (groups >> 32 < (groups & UINT32_MAX))
        if (atomic_compare_exchange_weak(&share->groups, &groups, groups + (UINT64_C(1) << 32)))
            return (int)(groups >> 32);
    return -1;
}

static void work_on(struct sr_pool *pool, struct share *share, int group, int me) {
    int first = group * SR_GROUP, count = sr_clamp(share->tiles - first, 0, SR_GROUP);
    float *scratch = pool->plan->scratch + (size_t)me * pool->plan->scratch_floats;
    pool->work(pool->plan, pool->layer, &share->area, first, count, scratch);
    if (atomic_fetch_sub(&pool->groups_left, 1) == 1) {
        if (!plan_phase(pool)) atomic_store(&pool->frame_done, 1);
        advance(pool);
    }
}

/* Works until the flag is set. */
static void work_until(struct sr_pool *pool, int me, _Atomic int *flag) {
    while (!atomic_load(flag)) {
        unsigned phase = atomic_load(&pool->phase);
        for (int t = 0; t < pool->threads; t++) {
            struct share *share = &pool->shares[(me + t) % pool->threads];
            for (int group; (group = take(share)) >= 0;) work_on(pool, share, group, me);
        }
        if (!atomic_load(flag)) await(pool, phase);
    }
}

struct start {
    struct sr_pool *pool;
    int me;
};

static void *thread_main(void *argument) {
    struct start start = *(struct start *)argument;
    free(argument);
    work_until(start.pool, start.me, &start.pool->stop);
    return NULL;
}

void sr_pool_close(struct sr_pool *pool) {
    atomic_store(&pool->stop, 1);
    advance(pool);
    for (int t = 1; t <= pool->started; t++) pthread_join(pool->handles[t], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

/* The caller of sr_run is one of the `threads`. NULL: they cannot be had. */
struct sr_pool *sr_pool_open(int threads) {
    struct sr_pool *pool = aligned_alloc(LINE, sizeof *pool);
    if (!pool) return NULL;
    memset(pool, 0, sizeof *pool);
    pool->threads = sr_clamp(threads, 1, MAX_THREADS);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    for (int t = 1; t < pool->threads; t++) {
        struct start *start = malloc(sizeof *start);
        if (start) *start = (struct start){pool, t};
        if (!start || pthread_create(&pool->handles[t], NULL, thread_main, start)) {
            free(start);
            sr_pool_close(pool);
            return NULL;
        }
        pool->started = t;
    }
    return pool;
}

static float *zeroed(size_t floats) {
    size_t bytes = (floats * sizeof(float) + LINE - 1) / LINE * LINE;
    float *memory = aligned_alloc(LINE, bytes);
    return memory ? memset(memory, 0, bytes) : NULL;
}

void sr_plan_close(struct sr_plan *plan) {
    if (!plan) return;
    for (int b = 0; plan->buffers && b < plan->count - 1; b++) free(plan->buffers[b].floats);
    free(plan->buffers);
    free(plan->layers);
    free(plan->zeros);
    free(plan->scratch);
    free(plan);
}

/* Tile rows that the buffer of a layer has to hold for all that read it. */
static int depth_of(const struct sr_plan *plan, int layer) {
    int depth = 2;
    for (int reader = layer + 1; reader < plan->count; reader++)
        if (plan->layers[reader].before == layer || plan->layers[reader].after == layer)
            depth = reader - layer > depth ? reader - layer : depth;
    return sr_clamp(plan->shape.band + depth, 1, plan->tile_rows);
}

/* Copies `layers`, but not their weights. NULL: no memory. */
struct sr_plan *sr_plan_open(const struct sr_shape *shape, const struct sr_layer *layers, int count,
                             int threads) {
    struct sr_plan *plan = calloc(1, sizeof *plan);
    if (!plan) return NULL;
    plan->shape = *shape;
    plan->count = count;
    plan->tile_rows = (shape->height + SR_TILE - 1) / SR_TILE;
    plan->tile_columns = (shape->width + SR_TILE - 1) / SR_TILE;
    plan->layers = malloc((size_t)count * sizeof *layers);
    plan->buffers = calloc((size_t)count, sizeof *plan->buffers);
    int failed = !plan->layers || !plan->buffers;
    size_t columns = (size_t)plan->tile_columns * SR_TILE + 2, widest = 0;
    if (!failed) memcpy(plan->layers, layers, (size_t)count * sizeof *layers);
    for (int b = 0; b < count - 1 && !failed; b++) {
        struct sr_buffer *buffer = plan->buffers + b;
        buffer->channels = layers[b].outputs;
        buffer->depth = depth_of(plan, b);
        buffer->row_floats = columns * (size_t)buffer->channels;
        buffer->floats = zeroed(buffer->row_floats * SR_TILE * (size_t)buffer->depth);
        widest = buffer->row_floats > widest ? buffer->row_floats : widest;
        size_t floats = (size_t)(buffer->channels + layers[b + 1].outputs) / SR_LANES * SR_BLOCK;
        plan->scratch_floats = floats > plan->scratch_floats ? floats : plan->scratch_floats;
        failed = !buffer->floats;
    }
    plan->scratch_floats = (plan->scratch_floats + 1023) / 1024 * 1024;
    plan->zeros = failed ? NULL : zeroed(widest);
    plan->scratch = failed ? NULL : zeroed(plan->scratch_floats * (size_t)threads);
    if (plan->zeros && plan->scratch) return plan;
    sr_plan_close(plan);
    return NULL;
}

static void aim(struct sr_plan *plan, uint8_t *first, uint8_t *second) {
    size_t width = (size_t)plan->shape.width;
    for (size_t g = 0; g < 12; g++) {
        struct sr_granule *granule = plan->frame.granules + g;
        if (!plan->shape.nv12)
            *granule = (struct sr_granule){first + g / 3 * 12 * width + g % 3 * 4, 48 * width, 12};
        else if (g < 4)
            *granule = (struct sr_granule){first + g * 4 * width, 16 * width, 4};
        else if (g < 6)
            *granule = (struct sr_granule){second + (g - 4) * 4 * width, 8 * width, 4};
    }
}

/* One frame, on the calling thread and the pool's. `level` is one of sr_level's, or lower. */
void sr_run(struct sr_pool *pool, struct sr_plan *plan, int level, const uint8_t *const in[2],
            uint8_t *const out[2]) {
    plan->frame.first = in[0];
    plan->frame.second = in[1];
    aim(plan, out[0], out[1]);
    pool->plan = plan;
    pool->work = work_of(level);
    pool->step = 0;
    pool->layer = -1;
    atomic_store(&pool->frame_done, 0);
    plan_phase(pool);
    advance(pool);
    work_until(pool, 0, &pool->frame_done);
}
