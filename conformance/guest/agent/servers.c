/* Where requests come in: TCP, serial consoles; and the UDP echo. */
#include "agent.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <termios.h>

#define MOST_CONNECTIONS 64
#define SERIAL_MARK "\x02HVC "

/* Splits what a channel brings into lines. A line that is too long is dropped as a whole and said to be so. */
struct lines {
    char *text;
    size_t length;
    bool too_long;
};

/* Reads until one line is whole; its text (without the end of line), or NULL at the end of the channel. */
static char *next_line(int fd, struct lines *lines, size_t *used, bool *too_long) {
    if (*used) {
        memmove(lines->text, lines->text + *used, lines->length - *used);
        lines->length -= *used;
        *used = 0;
    }
    for (size_t seen = 0;;) {
        char *end = memchr(lines->text + seen, '\n', lines->length - seen);
        if (end) {
            *used = (size_t)(end + 1 - lines->text);
            *too_long = lines->too_long;
            lines->too_long = false;
            for (char *c = lines->text; c < end; c++)
                if (!*c)
                    *c = '?'; /* a zero byte must not cut the request */
            if (end > lines->text && end[-1] == '\r')
                end--;
            *end = 0;
            return lines->text;
        }
        seen = lines->length;
        if (lines->length == LINE_MAX_BYTES) {
            lines->too_long = true;
            seen = lines->length = 0;
        }
        ssize_t got = read(fd, lines->text + lines->length, LINE_MAX_BYTES - lines->length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return NULL;
        lines->length += (size_t)got;
    }
}

static void answer_or_refuse(char *line, bool too_long, struct buf *reply) {
    if (!too_long) {
        answer(line, reply);
        return;
    }
    clear(reply);
    put(reply, "{\"ok\":false,\"error\":\"a request is at most %d bytes\"}", LINE_MAX_BYTES);
}

static int connections;

static void *serve_connection(void *socket_number) {
    int fd = (int)(intptr_t)socket_number;
    struct lines lines = {malloc(LINE_MAX_BYTES), 0, false};
    struct buf reply = {0};
    size_t used = 0;
    bool too_long, works = lines.text != NULL;
    for (char *line; works && (line = next_line(fd, &lines, &used, &too_long));) {
        answer_or_refuse(line, too_long, &reply);
        put(&reply, "\n");
        works = write_all(fd, reply.text, reply.length);
    }
    free(lines.text);
    release(&reply);
    close(fd);
    __atomic_sub_fetch(&connections, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

int listen_on(int type, uint16_t port) {
    int fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0), on = 1, off = 0;
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (fd >= 0 && !bind(fd, (void *)&any, sizeof any) && (type != SOCK_STREAM || !listen(fd, 64)))
        return fd;
    log_line("BUG: port %d: %s", port, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Dead peers must not hold a connection for ever: a guest lives long and its peers are killed at will. */
int accept_on(int listening) {
    int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC), on = 1;
    if (fd < 0) {
        sleep_ms(10);
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){60}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){20}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

void *tcp_server(void *unused) {
    int listening = listen_on(SOCK_STREAM, 7777);
    while (listening >= 0) {
        int fd = accept_on(listening);
        if (fd < 0)
            continue;
        if (__atomic_add_fetch(&connections, 1, __ATOMIC_SEQ_CST) <= MOST_CONNECTIONS && try_thread(serve_connection, (void *)(intptr_t)fd))
            continue;
        __atomic_sub_fetch(&connections, 1, __ATOMIC_SEQ_CST);
        close(fd);
    }
    return unused;
}

void *echo_server(void *unused) {
    static uint8_t payload[65536];
    int fd = listen_on(SOCK_DGRAM, 7778);
    while (fd >= 0) {
        struct sockaddr_in6 from;
        socklen_t size = sizeof from;
        ssize_t got = recvfrom(fd, payload, sizeof payload, 0, (void *)&from, &size);
        if (got >= 0)
            sendto(fd, payload, (size_t)got, MSG_NOSIGNAL, (void *)&from, size);
        else
            sleep_ms(1);
    }
    return unused;
}

static bool make_raw(int fd) {
    struct termios mode;
    if (tcgetattr(fd, &mode))
        return false;
    cfmakeraw(&mode);
    mode.c_oflag |= OPOST | ONLCR;
    mode.c_cflag |= CLOCAL | CREAD;
    mode.c_cc[VMIN] = 1;
    return !tcsetattr(fd, TCSANOW, &mode);
}

/* Requests and replies are marked, so that both sides can tell them from the kernel's messages around them. */
static void answer_marked(int fd, char *line, bool too_long, struct buf *reply, struct buf *framed) {
    char *at = strstr(line, SERIAL_MARK), *rest = NULL;
    char *id = at ? strtok_r(at + strlen(SERIAL_MARK), " ", &rest) : NULL;
    if (!id || strlen(id) > 64)
        return;
    answer_or_refuse(rest, too_long, reply);
    clear(framed);
    put(framed, "\n" SERIAL_MARK "%s %s\n", id, reply->text); /* the newline ends whatever the kernel was saying */
    write_all(fd, framed->text, framed->length);
}

void *serial_server(void *path) {
    struct lines lines = {malloc(LINE_MAX_BYTES), 0, false};
    struct buf reply = {0}, framed = {0};
    for (;;) {
        size_t used = 0;
        bool too_long;
        int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (!lines.text || fd < 0 || !make_raw(fd)) {
            if (fd >= 0)
                close(fd);
            break; /* no such hardware behind the name */
        }
        lines.length = 0;
        for (char *line; (line = next_line(fd, &lines, &used, &too_long));)
            answer_marked(fd, line, too_long, &reply, &framed);
        close(fd);
        sleep_ms(100);
    }
    free(lines.text);
    return NULL;
}
