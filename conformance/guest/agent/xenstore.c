/* Xen's store, which tells a guest about its devices: asked by the kernel's /dev/xen/xenbus, without a library. */
#include "agent.h"
#include <ctype.h>

/* Xen's public header xen/io/xs_wire.h; the store's path names are in docs/misc/xenstore-paths of Xen. */
enum { XS_READ = 2 };
struct message {
    uint32_t type, request, transaction, length;
};

/* The value at a path, which is the guest's own where it does not begin with a slash. False when there is none. */
bool xenstore_read(const char *path, char *into, size_t size) {
    struct message head = {.type = XS_READ, .length = (uint32_t)strlen(path) + 1};
    char request[sizeof head + 512], value[4096];
    bool read = false;
    if (head.length > sizeof request - sizeof head)
        return false;
    memcpy(request, &head, sizeof head);
    memcpy(request + sizeof head, path, head.length);
    int fd = open("/dev/xen/xenbus", O_RDWR | O_CLOEXEC);
    if (fd >= 0 && write_all(fd, request, sizeof head + head.length) && read_all(fd, &head, sizeof head) && head.length < sizeof value &&
        read_all(fd, value, head.length)) {
        value[head.length] = 0;
        read = head.type == XS_READ; /* an error comes as another type, with its name as the value */
        if (read)
            snprintf(into, size, "%s", value);
    }
    if (fd >= 0)
        close(fd);
    return read;
}

static int hex(char digit) {
    return isdigit((unsigned char)digit) ? digit - '0' : tolower((unsigned char)digit) - 'a' + 10;
}

/* The serial in what a backend calls its `params`: the second part of the file's name between dots, percent-encoded.
 * qcow2:/place/hvc-UUID.data0.qcow2 is data0. Empty when the name has no such part. */
void xen_serial(const char *params, char *into, size_t size) {
    const char *slash = strrchr(params, '/'), *at = strchr(slash ? slash : params, '.');
    const char *end = at ? strchr(at + 1, '.') : NULL;
    size_t length = 0;
    if (end)
        for (at++; at < end && length + 1 < size; at++) {
            bool coded = *at == '%' && isxdigit((unsigned char)at[1]) && isxdigit((unsigned char)at[2]);
            into[length++] = coded ? (char)(hex(at[1]) << 4 | hex(at[2])) : *at;
            at += coded ? 2 : 0;
        }
    into[length] = 0;
}

/* Xen's block devices have no serial. What the toolstack's backend serves is in the store, and is read there anew each
 * time: it is another backend after a migration. `node` is the device's own, such as device/vbd/51712. */
bool xen_disk_serial(const char *node, char *into, size_t size) {
    char path[512], backend[256], params[4096];
    snprintf(path, sizeof path, "%.400s/backend", node);
    if (!xenstore_read(path, backend, sizeof backend))
        return false;
    snprintf(path, sizeof path, "%s/params", backend);
    if (!xenstore_read(path, params, sizeof params))
        return false;
    xen_serial(params, into, size);
    return into[0];
}
