/* Hot-plug: the kernel's uevents bring CPUs, memory, NICs, ports, buttons and disks into use, without polling. */
#include "agent.h"
#include <linux/netlink.h>
#include <sys/socket.h>

/* Xen's hot-plug tells of a CPU before it marks it present, and until then the kernel refuses it
   (enable_hotplug_cpu in Linux's drivers/xen/cpu_hotplug.c), with nothing told when it no longer would. */
static void put_online(const char *devpath) {
    char path[512], state[8];
    snprintf(path, sizeof path, "/sys%s/online", devpath);
    for (int tries = 0; read_text(path, state, sizeof state) && state[0] == '0' && !write_text(path, "1"); tries++) {
        if (tries == 100) {
            log_line("%s cannot be put online: %s", devpath, strerror(errno));
            return;
        }
        sleep_ms(10);
    }
}

static void cpu_found(const char *name) {
    char path[300];
    snprintf(path, sizeof path, "/devices/system/cpu/%s", name);
    put_online(path);
}

static void memory_found(const char *name) {
    char path[300];
    snprintf(path, sizeof path, "/devices/system/memory/%s", name);
    put_online(path);
}

static const char *value_of(const char *event, size_t length, const char *key) {
    size_t key_length = strlen(key);
    for (const char *at = event; at < event + length; at += strlen(at) + 1)
        if (!strncmp(at, key, key_length) && at[key_length] == '=')
            return at + key_length + 1;
    return "";
}

static void handle(const char *event, size_t length) {
    const char *subsystem = value_of(event, length, "SUBSYSTEM"), *devpath = value_of(event, length, "DEVPATH");
    const char *slash = strrchr(devpath, '/'), *name = slash ? slash + 1 : "";
    const char *action = value_of(event, length, "ACTION");
    if (!strcmp(action, "remove") && !strcmp(subsystem, "net"))
        nic_removed(name);
    if (!strcmp(action, "change") && !strcmp(subsystem, "virtio-ports"))
        qga_open(name);
    if (strcmp(action, "add"))
        return;
    if (!strcmp(subsystem, "cpu") || !strcmp(subsystem, "memory"))
        put_online(devpath);
    else if (!strcmp(subsystem, "net"))
        nic_added(name);
    else if (!strcmp(subsystem, "virtio"))
        virtio_found(name);
    else if (!strcmp(subsystem, "virtio-ports"))
        qga_open(name);
    else if (!strcmp(subsystem, "input") && !strncmp(name, "event", 5))
        watch_button(name);
    else if (!strcmp(subsystem, "block"))
        state_count_boot(false);
}

static void look_around(void) {
    nic_added("lo");
    for_each("/sys/class/net", "", nic_added);
    for_each("/sys/class/virtio-ports", "vport", qga_open);
    for_each("/dev/input", "event", watch_button);
    for_each("/sys/devices/system/cpu", "cpu", cpu_found);
    for_each("/sys/devices/system/memory", "memory", memory_found);
}

void *uevent_loop(void *unused) {
    char event[16384];
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT), room = 1 << 20;
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK, .nl_groups = 1};
    if (fd < 0 || bind(fd, (void *)&kernel, sizeof kernel))
        log_line("BUG: no uevents: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    look_around(); /* after the socket is bound, so that nothing falls between the two */
    for (;;) {
        ssize_t got = recv(fd, event, sizeof event - 1, 0);
        if (got < 0 && errno == ENOBUFS) {
            look_around(); /* events were lost */
            continue;
        }
        if (got < 0) {
            sleep_ms(100);
            continue;
        }
        event[got] = 0;
        handle(event, (size_t)got);
    }
    return unused;
}
