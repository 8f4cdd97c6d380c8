/* Traffic the guest makes and counts: heartbeats, echoes with don't-fragment, raw frames, frames for others. */
#include "agent.h"
#include <arpa/inet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* An IPv4 or IPv6 address, the latter with %nic where it is link-local. */
static bool parse_peer(const char *text, uint16_t port, struct sockaddr_storage *into, socklen_t *size) {
    char address[INET6_ADDRSTRLEN + 1];
    struct sockaddr_in *v4 = (void *)into;
    struct sockaddr_in6 *v6 = (void *)into;
    memset(into, 0, sizeof *into);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        *size = sizeof *v4;
        return true;
    }
    size_t length = strcspn(text, "%");
    if (length >= sizeof address)
        return false;
    memcpy(address, text, length);
    address[length] = 0;
    if (inet_pton(AF_INET6, address, &v6->sin6_addr) != 1)
        return false;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    v6->sin6_scope_id = text[length] ? if_nametoindex(text + length + 1) : 0;
    *size = sizeof *v6;
    return true;
}

/* heartbeats */

static struct {
    bool runs, wanted;
    struct sockaddr_storage peer;
    socklen_t peer_size;
    uint64_t interval_ms, sequence;
} beat;

static void *send_beats(void *unused) {
    char uuid[64], line[256];
    int fd = -1, family = 0;
    smbios_uuid(uuid, sizeof uuid);
    int64_t due = now_ns(CLOCK_MONOTONIC);
    for (;;) {
        pthread_mutex_lock(&lock);
        if (!beat.wanted) {
            beat.runs = false;
            pthread_mutex_unlock(&lock);
            break;
        }
        struct sockaddr_storage peer = beat.peer;
        socklen_t size = beat.peer_size;
        int64_t interval_ns = (int64_t)beat.interval_ms * 1000000;
        uint64_t sequence = beat.sequence++;
        pthread_mutex_unlock(&lock);
        if (fd < 0 || family != peer.ss_family) {
            if (fd >= 0)
                close(fd);
            family = peer.ss_family;
            fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        }
        int length = snprintf(line, sizeof line, "HVB1 %s %s %llu %lld %lld", uuid, boot_id(), (unsigned long long)sequence,
                              (long long)now_ns(CLOCK_MONOTONIC), (long long)now_ns(CLOCK_REALTIME));
        /* unconnected, and an error is just a lost beat: addresses and routes may come and go */
        if (fd >= 0)
            sendto(fd, line, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL, (void *)&peer, size);
        due += interval_ns;
        int64_t now = now_ns(CLOCK_MONOTONIC);
        if (due < now) /* after a pause: no burst */
            due = now + interval_ns;
        struct timespec at = {due / 1000000000, due % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
    }
    if (fd >= 0)
        close(fd);
    return unused;
}

int verb_beat_start(int count, char **arguments, struct buf *out) {
    (void)count;
    struct sockaddr_storage peer;
    socklen_t size;
    uint64_t port, interval_ms;
    if (!parse_number(arguments[1], 65535, &port) || !port || !parse_peer(arguments[0], (uint16_t)port, &peer, &size))
        return fail(out, "ADDR is an IPv4 or IPv6 address, PORT 1 to 65535");
    if (!parse_number(arguments[2], 60000, &interval_ms) || !interval_ms)
        return fail(out, "INTERVAL_MS is 1 to 60000");
    pthread_mutex_lock(&lock);
    beat.peer = peer, beat.peer_size = size, beat.interval_ms = interval_ms;
    beat.wanted = true;
    if (!beat.runs)
        beat.runs = try_thread(send_beats, NULL);
    bool runs = beat.runs;
    pthread_mutex_unlock(&lock);
    if (!runs)
        return fail(out, "cannot start a thread");
    put(out, "{}");
    return 0;
}

int verb_beat_stop(int count, char **arguments, struct buf *out) {
    (void)count, (void)arguments;
    pthread_mutex_lock(&lock);
    beat.wanted = false;
    pthread_mutex_unlock(&lock);
    put(out, "{}");
    return 0;
}

/* echo */

static bool await_reply(int fd, const uint8_t *sent, size_t length, int64_t until_ns) {
    static const size_t room = 65536;
    uint8_t *got = malloc(room);
    bool answered = false;
    while (got && !answered) {
        int64_t left_ms = (until_ns - now_ns(CLOCK_MONOTONIC) + 999999) / 1000000;
        struct pollfd readable = {fd, POLLIN, 0};
        if (left_ms <= 0 || poll(&readable, 1, (int)left_ms) < 0)
            break;
        ssize_t size = recv(fd, got, room, MSG_DONTWAIT);
        answered = size == (ssize_t)length && !memcmp(got, sent, length);
        if (size < 0 && errno == EMSGSIZE)
            break;
        if (size < 0 && errno != EAGAIN)
            sleep_ms(10); /* an ICMP error: the peer may yet come */
    }
    free(got);
    return answered;
}

int verb_echo(int count, char **arguments, struct buf *out) {
    (void)count;
    struct sockaddr_storage peer;
    socklen_t size;
    uint64_t length, timeout_ms;
    if (!parse_peer(arguments[0], 7778, &peer, &size))
        return fail(out, "ADDR is an IPv4 or IPv6 address");
    if (!parse_number(arguments[1], 65507, &length) || !parse_number(arguments[2], 600000, &timeout_ms))
        return fail(out, "PAYLOAD_BYTES is at most 65507, TIMEOUT_MS at most 600000");
    int fd = socket(peer.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    uint8_t *payload = calloc(1, length + 16);
    bool answered = false;
    if (fd >= 0 && payload) {
        uint64_t nonce = 0;
        if (getrandom(&nonce, sizeof nonce, GRND_NONBLOCK) < 0)
            nonce = (uint64_t)now_ns(CLOCK_MONOTONIC);
        pattern_fill((uint64_t *)payload, length / 8 + 1, 0, nonce);
        /* PROBE: sets don't-fragment and does not believe a path MTU learnt before */
        if (peer.ss_family == AF_INET)
            setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &(int){IP_PMTUDISC_PROBE}, sizeof(int));
        else
            setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &(int){IPV6_PMTUDISC_PROBE}, sizeof(int));
        int64_t end = now_ns(CLOCK_MONOTONIC) + (int64_t)timeout_ms * 1000000;
        answered = !connect(fd, (void *)&peer, size) && send(fd, payload, length, MSG_NOSIGNAL) == (ssize_t)length &&
                   await_reply(fd, payload, length, end);
    }
    if (fd >= 0)
        close(fd);
    free(payload);
    put(out, "{\"answered\":%s}", answered ? "true" : "false");
    return 0;
}

/* frames */

/* A packet socket on the NIC with this MAC; -1 with the reason. */
static int packet_socket(const char *mac, int protocol, struct buf *out) {
    char name[IFNAMSIZ];
    if (!nic_by_mac(mac, name, sizeof name))
        return fail(out, "no NIC has the MAC %.32s", mac);
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(name), .sll_protocol = htons((uint16_t)protocol)};
    if (fd < 0 || bind(fd, (void *)&where, sizeof where)) {
        fail(out, "%s: %s", name, strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

int verb_send_frame(int count, char **arguments, struct buf *out) {
    (void)count;
    uint8_t frame[9216];
    size_t digits = strlen(arguments[1]);
    unsigned byte;
    if (digits % 2 || digits / 2 < 14 || digits / 2 > sizeof frame || strspn(arguments[1], "0123456789abcdefABCDEF") != digits)
        return fail(out, "HEX is 14 to %zu bytes in hexadecimal", sizeof frame);
    for (size_t i = 0; i < digits / 2 && sscanf(arguments[1] + i * 2, "%2x", &byte) == 1; i++)
        frame[i] = (uint8_t)byte;
    int fd = packet_socket(arguments[0], 0, out);
    if (fd < 0)
        return -1;
    ssize_t sent = send(fd, frame, digits / 2, MSG_NOSIGNAL);
    int error = errno;
    close(fd);
    if (sent < 0)
        return fail(out, "send: %s", strerror(error));
    put(out, "{\"sent\":%zd}", sent);
    return 0;
}

static struct foreign {
    char mac[32], other[32];
    uint8_t destination[ETH_ALEN];
    bool runs;
    int fd;
    uint64_t frames;
} foreign[32];

static void *count_foreign(void *place) {
    struct foreign *mine = place;
    struct sockaddr_ll from;
    uint8_t head[ETH_HLEN];
    for (;;) {
        socklen_t size = sizeof from;
        ssize_t got = recvfrom(mine->fd, head, sizeof head, 0, (void *)&from, &size);
        if (got < 0 && errno == EINTR)
            continue;
        pthread_mutex_lock(&lock);
        if (got == ETH_HLEN && from.sll_pkttype == PACKET_OTHERHOST && !memcmp(head, mine->destination, ETH_ALEN))
            mine->frames++;
        if (got < 0) { /* the NIC went down or away: the next call starts again */
            close(mine->fd);
            mine->runs = false;
            pthread_mutex_unlock(&lock);
            return NULL;
        }
        pthread_mutex_unlock(&lock);
    }
}

/* Called with the lock held. */
static int watch_foreign(struct foreign *mine, struct buf *out) {
    mine->fd = packet_socket(mine->mac, ETH_P_ALL, out);
    if (mine->fd < 0)
        return -1;
    char name[IFNAMSIZ];
    struct packet_mreq promiscuous = {.mr_type = PACKET_MR_PROMISC};
    if (nic_by_mac(mine->mac, name, sizeof name))
        promiscuous.mr_ifindex = (int)if_nametoindex(name);
    if (setsockopt(mine->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof promiscuous) || !try_thread(count_foreign, mine)) {
        close(mine->fd);
        return fail(out, "the NIC cannot be made promiscuous");
    }
    mine->runs = true;
    return 0;
}

int verb_foreign_unicast(int count, char **arguments, struct buf *out) {
    (void)count;
    struct foreign *mine = NULL;
    int result = 0, length = 0;
    uint8_t other[ETH_ALEN];
    if (strlen(arguments[0]) != 17 || strlen(arguments[1]) != 17 ||
        sscanf(arguments[1], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx%n", &other[0], &other[1], &other[2], &other[3], &other[4], &other[5], &length) != ETH_ALEN ||
        length != 17)
        return fail(out, "MAC is six hexadecimal bytes with colons");
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign && !mine; i++)
        if (!foreign[i].mac[0] || (!strcasecmp(foreign[i].mac, arguments[0]) && !strcasecmp(foreign[i].other, arguments[1])))
            mine = &foreign[i];
    if (!mine) {
        result = fail(out, "too many pairs of NICs are watched");
    } else if (!mine->runs) {
        strcpy(mine->mac, arguments[0]);
        strcpy(mine->other, arguments[1]);
        memcpy(mine->destination, other, sizeof other);
        mine->frames = 0;
        result = watch_foreign(mine, out);
        if (result)
            mine->mac[0] = 0;
    }
    if (!result)
        put(out, "{\"count\":%llu}", (unsigned long long)mine->frames);
    pthread_mutex_unlock(&lock);
    return result;
}
