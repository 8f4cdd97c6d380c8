/* The root disk's state area: image id, boot counter and clean marker (layout: docs/guest-image.md). */
#include "agent.h"
#include <stddef.h>

#define STATE_OFFSET (33LL << 20)
#define HEADER_MAGIC "HVCONFORM-IMAGE\n"
#define RECORD_MAGIC "HVCSTATE"

struct record {
    char magic[8];
    uint32_t version, clean;
    uint64_t sequence, boots;
    char boot_id[40];
    uint32_t crc;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* settled: `boot` may answer; complete: every driver is loaded, so a root disk that is not there is absent */
static bool settled, complete, counted, busy, again, last_clean;
static uint64_t boots;

static bool is_whole(const struct record *record) {
    return !memcmp(record->magic, RECORD_MAGIC, 8) && record->version == 1 &&
           record->crc == crc32_of(record, offsetof(struct record, crc));
}

/* The open root disk with the header in `block`, or -1. */
static int open_root(void *block, int flags) {
    int fd = disk_open("root", flags, NULL);
    if (fd < 0)
        return -1;
    if (pread(fd, block, BLOCK, STATE_OFFSET) == BLOCK && !memcmp(block, HEADER_MAGIC, sizeof HEADER_MAGIC - 1))
        return fd;
    close(fd);
    return -1;
}

/* The newer whole record of the two; an empty one when there is none. Returns which slot, 0 or 1, it is in. */
static int newest(int fd, uint8_t *block, struct record *record) {
    int slot = 1;
    *record = (struct record){.clean = 1};
    for (int i = 0; i < 2; i++) {
        const struct record *found = (void *)block;
        if (pread(fd, block, BLOCK, STATE_OFFSET + (i + 1) * BLOCK) == BLOCK && is_whole(found) && found->sequence > record->sequence) {
            *record = *found;
            slot = i;
        }
    }
    return slot;
}

/* Writes the record to the slot that does not hold the newest, so that a torn write leaves the old one. */
static bool replace(int fd, uint8_t *block, int slot, struct record *record) {
    memcpy(record->magic, RECORD_MAGIC, 8);
    record->version = 1;
    record->sequence++;
    snprintf(record->boot_id, sizeof record->boot_id, "%s", boot_id());
    record->crc = crc32_of(record, offsetof(struct record, crc));
    memset(block, 0, BLOCK);
    memcpy(block, record, sizeof *record);
    return pwrite(fd, block, BLOCK, STATE_OFFSET + (2 - slot) * BLOCK) == BLOCK && !fdatasync(fd);
}

/* Counts this boot on the open root disk, once: the agent may have been started again within one boot. */
static void count_on(int fd, uint8_t *block) {
    struct record record;
    int slot = newest(fd, block, &record);
    pthread_mutex_lock(&lock);
    last_clean = record.clean;
    pthread_mutex_unlock(&lock);
    if (strcmp(record.boot_id, boot_id())) {
        record.boots++;
        record.clean = 0;
        if (!replace(fd, block, slot, &record))
            log_line("the boot counter cannot be written: %s", strerror(errno));
    }
    pthread_mutex_lock(&lock);
    boots = record.boots;
    counted = true;
    pthread_mutex_unlock(&lock);
}

static bool scsi_may_come(int64_t since_ns) {
    return !access("/sys/class/scsi_host/host0", F_OK) && now_ns(CLOCK_MONOTONIC) - since_ns < 3000000000LL;
}

static void *count_boot(void *unused) {
    uint8_t *block = aligned_alloc(BLOCK, BLOCK);
    int64_t began = now_ns(CLOCK_MONOTONIC);
    for (bool more = true; more;) {
        int fd = block ? open_root(block, O_RDWR | O_DSYNC) : -1;
        if (fd >= 0) {
            count_on(fd, block);
            close(fd);
        }
        pthread_mutex_lock(&lock);
        bool waits = !counted && complete && scsi_may_come(began); /* a SCSI scan goes on after the driver has loaded */
        more = !counted && (again || waits);
        again = false;
        if (!more) {
            busy = false;
            settled |= counted || complete;
            pthread_cond_broadcast(&changed);
        }
        pthread_mutex_unlock(&lock);
        if (waits)
            sleep_ms(50);
    }
    free(block);
    return unused;
}

/* Counts this boot if the root disk is there; called when a disk appears, and when every driver has been loaded. */
void state_count_boot(bool drivers_complete) {
    pthread_mutex_lock(&lock);
    complete |= drivers_complete;
    if (complete)
        pthread_cond_broadcast(&changed);
    bool wanted = !counted && !busy;
    again = busy;
    busy |= wanted;
    pthread_mutex_unlock(&lock);
    if (wanted && !try_thread(count_boot, NULL))
        count_boot(NULL);
}

/* Waits until every driver is loaded, so that what there is from the start is not told by half: a Xen guest's NICs come
 * one by one, and the first one answers already. */
void state_await_drivers(void) {
    struct timespec end = deadline(4000);
    pthread_mutex_lock(&lock);
    while (!complete && !pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &end))
        ;
    pthread_mutex_unlock(&lock);
}

void state_mark_clean(void) {
    struct record record;
    uint8_t *block = aligned_alloc(BLOCK, BLOCK);
    int fd = block ? open_root(block, O_RDWR | O_DSYNC) : -1;
    if (fd >= 0) {
        int slot = newest(fd, block, &record);
        record.clean = 1;
        if (!replace(fd, block, slot, &record))
            log_line("the clean marker cannot be written: %s", strerror(errno));
        close(fd);
    }
    free(block);
}

/* The root disk's image id, else the initrd's. */
void state_image_id(char *into, size_t size) {
    char *block = aligned_alloc(BLOCK, BLOCK);
    int fd = block ? open_root(block, O_RDONLY) : -1;
    if (fd >= 0) {
        block[BLOCK - 1] = 0;
        snprintf(into, size, "%.*s", (int)strcspn(block + sizeof HEADER_MAGIC - 1, "\n"), block + sizeof HEADER_MAGIC - 1);
        close(fd);
    } else {
        read_text("/etc/image-id", into, size);
    }
    free(block);
}

int verb_boot(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    struct timespec end = deadline(4000);
    pthread_mutex_lock(&lock);
    while (!settled && !pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &end))
        ;
    bool late = !settled;
    uint64_t number = boots;
    bool clean = last_clean;
    pthread_mutex_unlock(&lock);
    if (late)
        return fail(out, "the root disk does not answer");
    put(out, "{\"boot_id\":\"%s\",\"boots\":%llu,\"clean\":%s,\"uptime_ms\":%lld}", boot_id(), (unsigned long long)number,
        clean ? "true" : "false", (long long)(now_ns(CLOCK_BOOTTIME) / 1000000));
    return 0;
}
