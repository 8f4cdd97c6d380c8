/* The continuous disk writer: numbered, checksummed slots, each flushed before the next. */
#include "agent.h"
#include <stddef.h>

struct slot {
    char magic[8];
    uint64_t sequence;
    char boot_id[40];
    uint64_t fill[(BLOCK - 64) / 8];
    uint32_t reserved, crc;
};
_Static_assert(sizeof(struct slot) == BLOCK, "a slot is one block");
#define SLOT_MAGIC "HVCSLOT1"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct {
    int fd;
    bool running, stop, frozen, writing;
    uint64_t offset, slots, interval_ms, acknowledged, errors;
    int64_t write_began_ns, longest_ns;
} writer;

static void make_slot(struct slot *slot, uint64_t sequence) {
    memset(slot, 0, sizeof *slot);
    memcpy(slot->magic, SLOT_MAGIC, 8);
    slot->sequence = sequence;
    snprintf(slot->boot_id, sizeof slot->boot_id, "%s", boot_id());
    pattern_fill(slot->fill, sizeof slot->fill / 8, 0, sequence);
    slot->crc = crc32_of(slot, offsetof(struct slot, crc));
}

/* The highest whole sequence number, with the number of the torn slot (-1: none). False when a read failed. */
static bool scan(int fd, uint64_t offset, uint64_t slots, uint64_t *newest, int64_t *torn) {
    static const char empty[BLOCK];
    struct slot *slot = aligned_alloc(BLOCK, BLOCK);
    bool done = slot != NULL;
    *newest = 0;
    *torn = -1;
    for (uint64_t i = 0; done && i < slots; i++) {
        done = pread(fd, slot, BLOCK, (off_t)(offset + i * BLOCK)) == BLOCK;
        if (!done || !memcmp(slot, empty, BLOCK))
            continue;
        if (memcmp(slot->magic, SLOT_MAGIC, 8) || slot->crc != crc32_of(slot, offsetof(struct slot, crc)) || slot->sequence % slots != i)
            *torn = (int64_t)i;
        else if (slot->sequence > *newest)
            *newest = slot->sequence;
    }
    free(slot);
    return done;
}

static void *write_slots(void *unused) {
    struct slot *slot = aligned_alloc(BLOCK, BLOCK);
    pthread_mutex_lock(&lock);
    uint64_t sequence = writer.acknowledged + 1;
    while (slot && !writer.stop) {
        if (writer.frozen) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        writer.writing = true;
        writer.write_began_ns = now_ns(CLOCK_MONOTONIC);
        pthread_mutex_unlock(&lock);
        make_slot(slot, sequence);
        off_t at = (off_t)(writer.offset + sequence % writer.slots * BLOCK);
        bool done = pwrite(writer.fd, slot, BLOCK, at) == BLOCK && !fdatasync(writer.fd);
        pthread_mutex_lock(&lock);
        int64_t took = now_ns(CLOCK_MONOTONIC) - writer.write_began_ns;
        if (took > writer.longest_ns)
            writer.longest_ns = took;
        if (done)
            writer.acknowledged = sequence++;
        else
            writer.errors++; /* the same number again: nothing may be acknowledged over a gap */
        writer.writing = false;
        pthread_cond_broadcast(&changed);
        uint64_t pause_ms = done || writer.interval_ms >= 10 ? writer.interval_ms : 10;
        struct timespec next = deadline((int64_t)pause_ms);
        while (pause_ms && !writer.stop && !pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &next))
            ;
    }
    close(writer.fd);
    writer.running = false;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    free(slot);
    return unused;
}

static bool wait_until_idle(const bool *busy, int seconds) {
    struct timespec end = deadline(seconds * 1000);
    while (*busy)
        if (pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &end))
            break;
    return !*busy;
}

/* Stops the writer; waits for a write under way, but not for ever: an orderly shutdown must end. */
void writer_quiesce(void) {
    pthread_mutex_lock(&lock);
    writer.stop = true;
    pthread_cond_broadcast(&changed);
    wait_until_idle(&writer.running, 3);
    pthread_mutex_unlock(&lock);
}

/* Holds the writer between two writes; the number of file systems frozen, as the QEMU guest agent counts them. */
int writer_freeze(void) {
    pthread_mutex_lock(&lock);
    writer.frozen = true;
    int frozen = wait_until_idle(&writer.writing, 10) ? 1 : -1;
    if (frozen < 0)
        writer.frozen = false;
    pthread_mutex_unlock(&lock);
    sync();
    return frozen;
}

int writer_thaw(void) {
    pthread_mutex_lock(&lock);
    int thawed = writer.frozen;
    writer.frozen = false;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return thawed;
}

bool writer_frozen(void) {
    pthread_mutex_lock(&lock);
    bool frozen = writer.frozen;
    pthread_mutex_unlock(&lock);
    return frozen;
}

static bool parse_range(char **arguments, uint64_t *offset, uint64_t *slots) {
    return parse_number(arguments[1], INT64_MAX / 2, offset) && *offset % BLOCK == 0 && parse_number(arguments[2], 1 << 20, slots) && *slots;
}

int verb_writer_start(int count, char **arguments, struct buf *out) {
    (void)count;
    uint64_t offset, slots, interval_ms, newest;
    int64_t torn;
    if (!parse_range(arguments, &offset, &slots) || !parse_number(arguments[3], 3600000, &interval_ms))
        return fail(out, "OFFSET is a multiple of %d, SLOTS 1 to 2^20, INTERVAL_MS at most 3600000", BLOCK);
    pthread_mutex_lock(&lock);
    bool busy = writer.running;
    pthread_mutex_unlock(&lock);
    if (busy)
        return fail(out, "the writer runs already");
    int fd = disk_open(arguments[0], O_RDWR, out);
    if (fd < 0)
        return -1;
    if (!scan(fd, offset, slots, &newest, &torn)) {
        close(fd);
        return fail(out, "disk %s cannot be read there: %s", arguments[0], strerror(errno));
    }
    pthread_mutex_lock(&lock);
    bool mine = !writer.running;
    if (mine) {
        writer.fd = fd, writer.offset = offset, writer.slots = slots, writer.interval_ms = interval_ms;
        writer.acknowledged = newest, writer.errors = 0, writer.longest_ns = 0;
        writer.stop = false, writer.writing = false;
        mine = writer.running = try_thread(write_slots, NULL);
    }
    pthread_mutex_unlock(&lock);
    if (!mine) {
        close(fd);
        return fail(out, "the writer cannot start");
    }
    put(out, "{}");
    return 0;
}

int verb_writer_status(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    pthread_mutex_lock(&lock);
    int64_t longest = writer.longest_ns;
    if (writer.running && writer.writing && now_ns(CLOCK_MONOTONIC) - writer.write_began_ns > longest)
        longest = now_ns(CLOCK_MONOTONIC) - writer.write_began_ns;
    put(out, "{\"running\":%s,\"acknowledged\":%llu,\"errors\":%llu,\"longest_stall_ms\":%lld}", writer.running ? "true" : "false",
        (unsigned long long)writer.acknowledged, (unsigned long long)writer.errors, (long long)(longest / 1000000));
    pthread_mutex_unlock(&lock);
    return 0;
}

int verb_writer_stop(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    writer_quiesce();
    pthread_mutex_lock(&lock);
    bool running = writer.running;
    pthread_mutex_unlock(&lock);
    if (running)
        return fail(out, "a write under way does not end");
    put(out, "{}");
    return 0;
}

int verb_writer_read(int count, char **arguments, struct buf *out) {
    (void)count;
    uint64_t offset, slots, newest;
    int64_t torn;
    if (!parse_range(arguments, &offset, &slots))
        return fail(out, "OFFSET is a multiple of %d, SLOTS 1 to 2^20", BLOCK);
    int fd = disk_open(arguments[0], O_RDONLY, out);
    if (fd < 0)
        return -1;
    bool done = scan(fd, offset, slots, &newest, &torn);
    close(fd);
    if (!done)
        return fail(out, "disk %s cannot be read there", arguments[0]);
    if (torn >= 0)
        return fail(out, "slot %lld is torn", (long long)torn);
    put(out, "{\"newest\":%llu}", (unsigned long long)newest);
    return 0;
}
