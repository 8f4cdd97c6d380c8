/* Disks by serial: what there is, patterned writes and hashes past every cache. */
#include "agent.h"
#include <dirent.h>
#include <sys/ioctl.h>
#include <linux/fs.h>

#define CHUNK (256 * 1024)

static bool is_disk(const char *name) {
    return !strncmp(name, "vd", 2) || !strncmp(name, "sd", 2) || !strncmp(name, "xvd", 3) || !strncmp(name, "nvme", 4);
}

static ssize_t read_page(const char *name, const char *page, char *into, size_t size) {
    char path[300];
    snprintf(path, sizeof path, "/sys/block/%s/device/%s", name, page);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t got = read(fd, into, size);
    close(fd);
    return got;
}

/* virtio and NVMe show the serial as text; SCSI in its vital product data: page 0x83 on Hyper-V, else page 0x80, after 4
 * bytes of header; of a Xen device, which has none, the store tells what lies behind it. */
static void disk_serial(const char *name, char *into, size_t size) {
    char path[300], page[256] = {0}, node[256];
    snprintf(path, sizeof path, "/sys/block/%s/serial", name);
    if (read_text(path, into, size))
        return;
    snprintf(path, sizeof path, "/sys/block/%s/device/serial", name);
    if (read_text(path, into, size))
        return;
    snprintf(path, sizeof path, "/sys/block/%s/device/nodename", name);
    if (read_text(path, node, sizeof node) && xen_disk_serial(node, into, size))
        return;
    ssize_t got = read_page(name, "vpd_pg83", page, sizeof page);
    if (got > 0 && vpd_identifier((unsigned char *)page, (size_t)got, into, size))
        return;
    memset(page, 0, sizeof page);
    if (read_page(name, "vpd_pg80", page, sizeof page - 1) > 4)
        snprintf(into, size, "%.*s", (unsigned char)page[3], page + 4);
    into[strcspn(into, " \n")] = 0;
}

static void put_disk(struct buf *out, const char *name) {
    char path[300], text[128], serial[128];
    unsigned long long sectors = 0;
    snprintf(path, sizeof path, "/sys/block/%s/size", name);
    if (read_text(path, text, sizeof text))
        sscanf(text, "%llu", &sectors);
    disk_serial(name, serial, sizeof serial);
    put(out, "{\"name\":");
    put_string(out, name);
    put(out, ",\"serial\":");
    put_string(out, serial);
    snprintf(path, sizeof path, "/sys/block/%s/ro", name);
    read_text(path, text, sizeof text);
    put(out, ",\"size_bytes\":%llu,\"readonly\":%s,\"address\":", sectors * 512, text[0] == '1' ? "true" : "false");
    snprintf(path, sizeof path, "/sys/block/%s/device", name);
    bus_address(path, text, sizeof text);
    put_string(out, text);
    put(out, "}");
}

int verb_disks(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    state_await_drivers();
    struct dirent **entries;
    int found = scandir("/sys/block", &entries, NULL, alphasort);
    bool first = true;
    put(out, "{\"disks\":[");
    for (int i = 0; i < found; i++) {
        if (is_disk(entries[i]->d_name)) {
            put(out, first ? "" : ",");
            put_disk(out, entries[i]->d_name);
            first = false;
        }
        free(entries[i]);
    }
    if (found >= 0)
        free(entries);
    put(out, "]}");
    return 0;
}

static bool has_state_area(const char *path) {
    char *block = aligned_alloc(BLOCK, BLOCK);
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    bool found = block && fd >= 0 && pread(fd, block, BLOCK, 33LL << 20) == BLOCK && !memcmp(block, "HVCONFORM-IMAGE\n", 16);
    if (fd >= 0)
        close(fd);
    free(block);
    return found;
}

/* The device of the disk with this serial. "root" is also the disk with a state area, where no serial can be set. */
bool disk_path(const char *serial, char *into, size_t size) {
    struct dirent **entries;
    char has[128];
    int disks = scandir("/sys/block", &entries, NULL, alphasort);
    bool found = false;
    if (disks < 0)
        return false;
    for (int pass = 0; pass < 2 && !found; pass++) {
        if (pass && strcmp(serial, "root"))
            break;
        for (int i = 0; i < disks && !found; i++) {
            if (!is_disk(entries[i]->d_name))
                continue;
            snprintf(into, size, "/dev/%s", entries[i]->d_name);
            has[0] = 0;
            disk_serial(entries[i]->d_name, has, sizeof has);
            found = pass ? has_state_area(into) : !strcmp(has, serial);
        }
    }
    for (int i = 0; i < disks; i++)
        free(entries[i]);
    free(entries);
    return found;
}

/* Opens past the page cache; -1 with the reason in `out` when it is not NULL. */
int disk_open(const char *serial, int flags, struct buf *out) {
    char path[300];
    if (!disk_path(serial, path, sizeof path)) {
        if (out)
            fail(out, "no disk has the serial %s", serial);
        return -1;
    }
    int fd = open(path, flags | O_DIRECT | O_CLOEXEC);
    if (fd < 0 && out)
        fail(out, "%s: %s", path, strerror(errno));
    return fd;
}

/* Parses and checks OFFSET LENGTH, both multiples of a block and within the disk. */
static int open_range(char **arguments, int flags, uint64_t *offset, uint64_t *length, struct buf *out) {
    if (!parse_number(arguments[1], INT64_MAX, offset) || !parse_number(arguments[2], INT64_MAX, length) || *offset % BLOCK || *length % BLOCK)
        return fail(out, "offset and length are multiples of %d", BLOCK);
    int fd = disk_open(arguments[0], flags, out);
    uint64_t size = 0;
    if (fd >= 0 && (ioctl(fd, BLKGETSIZE64, &size) || *offset > size || *length > size - *offset)) {
        close(fd);
        return fail(out, "the range ends after the disk's %llu bytes", (unsigned long long)size);
    }
    return fd;
}

static int go_through(char **arguments, const uint64_t *seed, struct buf *out) {
    uint64_t offset, length;
    struct sha256 hash;
    char hex[65];
    int fd = open_range(arguments, seed ? O_RDWR : O_RDONLY, &offset, &length, out);
    if (fd < 0)
        return -1;
    uint8_t *chunk = aligned_alloc(BLOCK, CHUNK);
    const char *doing = seed ? "write" : "read";
    bool done = chunk != NULL;
    sha256_start(&hash);
    errno = 0;
    for (uint64_t at = 0; done && at < length; at += CHUNK) {
        size_t size = length - at < CHUNK ? length - at : CHUNK;
        if (seed)
            pattern_fill((uint64_t *)chunk, size / 8, (offset + at) / 8, *seed);
        ssize_t moved = seed ? pwrite(fd, chunk, size, (off_t)(offset + at)) : pread(fd, chunk, size, (off_t)(offset + at));
        done = moved == (ssize_t)size;
        if (done)
            sha256_add(&hash, chunk, size);
    }
    if (done && seed) {
        doing = "flush";
        done = !fdatasync(fd);
    }
    int error = errno;
    close(fd);
    free(chunk);
    if (!done)
        return fail(out, "%s of disk %s failed: %s", doing, arguments[0], strerror(error));
    sha256_hex(&hash, hex);
    put(out, "{\"sha256\":\"%s\"}", hex);
    return 0;
}

int verb_disk_write(int count, char **arguments, struct buf *out) {
    (void)count;
    uint64_t seed;
    if (!parse_number(arguments[3], UINT64_MAX, &seed))
        return fail(out, "the seed is a number below 2^64");
    if (writer_frozen())
        return fail(out, "the disks are frozen");
    return go_through(arguments, &seed, out);
}

int verb_disk_hash(int count, char **arguments, struct buf *out) {
    (void)count;
    return go_through(arguments, NULL, out);
}
