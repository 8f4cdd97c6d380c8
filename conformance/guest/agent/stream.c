/* The sequenced stream, both ways over one TCP connection, by which a peer measures gaps, losses and duplicates. */
#include "agent.h"
#include <stddef.h>
#include <sys/socket.h>

int listen_on(int type, uint16_t port);
int accept_on(int listening);

#define MOST_STREAMS 16

struct record {
    char magic[4];
    uint32_t reserved;
    uint64_t sequence, monotonic_ns;
    char boot_id[36];
    uint32_t crc;
};
_Static_assert(sizeof(struct record) == 64, "a record is 64 bytes");

struct stream {
    int fd, users;
    int64_t interval_ms;
};

static int streams;

static void leave(struct stream *stream) {
    shutdown(stream->fd, SHUT_RDWR); /* wakes the other thread */
    if (__atomic_sub_fetch(&stream->users, 1, __ATOMIC_SEQ_CST))
        return;
    close(stream->fd);
    free(stream);
    __atomic_sub_fetch(&streams, 1, __ATOMIC_SEQ_CST);
}

static void *send_records(void *place) {
    struct stream *stream = place;
    struct record record = {.magic = "HVS1"};
    int64_t due = now_ns(CLOCK_MONOTONIC);
    memcpy(record.boot_id, boot_id(), strnlen(boot_id(), sizeof record.boot_id));
    do {
        record.monotonic_ns = (uint64_t)now_ns(CLOCK_MONOTONIC);
        record.crc = crc32_of(&record, offsetof(struct record, crc));
        if (!write_all(stream->fd, &record, sizeof record))
            break;
        due += stream->interval_ms * 1000000;
        if (due < now_ns(CLOCK_MONOTONIC)) /* after a pause: no burst */
            due = now_ns(CLOCK_MONOTONIC) + stream->interval_ms * 1000000;
        struct timespec at = {due / 1000000000, due % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        record.sequence++;
    } while (true);
    leave(stream);
    return NULL;
}

/* "INTERVAL_MS\n", at most 10 bytes, read byte by byte: records follow at once. */
static bool read_interval(struct stream *stream) {
    char line[12];
    uint64_t interval_ms;
    for (size_t length = 0; length < sizeof line; length++) {
        if (!read_all(stream->fd, line + length, 1))
            return false;
        if (line[length] != '\n')
            continue;
        line[length && line[length - 1] == '\r' ? length - 1 : length] = 0;
        stream->interval_ms = parse_number(line, 60000, &interval_ms) ? (int64_t)interval_ms : 0;
        return stream->interval_ms > 0;
    }
    return false;
}

static void *serve_stream(void *place) {
    struct stream *stream = place;
    struct record record;
    uint64_t expected = 0;
    if (read_interval(stream)) {
        __atomic_add_fetch(&stream->users, 1, __ATOMIC_SEQ_CST);
        if (!try_thread(send_records, stream)) {
            leave(stream);
        } else {
            while (read_all(stream->fd, &record, sizeof record)) {
                bool whole = !memcmp(record.magic, "HVS1", 4) && record.crc == crc32_of(&record, offsetof(struct record, crc));
                if (!whole || record.sequence != expected++)
                    break;
            }
        }
    }
    leave(stream);
    return NULL;
}

void *stream_server(void *unused) {
    int listening = listen_on(SOCK_STREAM, 7779);
    while (listening >= 0) {
        int fd = accept_on(listening);
        struct stream *stream = fd < 0 ? NULL : malloc(sizeof *stream);
        if (!stream) {
            if (fd >= 0)
                close(fd);
            continue;
        }
        *stream = (struct stream){.fd = fd, .users = 1};
        bool room = __atomic_add_fetch(&streams, 1, __ATOMIC_SEQ_CST) <= MOST_STREAMS;
        if (!room || !try_thread(serve_stream, stream))
            leave(stream);
    }
    return unused;
}
