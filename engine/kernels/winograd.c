/* Runs a frame through a plan on a few threads; loaded with ctypes by engine/backends/winograd.py.
 *
 * A frame goes through in bands of tile rows. In a step each layer advances by one band, one tile
 * row behind the layer before, so that what it reads was written just now: a layer keeps a few
 * rows in a ring instead of a whole frame, and nothing is computed twice. A layer's tiles in a step
 * (a phase) are shared out in equal runs, one per thread; who is done early helps the others. */
#include "winograd.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 256, SPINS = 2000, LINE = 64, IDLE = -1 };

#if defined(__x86_64__)
sr_work sr_work_v2, sr_work_v3, sr_work_v4;
#else
sr_work sr_work_base;
#endif

/* The tiles of a thread that nobody has taken yet; alone on its cache line. */
struct share {
    _Alignas(LINE) _Atomic int next;
    int end;
};

struct phase {
    int layer; /* or IDLE */
    int top;
    struct share shares[MAX_THREADS];
};

struct sr_pool {
    struct phase phases[2]; /* the one with the parity of `number` is worked on */
    int threads, started;
    pthread_t handles[MAX_THREADS];
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Atomic unsigned number;
    _Atomic int arrived, sleepers, stop;
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

/* Shares out the tiles of the next phase; an idle one when the frame is done. One thread only. */
static void plan_phase(struct sr_pool *pool) {
    const struct sr_plan *plan = pool->plan;
    struct phase *phase = &pool->phases[(atomic_load(&pool->number) + 1) & 1];
    int begin, tiles;
    do {
        if (++pool->layer == plan->count) {
            pool->layer = 0;
            pool->step++;
        }
        begin = pool->step * plan->shape.band - pool->layer;
        int end = sr_clamp(begin + plan->shape.band, 0, plan->tile_rows);
        if (begin >= plan->tile_rows && pool->layer == plan->count - 1) {
            phase->layer = IDLE;
            return;
        }
        begin = sr_clamp(begin, 0, plan->tile_rows);
        tiles = (end - begin) * plan->tile_columns;
    } while (tiles <= 0);
    phase->layer = pool->layer;
    phase->top = begin;
    int64_t groups = (tiles + SR_GROUP - 1) / SR_GROUP;
    for (int t = 0; t < pool->threads; t++) {
        int first = (int)(groups * t / pool->threads) * SR_GROUP;
        int end = (int)(groups * (t + 1) / pool->threads) * SR_GROUP;
        phase->shares[t].end = end < tiles ? end : tiles;
        atomic_store(&phase->shares[t].next, first);
    }
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
        if (atomic_load_explicit(&pool->number, memory_order_acquire) != old) return;
        pause_a_little();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->number) == old) pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void advance(struct sr_pool *pool) {
    atomic_fetch_add(&pool->number, 1);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
}

static void work_on(struct sr_pool *pool, struct phase *phase, int me) {
    float *scratch = pool->plan->scratch + (size_t)me * pool->plan->scratch_floats;
    for (int t = 0; t < pool->threads; t++) {
        struct share *share = &phase->shares[(me + t) % pool->threads];
        int first;
        while ((first = atomic_fetch_add(&share->next, SR_GROUP)) < share->end)
            pool->work(pool->plan, phase->layer, phase->top, first,
                       sr_clamp(share->end - first, 0, SR_GROUP), scratch);
    }
}

/* Works from phase `number` on until one is idle, whose number is returned. */
static unsigned work_until_idle(struct sr_pool *pool, int me, unsigned number) {
    struct phase *phase;
    while ((phase = &pool->phases[number & 1])->layer != IDLE) {
        work_on(pool, phase, me);
        if (atomic_fetch_add(&pool->arrived, 1) + 1 == pool->threads) {
            atomic_store(&pool->arrived, 0);
            plan_phase(pool);
            advance(pool);
        } else {
            await(pool, number);
        }
        number++;
    }
    return number;
}

struct start {
    struct sr_pool *pool;
    int me;
};

static void *thread_main(void *argument) {
    struct start start = *(struct start *)argument;
    free(argument);
    unsigned number = 0;
    for (;;) {
        await(start.pool, number);
        if (atomic_load(&start.pool->stop)) return NULL;
        number = work_until_idle(start.pool, start.me, number + 1);
    }
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
    pool->phases[0].layer = IDLE;
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
    plan_phase(pool);
    advance(pool);
    work_until_idle(pool, 0, atomic_load(&pool->number));
}
