/* Decode step of the network: one token for each of several sequences, in float32.

   The arithmetic is that of randygpt/model/decoder.py (decision 0061). A token's logits do not depend on the other
   sequences of the step or on the number of threads: every sum is taken in one order.

   Threads share each matrix product by its blocks of columns and meet after it. One call at a time has helpers;
   another that comes meanwhile runs on its caller's thread alone. */

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define LANES 16       /* floats of a vector */
#define PADDING 64     /* floats; rows in scratch memory have a multiple of it */
#define MAX_THREADS 16
#define MEETING_SPIN_NS 1000000 /* a thread waits so long for the others before it yields its core */
#define CLOCK_SPINS 64        /* between two looks at the clock */
#define MAX_STEPS_ALONE 256   /* after a step with helpers that had to yield: another process has a core */
#define IDLE_SPIN_NS 200000   /* a helper waits so long for the next step before it sleeps */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float vec8 __attribute__((vector_size(32)));
typedef float vec4 __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

/* Compile for several instruction sets, and choose when the library is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

#define INLINE static inline __attribute__((always_inline))

enum layer_matrix { QKV, WO, FC1, FC2, PER_LAYER };
enum output { STORE, ADD, SQUARED_RELU };

struct model {
    int64_t dim, heads, layers, context;
    const float *wte, *wpe;            /* (vocab, dim), (context, dim) */
    const float *const *weights;       /* PER_LAYER of each layer, then the output layer: (blocks, in, width) each; the
                                          width is 16, 32 or 64 */
    const int64_t *blocks, *widths;    /* of the same */
};

struct step {
    int64_t rows;
    const int64_t *tokens, *lengths;   /* (rows,): the new token, and its position */
    float *keys, *values;              /* (rows, layers, heads, context, dim / heads) */
    float *scratch;                    /* randygpt_scratch_size() floats */
    float *logits;                     /* (rows, blocks * width of the output layer) */
};

/* ---- threads ----------------------------------------------------------------------------------------------------- */

struct team {
    pthread_mutex_t in_use;            /* held during a step with helpers */
    pthread_mutex_t lock;              /* guards sleeping */
    pthread_cond_t wake;
    int helpers, sleeping;
    atomic_uint step_number;
    atomic_int arrived;
    atomic_uint meeting;
    int alone, pause;                  /* steps left without helpers, and the number of the next such pause */
    /* the present step */
    atomic_int yields;
    int threads;
    const struct model *model;
    const struct step *step;
};

static struct team team = {
    .in_use = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .pause = 1};

static int64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* Wait until all threads of the step have come here. */
static void meet(int threads)
{
    if (threads == 1)
        return;
    unsigned meeting = atomic_load_explicit(&team.meeting, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team.arrived, 1, memory_order_acq_rel) == threads - 1) {
        atomic_store_explicit(&team.arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team.meeting, meeting + 1, memory_order_release);
        return;
    }
    int64_t until = 0;
    for (unsigned spins = 1; atomic_load_explicit(&team.meeting, memory_order_acquire) == meeting; spins++) {
        PAUSE();
        if (spins % CLOCK_SPINS)
            continue;
        int64_t now = now_ns();
        if (until == 0)
            until = now + MEETING_SPIN_NS;
        if (now > until) {
            atomic_fetch_add_explicit(&team.yields, 1, memory_order_relaxed);
            sched_yield();
        }
    }
}

/* ---- arithmetic -------------------------------------------------------------------------------------------------- */

INLINE int64_t padded(int64_t count) { return (count + PADDING - 1) / PADDING * PADDING; }

INLINE vec load(const float *from) { return *(const vec *)from; }

INLINE float sum_of(vec value)
{
    union { vec whole; vec8 halves[2]; } eight = {value};
    union { vec8 whole; vec4 halves[2]; } four = {eight.halves[0] + eight.halves[1]};
    vec4 sums = four.halves[0] + four.halves[1];
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

INLINE float dot(const float *a, const float *b, int64_t count)
{
    vec sums = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        sums += load(a + i) * load(b + i);
    float sum = sum_of(sums);
    for (; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

/* e to the power of x <= 0; relative error below 2e-7, and 0 where the result would be denormal. */
INLINE vec exp_of(vec x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    ivec vanishes = x < -87.0f;
    vec whole = (x * 1.44269504f + shift) - shift;
    vec rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec power = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    ivec exponent = (__builtin_convertvector(whole, ivec) + 127) << 23;
    return (vec)((ivec)(power * (vec)exponent) & ~vanishes);
}

/* RMSNorm without scale of x (dim,), padded with zeros. */
INLINE void normalize(const float *x, int64_t dim, float *out)
{
    float scale = 1.0f / sqrtf(dot(x, x, dim) / (float)dim + 1e-5f);
    for (int64_t i = 0; i < dim; i += LANES)
        *(vec *)(out + i) = load(x + i) * scale;
}

/* out (rows, vectors * LANES) of x (rows, in) and columns of a block (in, width). */
INLINE void tile(int rows, int vectors, const float *x, int64_t x_stride, int64_t in, const float *block, int64_t width,
                 float *out, int64_t out_stride, enum output output)
{
    vec sums[4][4];
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < vectors; i++)
            sums[row][i] = (vec){0};
    for (int64_t k = 0; k < in; k++)
        for (int i = 0; i < vectors; i++) {
            vec weight = load(block + k * width + i * LANES);
            for (int row = 0; row < rows; row++)
                sums[row][i] += weight * x[row * x_stride + k];
        }
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < vectors; i++) {
            vec *target = (vec *)(out + row * out_stride + i * LANES), value = sums[row][i];
            if (output == ADD)
                value += *target;
            if (output == SQUARED_RELU) {
                value = (vec)((ivec)value & (value > 0.0f));
                value *= value;
            }
            *target = value;
        }
}

/* This thread's blocks of out (rows, blocks * width) = x (rows, in) @ weights (blocks, in, width). */
FOR_EACH_CPU
static void linear(const struct model *model, int64_t matrix, int64_t rows, int64_t in, const float *x,
                   int64_t x_stride, float *out, int64_t out_stride, enum output output, int thread, int threads)
{
    int64_t blocks = model->blocks[matrix], width = model->widths[matrix];
    for (int64_t b = blocks * thread / threads; b < blocks * (thread + 1) / threads; b++) {
        const float *block = model->weights[matrix] + b * in * width;
        float *columns = out + b * width;
        int64_t row = 0;
#define TILE(ROWS, VECTORS, COLUMN)                                                                                  \
    tile(ROWS, VECTORS, x + row * x_stride, x_stride, in, block + (COLUMN), width, columns + row * out_stride + (COLUMN), \
         out_stride, output)
        for (; row + 4 <= rows; row += 4) {
            int64_t column = 0;
            for (; column + 2 * LANES <= width; column += 2 * LANES)
                TILE(4, 2, column);
            if (column < width)
                TILE(4, 1, column);
        }
        for (; row < rows; row++) {
            if (width == 4 * LANES)
                TILE(1, 4, 0);
            else
                for (int64_t column = 0; column < width; column += LANES)
                    TILE(1, 1, column);
        }
#undef TILE
    }
}

/* Attention output (size,) of one query for `count` cached positions; scores has room for them and a vector more. */
FOR_EACH_CPU
static void attend(const float *query, const float *keys, const float *values, int64_t count, int64_t size,
                   float *scores, float *out)
{
    float scale = 1.0f / sqrtf((float)size), highest = -INFINITY, sum = 0;
    for (int64_t t = 0; t < count; t++) {
        scores[t] = dot(query, keys + t * size, size) * scale;
        highest = scores[t] > highest ? scores[t] : highest;
    }
    for (int64_t t = 0; t < LANES; t++)
        scores[count + t] = -INFINITY;
    for (int64_t t = 0; t < count; t += LANES) {
        vec powers = exp_of(load(scores + t) - highest);
        *(vec *)(scores + t) = powers;
        sum += sum_of(powers);
    }
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        vec sums = {0};
        for (int64_t t = 0; t < count; t++)
            sums += load(values + t * size + i) * scores[t];
        *(vec *)(out + i) = sums / sum;
    }
    for (; i < size; i++) {
        float single = 0;
        for (int64_t t = 0; t < count; t++)
            single += values[t * size + i] * scores[t];
        out[i] = single / sum;
    }
}

/* ---- the network ------------------------------------------------------------------------------------------------- */

struct buffers {
    float *x, *qkv, *mixed, *hidden;   /* (rows, …) each, shared by the threads */
    float *normed, *scores;            /* of this thread */
};

/* Floats of scratch memory that a step needs, for any number of threads; untouched memory costs nothing. */
int64_t randygpt_scratch_size(const struct model *model, int64_t rows)
{
    int64_t shared = rows * (2 * padded(model->dim) + padded(3 * model->dim) + padded(4 * model->dim));
    return shared + MAX_THREADS * (rows * padded(model->dim) + padded(model->context + LANES));
}

static struct buffers buffers_of(const struct model *model, const struct step *step, int thread)
{
    int64_t rows = step->rows, row = padded(model->dim);
    struct buffers of;
    of.x = step->scratch;
    of.mixed = of.x + rows * row;
    of.qkv = of.mixed + rows * row;
    of.hidden = of.qkv + rows * padded(3 * model->dim);
    float *own = of.hidden + rows * padded(4 * model->dim);
    of.normed = own + thread * (rows * row + padded(model->context + LANES));
    of.scores = of.normed + rows * row;
    return of;
}

FOR_EACH_CPU
static void normalize_rows(const float *x, int64_t rows, int64_t dim, float *out)
{
    for (int64_t row = 0; row < rows; row++)
        normalize(x + row * padded(dim), dim, out + row * padded(dim));
}

/* Cache the new keys and values of this thread's heads, and attend. */
static void attend_heads(const struct model *model, const struct step *step, int64_t layer, const struct buffers *at,
                         int thread, int threads)
{
    int64_t dim = model->dim, size = dim / model->heads, pairs = step->rows * model->heads;
    for (int64_t pair = pairs * thread / threads; pair < pairs * (thread + 1) / threads; pair++) {
        int64_t row = pair / model->heads, head = pair % model->heads, length = step->lengths[row];
        int64_t cached = ((row * model->layers + layer) * model->heads + head) * model->context * size;
        float *keys = step->keys + cached, *values = step->values + cached;
        const float *query = at->qkv + row * padded(3 * dim) + head * size;
        memcpy(keys + length * size, query + dim, (size_t)size * sizeof(float));
        memcpy(values + length * size, query + 2 * dim, (size_t)size * sizeof(float));
        attend(query, keys, values, length + 1, size, at->scores, at->mixed + row * padded(dim) + head * size);
    }
}

/* One thread's share of a step. */
static void run(const struct model *model, const struct step *step, int thread, int threads)
{
    int64_t rows = step->rows, dim = model->dim, row_size = padded(dim);
    struct buffers at = buffers_of(model, step, thread);
    for (int64_t row = rows * thread / threads; row < rows * (thread + 1) / threads; row++) {
        memset(at.x + row * row_size, 0, (size_t)row_size * sizeof(float)); /* sums of the padding stay finite */
        for (int64_t i = 0; i < dim; i++)
            at.x[row * row_size + i] =
                model->wte[step->tokens[row] * dim + i] + model->wpe[step->lengths[row] * dim + i];
    }
    meet(threads);
    for (int64_t layer = 0; layer < model->layers; layer++) {
        int64_t first = layer * PER_LAYER;
        normalize_rows(at.x, rows, dim, at.normed);
        linear(model, first + QKV, rows, dim, at.normed, row_size, at.qkv, padded(3 * dim), STORE, thread, threads);
        meet(threads);
        attend_heads(model, step, layer, &at, thread, threads);
        meet(threads);
        linear(model, first + WO, rows, dim, at.mixed, row_size, at.x, row_size, ADD, thread, threads);
        meet(threads);
        normalize_rows(at.x, rows, dim, at.normed);
        linear(model, first + FC1, rows, dim, at.normed, row_size, at.hidden, padded(4 * dim), SQUARED_RELU, thread,
               threads);
        meet(threads);
        linear(model, first + FC2, rows, 4 * dim, at.hidden, padded(4 * dim), at.x, row_size, ADD, thread, threads);
        meet(threads);
    }
    int64_t last = model->layers * PER_LAYER;
    linear(model, last, rows, dim, at.x, row_size, step->logits, model->blocks[last] * model->widths[last], STORE,
           thread, threads);
    meet(threads);
}

/* ---- helpers ----------------------------------------------------------------------------------------------------- */

/* Return the number of the next step: spin for a short time, then sleep. */
static unsigned next_step(unsigned seen)
{
    unsigned number;
    int64_t until = now_ns() + IDLE_SPIN_NS;
    while ((number = atomic_load_explicit(&team.step_number, memory_order_acquire)) == seen && now_ns() < until)
        for (int i = 0; i < CLOCK_SPINS; i++)
            PAUSE();
    if (number != seen)
        return number;
    pthread_mutex_lock(&team.lock);
    team.sleeping++;
    while ((number = atomic_load_explicit(&team.step_number, memory_order_acquire)) == seen)
        pthread_cond_wait(&team.wake, &team.lock);
    team.sleeping--;
    pthread_mutex_unlock(&team.lock);
    return number;
}

static void *help(void *argument)
{
    struct helper { unsigned seen; int thread; } self = {0};
    memcpy(&self, &argument, sizeof self);
    for (;;) {
        self.seen = next_step(self.seen);
        run(team.model, team.step, self.thread, team.helpers + 1);
    }
    return NULL;
}

/* Threads do not survive a fork: the child starts its own. */
static void forget_helpers(void)
{
    team.helpers = team.sleeping = 0;
    team.arrived = 0;
    pthread_mutex_init(&team.in_use, NULL);
    pthread_mutex_init(&team.lock, NULL);
    pthread_cond_init(&team.wake, NULL);
}

static void handle_forks(void) { pthread_atfork(NULL, NULL, forget_helpers); }

/* Start helpers until there are `count`, or as many as can be had. Hold in_use. */
static void start_helpers(int count)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, handle_forks);
    while (team.helpers < count && team.helpers < MAX_THREADS - 1) {
        struct { unsigned seen; int thread; } start = {team.step_number, team.helpers + 1};
        void *argument;
        pthread_t thread;
        memcpy(&argument, &start, sizeof argument);
        if (pthread_create(&thread, NULL, help, argument))
            break;
        pthread_detach(thread);
        team.helpers++;
    }
}

static void post(const struct model *model, const struct step *step)
{
    team.model = model;
    team.step = step;
    atomic_fetch_add_explicit(&team.step_number, 1, memory_order_release);
    pthread_mutex_lock(&team.lock);
    if (team.sleeping)
        pthread_cond_broadcast(&team.wake);
    pthread_mutex_unlock(&team.lock);
}

/* Run a step with helpers. If one was kept from its core, the next steps run without: twice as many as the last time.
   Hold in_use. */
static void run_together(const struct model *model, const struct step *step)
{
    team.yields = 0;
    post(model, step);
    run(model, step, 0, team.helpers + 1);
    if (team.yields == 0) {
        team.pause = 1;
        return;
    }
    team.alone = team.pause;
    team.pause = team.pause < MAX_STEPS_ALONE ? 2 * team.pause : MAX_STEPS_ALONE;
}

/* Decode one token for each row. With `threads` above 1 all helpers take part, of which there are at least
   threads - 1 if the system grants them. */
void randygpt_decode_step(const struct model *model, const struct step *step, int threads)
{
    if (threads > 1 && pthread_mutex_trylock(&team.in_use) == 0) {
        start_helpers(threads - 1);
        if (team.helpers && team.alone == 0) {
            run_together(model, step);
        } else {
            team.alone -= team.alone > 0;
            run(model, step, 0, 1);
        }
        pthread_mutex_unlock(&team.in_use);
    } else {
        run(model, step, 0, 1);
    }
}

/* SHA-256 of this file as it was compiled. */
const char *randygpt_source(void) { return SOURCE_SHA256; }
