/* Markers, a held pattern and a dirtied area in the agent's memory. */
#include "agent.h"
#include <sys/mman.h>

#define MARKERS 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char *key, *value;
} markers[MARKERS];
static uint64_t *held, *dirty;
static size_t held_bytes, dirty_bytes;
static bool dirtier_runs;

int verb_ram_put(int count, char **arguments, struct buf *out) {
    (void)count;
    char *key = strdup(arguments[0]), *value = strdup(arguments[1]);
    bool kept = false;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MARKERS && key && value && !kept; i++) {
        if (markers[i].key && strcmp(markers[i].key, key))
            continue;
        free(markers[i].key);
        free(markers[i].value);
        markers[i].key = key, markers[i].value = value;
        kept = true;
    }
    pthread_mutex_unlock(&lock);
    if (!kept) {
        free(key);
        free(value);
        return fail(out, "no room: %d markers are kept", MARKERS);
    }
    put(out, "{}");
    return 0;
}

int verb_ram_get(int count, char **arguments, struct buf *out) {
    (void)count;
    const char *value = NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MARKERS && markers[i].key && !value; i++)
        if (!strcmp(markers[i].key, arguments[0]))
            value = markers[i].value;
    put(out, "{\"value\":");
    if (value)
        put_string(out, value);
    else
        put(out, "null");
    put(out, "}");
    pthread_mutex_unlock(&lock);
    return 0;
}

/* Anonymous memory of so many MiB; NULL with the reason when the guest cannot spare it. */
static uint64_t *take(uint64_t mib, struct buf *out) {
    char text[4096];
    unsigned long long available = 0;
    read_text("/proc/meminfo", text, sizeof text);
    const char *at = strstr(text, "MemAvailable:");
    if (at)
        sscanf(at, "MemAvailable: %llu", &available);
    if (mib * 1024 + 8192 > available) {
        fail(out, "%llu KiB are available", available);
        return NULL;
    }
    void *memory = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        fail(out, "mmap: %s", strerror(errno));
        return NULL;
    }
    return memory;
}

int verb_ram_fill(int count, char **arguments, struct buf *out) {
    (void)count;
    uint64_t mib, seed;
    if (!parse_number(arguments[0], 1 << 20, &mib) || !parse_number(arguments[1], UINT64_MAX, &seed))
        return fail(out, "MIB and SEED are numbers");
    pthread_mutex_lock(&lock);
    if (held)
        munmap(held, held_bytes);
    held = NULL;
    if (mib && !(held = take(mib, out))) {
        pthread_mutex_unlock(&lock);
        return -1;
    }
    held_bytes = mib << 20;
    if (held)
        pattern_fill(held, held_bytes / 8, 0, seed);
    pthread_mutex_unlock(&lock);
    put(out, "{}");
    return 0;
}

int verb_ram_verify(int count, char **arguments, struct buf *out) {
    (void)count;
    uint64_t seed;
    if (!parse_number(arguments[0], UINT64_MAX, &seed))
        return fail(out, "SEED is a number");
    pthread_mutex_lock(&lock);
    /* what is not there is not intact */
    bool intact = held && pattern_matches(held, held_bytes / 8, 0, seed);
    pthread_mutex_unlock(&lock);
    put(out, "{\"intact\":%s}", intact ? "true" : "false");
    return 0;
}

static void *keep_dirty(void *unused) {
    for (uint64_t pass = 1;; pass++) {
        pthread_mutex_lock(&lock);
        if (!dirty) {
            dirtier_runs = false;
            pthread_mutex_unlock(&lock);
            return unused;
        }
        for (size_t i = 0; i < dirty_bytes / 8; i += BLOCK / 8)
            dirty[i] = pass;
        pthread_mutex_unlock(&lock);
        sleep_ms(10); /* a migration sees every page dirty again; a busy loop would show it no more */
    }
}

int verb_ram_dirty(int count, char **arguments, struct buf *out) {
    (void)count;
    uint64_t mib;
    if (!parse_number(arguments[0], 1 << 20, &mib))
        return fail(out, "MIB is a number");
    pthread_mutex_lock(&lock);
    if (dirty)
        munmap(dirty, dirty_bytes);
    dirty = NULL;
    if (mib && !(dirty = take(mib, out))) {
        pthread_mutex_unlock(&lock);
        return -1;
    }
    dirty_bytes = mib << 20;
    if (dirty && !dirtier_runs)
        dirtier_runs = try_thread(keep_dirty, NULL);
    bool works = !dirty || dirtier_runs;
    pthread_mutex_unlock(&lock);
    if (!works)
        return fail(out, "cannot start a thread");
    put(out, "{}");
    return 0;
}
