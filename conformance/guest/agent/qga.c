/* The part of the QEMU guest agent's protocol that drivers use, on virtio-serial port org.qemu.guest_agent.0. */
#include "agent.h"
#include <poll.h>
#include <sys/utsname.h>

#define PORT_NAME "org.qemu.guest_agent.0"
#define MOST_BYTES 16384

static const char *const commands[] = {
    "guest-sync", "guest-sync-delimited", "guest-ping", "guest-info", "guest-network-get-interfaces", "guest-shutdown", "guest-fsfreeze-status",
    "guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-get-osinfo", "guest-get-time", "guest-set-time",
};

static void refuse(struct buf *out, const char *class, const char *description) {
    clear(out);
    put(out, "{\"error\":{\"class\":\"%s\",\"desc\":", class);
    put_string(out, description);
    put(out, "}}\n");
}

static void put_info(struct buf *out) {
    put(out, "{\"return\":{\"version\":\"hvconform-%s\",\"supported_commands\":[", AGENT_VERSION);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        put(out, "%s{\"name\":\"%s\",\"enabled\":true,\"success-response\":%s}", i ? "," : "", commands[i], strcmp(commands[i], "guest-shutdown") ? "true" : "false");
    put(out, "]}}\n");
}

static void put_osinfo(struct buf *out) {
    struct utsname name;
    uname(&name);
    put(out, "{\"return\":{\"id\":\"hvconform\",\"name\":\"hvconform test guest\",\"pretty-name\":\"hvconform test guest %s\",\"version-id\":\"%s\",\"kernel-release\":", AGENT_VERSION, AGENT_VERSION);
    put_string(out, name.release);
    put(out, ",\"kernel-version\":");
    put_string(out, name.version);
    put(out, ",\"machine\":");
    put_string(out, name.machine);
    put(out, "}}\n");
}

static void set_time(struct buf *out, const char *arguments) {
    char text[32];
    uint64_t ns;
    if (!json_text(json_member(arguments, "time"), text, sizeof text)) {
        refuse(out, "GenericError", "there is no hardware clock to read; pass the time");
        return;
    }
    if (!parse_number(text, INT64_MAX, &ns)) {
        refuse(out, "GenericError", "time is a number of nanoseconds since 1970");
        return;
    }
    struct timespec time = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    if (clock_settime(CLOCK_REALTIME, &time))
        refuse(out, "GenericError", strerror(errno));
    else
        put(out, "{\"return\":{}}\n");
}

/* QEMU's agent gives no reply to a shutdown that succeeds. One that is ignored on request gives none either. */
static void shut_down(struct buf *out, const char *arguments) {
    char mode[16] = "powerdown";
    if (json_member(arguments, "mode") && !json_text(json_member(arguments, "mode"), mode, sizeof mode))
        mode[0] = 0;
    bool off = !strcmp(mode, "powerdown"), reboots = !strcmp(mode, "reboot"), halts = !strcmp(mode, "halt");
    if (!off && !reboots && !halts)
        refuse(out, "GenericError", "mode is powerdown, reboot or halt");
    else if (!acpi_ignored())
        power_request(off ? POWER_OFF : reboots ? POWER_REBOOT : POWER_HALT);
}

static void freeze(struct buf *out) {
    int frozen = writer_freeze();
    if (frozen < 0)
        refuse(out, "GenericError", "a disk write under way does not end");
    else
        put(out, "{\"return\":%d}\n", frozen);
}

/* Answers one JSON request; nothing where the protocol wants silence. */
static void answer_qga(const char *line, struct buf *out) {
    char command[64], id[32];
    clear(out);
    if (!json_is_valid(line) || !json_text(json_member(line, "execute"), command, sizeof command)) {
        refuse(out, "GenericError", "JSON parse error");
        return;
    }
    const char *arguments = json_member(line, "arguments");
    if (!strcmp(command, "guest-sync") || !strcmp(command, "guest-sync-delimited")) {
        const char *start = strcmp(command, "guest-sync") ? "\xff" : "";
        if (json_text(json_member(arguments, "id"), id, sizeof id) && strspn(id, "-0123456789") == strlen(id) && id[0])
            put(out, "%s{\"return\":%s}\n", start, id);
        else
            refuse(out, "GenericError", "id is a number");
    } else if (!strcmp(command, "guest-ping")) {
        put(out, "{\"return\":{}}\n");
    } else if (!strcmp(command, "guest-info")) {
        put_info(out);
    } else if (!strcmp(command, "guest-network-get-interfaces")) {
        put(out, "{\"return\":[");
        put_nics(out, true);
        put(out, "]}\n");
    } else if (!strcmp(command, "guest-shutdown")) {
        shut_down(out, arguments);
    } else if (!strcmp(command, "guest-fsfreeze-status")) {
        put(out, "{\"return\":\"%s\"}\n", writer_frozen() ? "frozen" : "thawed");
    } else if (!strcmp(command, "guest-fsfreeze-freeze")) {
        freeze(out);
    } else if (!strcmp(command, "guest-fsfreeze-thaw")) {
        put(out, "{\"return\":%d}\n", writer_thaw());
    } else if (!strcmp(command, "guest-get-osinfo")) {
        put_osinfo(out);
    } else if (!strcmp(command, "guest-get-time")) {
        put(out, "{\"return\":%lld}\n", (long long)now_ns(CLOCK_REALTIME));
    } else if (!strcmp(command, "guest-set-time")) {
        set_time(out, arguments);
    } else {
        refuse(out, "CommandNotFound", "the command is not known");
    }
}

/* A reply for nobody is dropped, after a second: a write blocks while no host listens. Not at once, since a host that
   closed the port and opened it again can have its request here before the kernel knows that it is open. */
static void send_reply(int fd, const struct buf *reply) {
    long long end = now_ns(CLOCK_MONOTONIC) + 1000000000LL;
    for (size_t at = 0; at < reply->length;) {
        ssize_t sent = write(fd, reply->text + at, reply->length - at);
        struct pollfd writable = {fd, POLLOUT, 0};
        if (sent > 0) {
            at += (size_t)sent;
        } else if (errno != EINTR && (errno != EAGAIN || now_ns(CLOCK_MONOTONIC) > end)) {
            return;
        } else if (poll(&writable, 1, 1000) > 0 && writable.revents & POLLHUP) {
            sleep_ms(10); /* which poll cannot wait for */
        }
    }
}

/* Requests are JSON objects, one a line; 0xff starts afresh (the flush byte of guest-sync-delimited). */
static size_t take_requests(int fd, char *text, size_t length, struct buf *reply) {
    char *start = text, *end;
    while ((end = memchr(start, '\n', length - (size_t)(start - text)))) {
        *end = 0;
        char *fresh = strrchr(start, '\xff');
        if (fresh)
            start = fresh + 1;
        if (start[strspn(start, " \t\r")]) {
            answer_qga(start, reply);
            send_reply(fd, reply);
        }
        start = end + 1;
    }
    size_t left = length - (size_t)(start - text);
    memmove(text, start, left);
    return left == MOST_BYTES - 1 ? 0 : left; /* no end in sight: forget it */
}

static void *serve_qga(void *port) {
    struct buf reply = {0};
    char *text = malloc(MOST_BYTES);
    size_t length = 0;
    int fd = (int)(intptr_t)port;
    while (text) {
        struct pollfd readable = {fd, POLLIN, 0};
        if (poll(&readable, 1, -1) < 0 && errno != EINTR)
            break;
        ssize_t got = readable.revents & POLLIN ? read(fd, text + length, MOST_BYTES - 1 - length) : 0;
        if (got > 0)
            length = take_requests(fd, text, length + (size_t)got, &reply);
        else if (got < 0 && errno != EAGAIN && errno != EINTR)
            break; /* the port was unplugged */
        else
            sleep_ms(50); /* no host side is open, which poll cannot wait for */
    }
    free(text);
    release(&reply);
    close(fd);
    return NULL;
}

/* Serves the port (such as "vport1p1") if it is the guest agent's. Called twice a port: the host tells the name after
   the port is there (a "change" event); the kernel lets only one of the two open it. */
void qga_open(const char *port) {
    char path[300], name[64] = "";
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", port);
    if (!read_text(path, name, sizeof name) || strcmp(name, PORT_NAME))
        return;
    snprintf(path, sizeof path, "/dev/%s", port);
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 && !try_thread(serve_qga, (void *)(intptr_t)fd))
        close(fd);
}
